"""Checks of lists that say what a folder of ours holds: whole by their own checksum, and every value of the kind that is read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from scbert_cll._checks.words import listed

NUMBER: Final = (int, float)
_PLAIN_NAME: Final = re.compile(r"[^/\\]+(/[^/\\]+)*")
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
    """An object that has at least these names, each with a value of its kind.

    Those of `more` may be absent.
    """

    needed: Mapping[str, Any]
    more: Mapping[str, Any] = {}


class Each(NamedTuple):
    """An object of any names that a pattern allows (files: relative ones that do not lead up), each with a value of one kind."""

    kind: Any
    name: str = ".*"


FILES: Final = "files"  # a pattern of its own


def readable_list(
    record: Mapping[str, Any], kind: Any, file: Path, *, is_whole: bool | None, remedy: str
) -> None:
    """Every value is of the kind that is read, and the checksum of the whole is right.

    None: the format has none.
    """
    if is_whole is False:
        said = "differs from what it holds" if "checksum" in record else "is missing"
        raise ValueError(f"{file} is damaged: its checksum of itself {said}. {remedy}")
    if problems := list(misfits(record, kind)):
        raise ValueError(f"{file} is damaged: {'; '.join(problems[:5])}. {remedy}")


def misfits(value: Any, kind: Any, where: str = "") -> Iterator[str]:
    """Say which values are of another kind: where, what was expected, what was found."""
    at = where or "the whole"
    if isinstance(kind, Maybe):
        if value is not None:
            yield from misfits(value, kind.kind, where)
    elif isinstance(kind, Keys):
        yield from (
            _of_keys(value, kind, where)
            if isinstance(value, dict)
            else [f"{at} is no object: {value!r:.60}"]
        )
    elif isinstance(kind, Each):
        yield from (
            _of_each(value, kind, where)
            if isinstance(value, dict)
            else [f"{at} is no object: {value!r:.60}"]
        )
    elif isinstance(kind, list):
        if not isinstance(value, list):
            yield f"{at} is no list: {value!r:.60}"
            return
        for i, one in enumerate(value):
            yield from misfits(one, kind[0], f"{where}[{i}]")
    elif isinstance(kind, tuple) and kind != NUMBER:
        if not isinstance(value, list) or len(value) != len(kind):
            yield f"{at} is no list of {len(kind)}: {value!r:.60}"
            return
        for i, (one, its) in enumerate(zip(value, kind, strict=True)):
            yield from misfits(one, its, f"{where}[{i}]")
    elif not _is_plain(value, kind):
        yield (
            f"{at} must be {_WORDS.get(kind) or f'one that matches {kind.pattern}'}, found "
            f"{value!r:.60}"
        )


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
    for name, its in {**kind.needed, **kind.more}.items():
        if name in value:
            yield from misfits(value[name], its, f"{where}.{name}".lstrip("."))


def _of_each(value: dict[str, Any], kind: Each, where: str) -> Iterator[str]:
    right = _is_inside if kind.name == FILES else re.compile(kind.name, re.DOTALL).fullmatch
    if wrong := [name for name in value if not right(name)]:
        what = "files of the folder" if kind.name == FILES else kind.name
        yield f"{where} must name {what}, found {listed(wrong)}"
    for name, one in value.items():
        yield from misfits(one, kind.kind, f"{where}[{name!r}]")


def _is_inside(name: str) -> bool:
    """Whether a file's name stays in its folder."""
    return (
        _PLAIN_NAME.fullmatch(name) is not None
        and not {".", ".."} & set(name.split("/"))
        and ":" not in name
    )
