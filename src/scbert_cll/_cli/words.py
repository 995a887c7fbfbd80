"""Functions in the words of the command line: parameters and their sentences as options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import is_dataclass
from typing import Final, Literal, get_args, get_origin

from docstring_parser import DocstringStyle, parse

type Function = Callable[..., object]
type Described = dict[str, tuple[inspect.Parameter, str]]

# options of commands that have not the name of the Python parameter
_ALIASES: Final = {
    "rna_key": "modality",
    "rng": "seed",
    "method": "label",
    "groupby": "labels_key",
    "paths": "files",
}
_COMMANDS: Final = {
    "pp.build_corpus": "corpus",
    "tl.predict_corpus": "predict",
    **{f"tl.{name}": name for name in ("pretrain", "finetune", "predict", "signature")},
}
_VALUE: Final = r"""'[^']*'|"[^"]*"|\[[^\]]*\]|\([^)]*\)|\{[^}]*\}|[\w.+-]*\w|…|\.\.\."""
_QUOTED: Final = r"""(?<!\w)'[^'\n]*'(?!\w)|(?<!\w)"[^"\n]*"(?!\w)"""
_CALL: Final = r"\b[\w']+(?:[\[.][\w'\]]+)*\.\w+\((?:[^()]|\([^()]*\))*\)"
_PATH: Final = r"(?<!\w)[\w.-]*/\S*"
_WORDS: Final = re.compile(
    rf"(?P<skip>{_QUOTED}|{_CALL}|{_PATH})"
    rf"|(?:(?P<verb>\bpass|\bwith|\bgive) "
    rf")?\b(?P<name>[a-z][a-z0-9_]*)=(?P<value>{_VALUE})?(?: of (?P<of>(?:pp|tl)\.\w+))?"
    r"|(?<![\w.'\"/-])(?P<bare>[a-z0-9]+(?:_[a-z0-9]+)+)(?![\w./(\[-]|\.\w)"
)


def group_of(parameter: inspect.Parameter) -> type | None:
    """The dataclass that a parameter is to be, where it is one."""
    kind = parameter.annotation
    return kind if isinstance(kind, type) and is_dataclass(kind) else None


def described_of(function: Function) -> Described:
    """Parameters of a command with their help, among them those of its groups of options."""
    texts: dict[str, str] = {}
    kinds = reversed(function.__mro__) if isinstance(function, type) else [function]
    for kind in kinds:  # a group may build on another
        for entry in parse(kind.__doc__ or "", style=DocstringStyle.NUMPYDOC).params:
            texts |= dict.fromkeys(entry.arg_name.split(", "), entry.description or "")
    described: Described = {}
    parameters = inspect.signature(function, eval_str=True).parameters
    for name, parameter in parameters.items():
        group = group_of(parameter)
        if group is None:
            described[name] = parameter, " ".join(texts[name].split())
        else:
            described |= described_of(group)
    return described


def options_of(*functions: Function) -> dict[str, tuple[str, ...]]:
    """Options of commands or groups, each with its words where only some are possible."""
    options: dict[str, tuple[str, ...]] = {}
    for function in functions:
        for name, (parameter, _) in described_of(function).items():
            kind = parameter.annotation
            options[name] = get_args(kind) if get_origin(kind) is Literal else ()
    return options


def typed(parameter: inspect.Parameter) -> str:
    """A parameter as it is typed."""
    name = parameter.name
    return flag(name) if parameter.kind is parameter.KEYWORD_ONLY else name.upper()


def needed_by(described: Described) -> list[inspect.Parameter]:
    """Parameters without a default."""
    return [p for p, _ in described.values() if p.default is p.empty]


def in_options(sentence: str, options: Mapping[str, Collection[str]]) -> str:
    """A sentence with the command's options for its parameters; others are marked as Python's.

    Parameters
    ----------
    sentence
        Message of a function, e.g. "Choose one with protein_key=."
    options
        Options of the command, as Python names, each with its words where only some are possible.
    """
    aliases = {name: option for name, option in _ALIASES.items() if option in options}
    names = aliases | {name: name for name in options}

    def replaced(match: re.Match[str]) -> str:
        if match["skip"]:
            return match[0]
        if match["bare"]:
            return flag(names[match["bare"]]) if match["bare"] in names else match[0]
        name, value, verb = match["name"], match["value"] or "", match["verb"] or ""
        before = f"{verb} " if verb else ""
        if match["of"] in _COMMANDS:
            return f"{before}{flag(name)} of the command {_COMMANDS[match['of']]}"
        rest = f" of {match['of']}" if match["of"] else ""
        words = options[names[name]] if name in names else ()
        if name not in names or (words and value and value.strip("'\"") not in words):
            return f"{before}{name}{' ' * bool(value)}{value} (in Python){rest}"
        option = flag(names[name])
        if value in ("None", "False"):
            without = {"pass": f"leave out {option}", "with": f"without {option}"}
            return without.get(verb, f"no {option}") + rest
        value = "" if value in ("", "True", "[...]") else " " + value.strip("'\"")
        return f"{before}{option}{value}{rest}"

    return _WORDS.sub(replaced, sentence)


def flag(name: str) -> str:
    """An option as it is typed."""
    return "--" + name.replace("_", "-")
