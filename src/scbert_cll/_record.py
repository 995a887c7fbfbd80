"""The one door through which results enter an AnnData.

Whatever a verb writes goes through :func:`write`: names become keys that files can hold
(:mod:`scbert_cll._names`), values become what an h5ad and a zarr store can hold, and either all of
it is put in place or nothing. What a verb was called with is taken by :func:`params`, every keyword
by the same rule.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from itertools import chain, starmap
from operator import delitem, setitem
from os import PathLike
from pathlib import PurePath, PurePosixPath, PureWindowsPath
from typing import Any, Final, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _checks, _names
from scbert_cll._checks.words import key_in
from scbert_cll._process import uninterrupted
from scbert_cll._strings import plain_strings

NOTHING: Final = "none"  # None, which not every file holds
_X: Final = "X"  # None as a layer
_FEW: Final = 50  # values of an array, or entries of a dict, that are recorded as they are

NOT_RECORDED: Final[Mapping[str, str]] = {
    "adata": "the object itself",
    "data": "the object itself",
    "copy": "where the result goes, not what it is",
    "key_added": "the name of the entry",
    "checkpoint": "a folder of this machine; what is computed does not depend on it",
    "checkpoint_dir": "a folder of this machine; what is computed does not depend on it",
}

_TABLES: Final = ("obs", "var")
_MAPPINGS: Final = ("obsm", "varm", "layers", "uns")

type Place = tuple[str, str]  # slot and key, such as ("obsm", "X_scbert")


def params(given: Mapping[str, Any]) -> dict[str, Any]:
    """Every argument of a verb as plain values, from the `locals()` of its first line.

    Further keywords by their own names.
    """
    asked = dict(given)
    asked |= asked.pop("train", {})
    return {
        name: _X if name == "layer" and value is None else _plain(value)
        for name, value in asked.items()
        if name not in NOT_RECORDED
    }


def write(adata: AnnData, *, replaces: Iterable[Place] = (), **slots: Mapping[str, Any]) -> None:
    """Put results into slots, all of them or none.

    Parameters
    ----------
    adata
        The object that is written to.
    replaces
        Places of an earlier result of the same verb. Those that are not written anew are removed,
        lest old and new be read together.
    **slots
        Values by key for each of ``obs``, ``obsm``, ``var``, ``varm``, ``layers`` and ``uns``. Keys
        of dicts and columns of tables may be any names; a tuple is several that go together.
    """
    long: dict[str, str] = {}
    made = {
        (slot, key): _of_obs(value)
        if slot in ("obs", "var")
        else storable(value, long, rows=slot in ("obsm", "varm"))
        for slot, values in slots.items()
        for key, value in values.items()
    }
    if long:
        made["uns", _names.LONG] = dict(adata.uns.get(_names.LONG, {})) | long
    old = [
        place for place in replaces if place not in made and place[1] in getattr(adata, place[0])
    ]
    put = [(getattr(adata, slot), key, value) for (slot, key), value in made.items()]
    gone = [(getattr(adata, slot), key) for slot, key in old]
    with uninterrupted(), untouched_on_error(adata):
        deque(
            chain(starmap(setitem, put), starmap(delitem, gone)), maxlen=0
        )  # one line, which nothing of ours can cut
        plain_strings(adata)


def read(
    adata: Any,
    key: str,
    verb: str,
    parts: Iterable[str] = (),
    *,
    missing: str = "",
    hint: str = "",
    bare: bool = False,
) -> Mapping[str, Any]:
    """What a verb wrote to `uns`, with all the parts that are needed.

    Parameters
    ----------
    adata
        The object that it was written to; with `bare` also one without cells or genes.
    key
        Name of the entry.
    verb
        Who writes it, as a user calls it: ``"tl.signature"``.
    parts
        Names in the entry without which it is of no use.
    missing
        What to do where a part is missing. By default the entry is taken for another verb's.
    hint
        A further sentence where there is no such entry.
    """
    entries = (_checks.adata.in_memory if bare else _checks.adata.anndata)(adata).uns
    key_in(key, entries, "adata.uns", " ".join(filter(None, [f"Run {verb} first.", hint])))
    record = cast("Mapping[str, Any]", entries[key])
    for part in parts:
        remedy = missing or f"It was not written by {verb}."
        key_in(part, record, f"adata.uns[{key!r}]", remedy)
    return record


def named(
    names: str | Iterable[str] | None, existing: Iterable[Any], where: str, remedy: str = ""
) -> list[str]:
    """Names that a caller gave, each once and all existing; without any, those that exist."""
    existing = [str(name) for name in dict.fromkeys(existing)]
    if names is None:
        return existing
    given = list(dict.fromkeys([names] if isinstance(names, str) else names))
    for name in given:
        key_in(name, existing, where, remedy)
    return given


def become(adata: AnnData, new: AnnData) -> None:
    """Make the user's object hold the rows of another.

    Anndata itself does so where a view becomes actual.
    """
    before = dict(vars(adata))
    with uninterrupted():
        try:
            plain_strings(new)
            adata._init_as_actual(new)  # type: ignore[no-untyped-call]
        except BaseException:
            vars(adata).clear()
            vars(adata).update(before)
            raise


@contextmanager
def untouched_on_error(adata: AnnData) -> Iterator[None]:
    """Take back all that was written to the slots within, also by others (scvi-tools), when a step of it fails."""
    frames = {slot: cast("pd.DataFrame", getattr(adata, slot)).copy(deep=False) for slot in _TABLES}
    others = {slot: _entries(getattr(adata, slot)) for slot in _MAPPINGS}
    try:
        yield
    except BaseException:
        with uninterrupted():
            for slot, frame in frames.items():
                _columns_back(getattr(adata, slot), frame)
            for slot, entries in others.items():
                _entries_back(getattr(adata, slot), entries)
        raise


def _columns_back(now: pd.DataFrame, before: pd.DataFrame) -> None:
    """Columns of a table of the user's; the table stays the same object."""
    for name in [name for name in now if name not in before]:
        del now[name]
    for name in before:
        if name not in now or not (
            now[name].dtype == before[name].dtype and now[name].equals(before[name])
        ):
            now[name] = before[name]


