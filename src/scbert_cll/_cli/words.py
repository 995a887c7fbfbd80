"""Sentences of Python functions in the words of the command line: options for parameters."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

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
        verb_and_blank = verb + " " * bool(verb)
        if match["of"] in _COMMANDS:
            return f"{verb_and_blank}{flag(name)} of the command {_COMMANDS[match['of']]}"
        rest = f" of {match['of']}" if match["of"] else ""
        words = options[names[name]] if name in names else ()
        if name not in names or (words and value and value.strip("'\"") not in words):
            return f"{verb_and_blank}{name}{' ' * bool(value)}{value} (in Python){rest}"
        option = flag(names[name])
        if value in ("None", "False"):
            without = {"pass": f"leave out {option}", "with": f"without {option}"}
            return without.get(verb, f"no {option}") + rest
        value = "" if value in ("", "True") else " " + value.strip("'\"")
        return f"{verb_and_blank}{option}{value}{rest}"

    return _WORDS.sub(replaced, sentence)


def flag(name: str) -> str:
    """An option as it is typed."""
    return "--" + name.replace("_", "-")
