"""Names that users gave (donors, classes, genes, groups) as keys that files can hold, and back.

A key is the name itself wherever a file can hold it. Else the characters that no file holds are
written as in a web address, ``%2F`` for a slash. Two or more names make one key with ``|`` between
them. Names of more than about two hundred characters are cut, with a number that tells them apart;
their own spelling is then kept in ``uns["long_names"]``.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final

import numpy as np
import pandas as pd

LONG: Final = "long_names"  # the entry of `uns`

BETWEEN: Final = "|"
_EMPTY: Final = "%"
_CUT: Final = "%~"
_DIGEST: Final = 16
# of the 255 that a file system gives a name; a zarr store makes a folder of each
_BYTES: Final = 240
# a per cent sign only where it would read as ours, so that "30%" stays; a dot at the start and two
# underlines are names of zarr's own
_UNSAFE: Final = re.compile(r"[/\\\x00\ud800-\udfff]|%(?=[0-9A-F]{2}|~)|^\.|^_(?=_)")
_ESCAPE: Final = re.compile(r"(?:%[0-9A-F]{2})+")
_RESERVED: Final = ("zarr.json", "_index", _EMPTY)

_CODEC: Final = ("utf-8", "surrogatepass")

type Name = Hashable | tuple[Hashable, ...]
type Uns = Mapping[str, Any] | None


def key(name: Name) -> str:
    """The key of a name, or of several that go together."""
    names = [str(part) for part in (name if isinstance(name, tuple) else (name,))]
    escaped = [_escaped(part, within=len(names) > 1) for part in names]
    whole = BETWEEN.join(escaped)
    if len(whole.encode()) <= _BYTES:
        return whole
    room = (_BYTES - len(names) + 1) // len(names)
    return BETWEEN.join(_cut(*pair, room) for pair in zip(escaped, names, strict=True))


def own(key: str, uns: Uns = None) -> str:
    """The user's own name, from its key; of a long one with the help of the object's `uns`."""
    if _CUT in key:
        return str((uns or {}).get(LONG, {}).get(key, key))
    if key == _EMPTY:
        return ""
    return _ESCAPE.sub(_unescaped, key)


def parts(key: str, uns: Uns = None) -> tuple[str, ...]:
    """The names that went together into a key."""
    return tuple(own(part, uns) for part in key.split(BETWEEN))


def keys(names: Iterable[Name], what: str = "Names") -> list[str]:
    """The keys of names, all different: 1 and "1" would be one."""
    by_key: dict[str, list[Name]] = {}
    for name in names:
        by_key.setdefault(key(name), []).append(name)
    same = [name for alike in by_key.values() for name in alike if len(alike) > 1]
    if same:
        raise ValueError(
            f"{what} are the same as text: {', '.join(map(repr, same[:6]))}. Rename them, or merge "
            "what they name."
        )
    return list(by_key)


def long_ones(names: Iterable[Name]) -> dict[str, str]:
    """The names that were cut, by their keys."""
    long: dict[str, str] = {}
    for name in names:
        wholes, whole_key = name if isinstance(name, tuple) else (name,), key(name)
        pieces = whole_key.split(BETWEEN) if len(wholes) > 1 else [whole_key]
        pairs = zip(pieces, wholes, strict=True)
        long |= {piece: str(whole) for piece, whole in pairs if _CUT in piece}
    return long


def is_key(name: Any) -> bool:
    """Whether a file can hold the name as it is."""
    return isinstance(name, str) and key(name) == name


def own_columns(table: pd.DataFrame, uns: Uns = None) -> pd.DataFrame:
    """A table with the users' names for its columns."""
    return table.set_axis(own_index(table.columns, uns), axis=1)


def own_index(keys: Iterable[Any], uns: Uns = None) -> pd.Index:
    """The users' names of several keys."""
    return pd.Index([own(str(key), uns) for key in keys], dtype=object)


def own_keys[T](values: Mapping[str, T], uns: Uns = None) -> dict[str, T]:
    """Values by the users' names."""
    return {own(str(key), uns): value for key, value in values.items()}


def columns_of(*names: Sequence[Hashable]) -> pd.Index:
    """Columns that several names make together, as tuples, of which :func:`key` makes keys."""
    columns = np.empty(len(names[0]), dtype=object)
    columns[:] = list(zip(*names, strict=True))
    return pd.Index(columns, tupleize_cols=False)


def _escaped(name: str, *, within: bool) -> str:
    """Without what no file holds; among others also without what parts them."""
    if name in _RESERVED or name == "":
        return _EMPTY if name == "" else f"{_bytes(name[0])}{name[1:]}"
    text = _UNSAFE.sub(lambda match: _bytes(match.group()), name)
    return text.replace(BETWEEN, _bytes(BETWEEN)) if within else text


def _bytes(text: str) -> str:
    return "".join(f"%{byte:02X}" for byte in text.encode(*_CODEC))


def _unescaped(match: re.Match[str]) -> str:
    return bytes.fromhex(match.group().replace("%", "")).decode(*_CODEC)


def _cut(escaped: str, name: str, room: int) -> str:
    """The first of its bytes, and a number of the whole."""
    raw = escaped.encode()
    if len(raw) <= room:
        return escaped
    number = blake2b(name.encode(*_CODEC), digest_size=_DIGEST // 2).hexdigest()
    start = raw[: room - len(_CUT) - _DIGEST].decode("utf-8", "ignore")
    return f"{start}{_CUT}{number}"
