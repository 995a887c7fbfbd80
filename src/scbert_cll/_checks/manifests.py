"""Checks of lists that say what a folder of ours holds: whole by their checksum, of known kinds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from scbert_cll._checks.words import listed

FILES: Final = "files"  # a pattern of its own: relative names that do not lead up
NUMBER: Final = (int, float)
_PART: Final = r"(?!\.{1,2}(/|\Z))[^/\\:]+"  # of a path; not one that leads up
_PLAIN_NAME: Final = re.compile(rf"{_PART}(/{_PART})*")
_WORDS: Final = {
    int: "a whole number from 0",
    str: "text",
    bool: "true or false",
    NUMBER: "a number",
}


class Maybe(NamedTuple):
    """A kind of value, or null."""

    kind: Any


class Keys(NamedTuple):
    """An object that has at least the `needed` names, each with a value of its kind.

    Those of `optional` may be absent.
    """

    needed: Mapping[str, Any]
    optional: Mapping[str, Any] = {}


class Each(NamedTuple):
    """An object of any names that a pattern allows, each with a value of one kind."""

    kind: Any
    name: str = ".*"


def readable_list(
    record: Mapping[str, Any], kind: Any, file: Path, *, is_whole: bool | None, remedy: str
) -> None:
    """Refuse a list with a value of another kind than is read, or with a wrong checksum.

    `is_whole` is None where the format has no checksum.
    """
    if is_whole is False:
        wrong = "differs from what it holds" if "checksum" in record else "is missing"
        problems = [f"its checksum of itself {wrong}"]
    else:
        problems = list(misfits(record, kind))
    if problems:
        raise ValueError(f"{file} is damaged: {'; '.join(problems[:5])}. {remedy}")


def misfits(value: Any, kind: Any, where: str = "") -> Iterator[str]:
    """Say which values are of another kind: where, what was expected, what was found."""
    at = where or "the whole"
    if isinstance(kind, Maybe):
        if value is not None:
            yield from misfits(value, kind.kind, where)
    elif isinstance(kind, Keys | Each) and not isinstance(value, dict):
        yield f"{at} is no object: {value!r:.60}"
    elif isinstance(kind, Keys):
        yield from _of_keys(value, kind, where)
    elif isinstance(kind, Each):
        yield from _of_each(value, kind, where)
    elif isinstance(kind, list):
        if not isinstance(value, list):
            yield f"{at} is no list: {value!r:.60}"
            return
        for i, item in enumerate(value):
            yield from misfits(item, kind[0], f"{where}[{i}]")
    elif isinstance(kind, tuple) and kind != NUMBER:
        if not isinstance(value, list) or len(value) != len(kind):
            yield f"{at} is no list of {len(kind)}: {value!r:.60}"
            return
        for i, (item, of_item) in enumerate(zip(value, kind, strict=True)):
            yield from misfits(item, of_item, f"{where}[{i}]")
    elif not _is_plain(value, kind):
        expected = _WORDS.get(kind) or f"one that matches {kind.pattern}"
        yield f"{at} must be {expected}, found {value!r:.60}"


def _is_plain(value: Any, kind: Any) -> bool:
    """Whether a value is text, a number, or text of a pattern; true is no number."""
    if isinstance(kind, re.Pattern):
        return isinstance(value, str) and kind.fullmatch(value) is not None
    if kind is not bool and isinstance(value, bool):
        return False
    return isinstance(value, kind) and not (kind is int and value < 0)


def _of_keys(value: dict[str, Any], kind: Keys, where: str) -> Iterator[str]:
    if absent := [name for name in kind.needed if name not in value]:
        yield f"{where or 'it'} lacks {', '.join(sorted(absent))}"
    for name, of_item in {**kind.needed, **kind.optional}.items():
        if name in value:
            yield from misfits(value[name], of_item, f"{where}.{name}".lstrip("."))


def _of_each(value: dict[str, Any], kind: Each, where: str) -> Iterator[str]:
    is_right, what = re.compile(kind.name, re.DOTALL).fullmatch, kind.name
    if kind.name == FILES:
        is_right, what = _PLAIN_NAME.fullmatch, "files of the folder"
    if wrong := [name for name in value if not is_right(name)]:
        yield f"{where} must name {what}, found {listed(wrong)}"
    for name, item in value.items():
        yield from misfits(item, kind.kind, f"{where}[{name!r}]")
