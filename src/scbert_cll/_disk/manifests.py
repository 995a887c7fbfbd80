"""Lists that say what a folder of ours holds: whole by their checksum, of known kinds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from scbert_cll._checks.words import listed
from scbert_cll._disk import formats
from scbert_cll._disk.formats import CHECKSUM, Json

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

    kind: object


class Keys(NamedTuple):
    """An object that has at least the `needed` names, each with a value of its kind.

    Those of `optional` may be absent.
    """

    needed: Mapping[str, object]
    optional: Mapping[str, object] = {}


class Each(NamedTuple):
    """An object of any names that a pattern allows, each with a value of one kind."""

    kind: object
    name: str = ".*"


class Format(NamedTuple):
    """A list of one format: its name in the list, and what the list is of."""

    name: str
    what: str
    version: int
    sealed: int  # the first version with a checksum of itself
    writers: Sequence[str]  # libraries, whose versions are in the list
    kinds: Keys
    remedy: str

    def complete(self, record: Json, sums: Mapping[str, object]) -> Json:
        """A list to be written, with checksums of its files and of itself."""
        head = {"format": self.name, "format_version": self.version}
        head |= {"versions": formats.versions(*self.writers), "sha256": sums}
        return formats.sealed({**head, **record})

    def read(self, file: Path) -> Json:
        """A list as it was written.

        Raises
        ------
        ValueError
            It is of something else, of a newer version, or damaged.
        """
        record, folder = formats.read_json(file), file.parent
        if record.get("format") != self.name:
            raise ValueError(
                f"{folder} is not {self.what} of scbert_cll: its {file.name} does not say format = "
                f"{self.name!r}."
            )
        version = record.get("format_version")
        if isinstance(version, int) and version > self.version:
            raise ValueError(
                f"{folder} was written by a newer scbert_cll (format {version}, this version reads "
                f"{self.version}); upgrade scbert_cll to read it."
            )
        problems = _absent(record, self.kinds)
        is_old = version in range(1, self.sealed) and CHECKSUM not in record
        if not problems and not is_old and not formats.is_sealed(record):
            wrong = "differs from what it holds" if CHECKSUM in record else "is missing"
            problems = [f"its checksum of itself {wrong}"]
        self.refuse(problems or misfits(record, self.kinds), file)
        return record

    def lists(self, record: Json, names: Iterable[str], file: Path) -> None:
        """Refuse a list without files that every one of them has."""
        absent = [name for name in names if name not in record["sha256"]]
        self.refuse([f"it does not list {', '.join(absent)}"] if absent else [], file)

    def refuse(self, problems: Iterable[str], file: Path) -> None:
        """Say what is wrong with a file, if anything is."""
        if some := list(islice(problems, 5)):
            raise ValueError(f"{file} is damaged: {'; '.join(some)}. {self.remedy}")


def misfits(value: Any, kind: Any, where: str = "") -> Iterator[str]:
    """Say which values are of another kind: where, what was expected, what was found."""
    at, n_items = where or "the whole", ""
    if isinstance(kind, Maybe):
        if value is not None:
            yield from misfits(value, kind.kind, where)
    elif isinstance(kind, Keys | Each) and not isinstance(value, dict):
        yield f"{at} is no object: {value!r:.60}"
    elif isinstance(kind, Keys):
        yield from _absent(value, kind, where or "it")
        for name, of_item in {**kind.needed, **kind.optional}.items():
            if name in value:
                yield from misfits(value[name], of_item, f"{where}.{name}".lstrip("."))
    elif isinstance(kind, Each):
        is_right, what = re.compile(kind.name, re.DOTALL).fullmatch, kind.name
        if kind.name == FILES:
            is_right, what = _PLAIN_NAME.fullmatch, "files of the folder"
        if wrong := [name for name in value if not is_right(name)]:
            yield f"{where} must name {what}, found {listed(wrong)}"
        for name, item in value.items():
            yield from misfits(item, kind.kind, f"{where}[{name!r}]")
    elif isinstance(kind, list | tuple) and kind != NUMBER:
        kinds = kind
        if isinstance(kind, tuple):
            n_items = f" of {len(kind)}"
        elif isinstance(value, list):
            kinds = kind * len(value)
        if not isinstance(value, list) or len(value) != len(kinds):
            yield f"{at} is no list{n_items}: {value!r:.60}"
            return
        for i, (item, of_item) in enumerate(zip(value, kinds, strict=True)):
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


def _absent(value: Json, kind: Keys, where: str = "it") -> list[str]:
    absent = sorted(name for name in kind.needed if name not in value)
    return [f"{where} lacks {', '.join(absent)}"] if absent else []