def _entries(slot: Mapping[Any, Any]) -> dict[Any, Any]:
    """What is in a slot.

    X, which some versions of anndata list among the layers under None, is no entry.
    """
    return {name: slot[name] for name in slot if name is not None}


def _entries_back(now: MutableMapping[Any, Any], before: Mapping[Any, Any]) -> None:
    """Entries of a slot, each the object that it was."""
    for name in [name for name in _entries(now) if name not in before]:
        del now[name]
    for name, value in before.items():
        if name not in now or now[name] is not value:
            now[name] = value


def storable(value: Any, long: dict[str, str], *, rows: bool = False) -> Any:
    """A value that files can hold; `long` takes the names that were cut.

    With `rows` the index is that of cells or genes and stays.
    """
    if value is None:
        return NOTHING
    if isinstance(value, Mapping):
        found = _keys(value, long)
        return {key: storable(part, long) for key, part in zip(found, value.values(), strict=True)}
    if isinstance(value, pd.DataFrame):
        return _table(value, long, rows=rows)
    if isinstance(value, np.ndarray):
        return (
            value
            if value.dtype.kind in "biuf"
            else np.array([_text(one) for one in value.ravel()], dtype=object)
        )
    if isinstance(value, (list, tuple, set, frozenset, pd.Index, pd.Series)):
        return _list(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    if isinstance(
        value, (pd.Categorical, bool, int, float, np.number, np.bool_)
    ) or sparse.issparse(value):
        return value
    return str(value)


def _keys(names: Iterable[Hashable], long: dict[str, str]) -> list[str]:
    """File-safe keys of names."""
    given = list(names)
    long |= _names.long_ones(given)
    return _names.keys(given)


def _table(table: pd.DataFrame, long: dict[str, str], *, rows: bool) -> pd.DataFrame:
    """Columns under keys, each of one type, with text for an index."""
    made = table.set_axis(_keys(table.columns, long), axis=1)
    for name in [name for name in made if _is_loose(made[name])]:
        made[name] = _of_obs(made[name])
    if rows:
        return made
    name = made.index.name
    made.index = pd.Index([_text(one) for one in made.index], dtype=object)
    return made if name is None or str(name) in made else made.rename_axis(str(name))


def _is_loose(column: pd.Series) -> bool:
    """Text, or objects of whatever type."""
    return column.dtype == object or isinstance(column.dtype, pd.StringDtype)


def _of_obs(column: Any) -> Any:
    """A column of one type: text, with categories where it is missing.

    Else numbers, or whatever there is as text.
    """
    if not isinstance(column, pd.Series) or not _is_loose(column):
        return column
    known = column.dropna()
    if not len(known) or all(
        isinstance(one, (bool, int, float, np.number, np.bool_)) for one in known
    ):
        return column.astype(
            known.infer_objects().dtype if len(known) == len(column) and len(known) else np.float64
        )
    text = (
        column.astype(object)
        .where(column.notna(), None)
        .map(_text, na_action="ignore")
        .astype(object)
    )
    return text if len(known) == len(column) else text.astype("category")


def _list(values: Any) -> Any:
    """Values of one type as they are, others as text."""
    found = list(values)
    kinds = {bool if isinstance(one, (bool, np.bool_)) else type(one) for one in found}
    numbers = all(issubclass(kind, (int, float, np.number)) and kind is not bool for kind in kinds)
    if kinds <= {str} or kinds <= {bool} or numbers:
        return found
    return [_text(one) for one in found]


def _text(value: Any) -> str:
    return NOTHING if value is None else str(value)


def _plain(value: Any) -> Any:
    """An argument as numbers, text, lists and dicts.

    Of what is large, or is no value, its kind and size.
    """
    if value is None:
        return NOTHING
    if isinstance(value, (np.generic, np.ndarray)) and value.size <= _FEW:
        return _plain(value.tolist())
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (str, PathLike)):
        return _without_folder(value)
    if isinstance(value, Mapping) and len(value) <= _FEW:
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(part) for part in value]
    if hasattr(value, "shape") or isinstance(value, Mapping):
        shape = getattr(value, "shape", None) or (len(value),)
        return f"{type(value).__name__}, {' × '.join(map(str, shape))}"
    return getattr(value, "__qualname__", type(value).__name__)


def _without_folder(value: str | PathLike[str]) -> str:
    """No path of this machine in what others are going to read."""
    if not isinstance(value, str):
        return PurePath(value).name
    is_path = PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()
    return PurePath(value).name if is_path else value
