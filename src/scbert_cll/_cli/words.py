"""Sentences of Python functions in the words of the command line: options for parameters."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

# What a Python parameter is called on the command line, where it is not the same word
_ALIASES: Final[Mapping[str, Mapping[str, str]]] = {
    "demo": {"method": "label", "rna_key": "modality"},
    "corpus": {"rna_key": "modality", "out": "out", "paths": "files"},
    "pretrain": {"rna_key": "modality"},
    "finetune": {"rna_key": "modality", "groupby": "labels_key"},
    "predict": {"rna_key": "modality"},
    "signature": {"rna_key": "modality", "groupby": "labels_key"},
}
_OF_ALL: Final[Mapping[str, str]] = {"rng": "seed"}
_COMMAND_OF: Final = {
    "pp.build_corpus": "corpus",
    "tl.pretrain": "pretrain",
    "tl.finetune": "finetune",
    "tl.predict": "predict",
    "tl.predict_corpus": "predict",
    "tl.signature": "signature",
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


def in_options(sentence: str, command: str, options: Mapping[str, Collection[str]]) -> str:
    """A sentence with the command's options for its parameters; others are marked as Python's.

    Parameters
    ----------
    sentence
        What a function says, e.g. "Choose one with protein_key=."
    command
        The command that was called.
    options
        Its options, as Python names, each with the words it may be, if it may not be anything.
    """
    known = {name: name for name in options} | {
        name: option
        for name, option in [*_OF_ALL.items(), *_ALIASES.get(command, {}).items()]
        if option in options
    }
    return _WORDS.sub(lambda found: _said(found, known, options), sentence)


def flag(name: str) -> str:
    """An option as it is typed."""
    return "--" + name.replace("_", "-")


def _said(
    found: re.Match[str], known: Mapping[str, str], options: Mapping[str, Collection[str]]
) -> str:
    if found["skip"]:
        return found[0]
    if found["bare"]:
        return flag(known[found["bare"]]) if found["bare"] in known else found[0]
    name, value, verb = found["name"], found["value"] or "", found["verb"]
    if found["of"] in _COMMAND_OF:
        return _with(verb, f"{flag(name)} of the command {_COMMAND_OF[found['of']]}")
    rest = f" of {found['of']}" if found["of"] else ""
    words = options[known[name]] if name in known else ()
    if name not in known or (words and value and value.strip("'\"") not in words):
        return _with(verb, f"{name}{' ' * bool(value)}{value} (in Python){rest}")
    option = flag(known[name])
    if value in ("None", "False"):
        return {"pass": f"leave out {option}", "with": f"without {option}"}.get(
            verb or "", f"no {option}"
        ) + rest
    shown = "" if value == "True" else f" {value.strip(chr(39) + chr(34))}" * bool(value)
    return _with(verb, option + shown + rest)


def _with(verb: str | None, text: str) -> str:
    return f"{verb} {text}" if verb else text
