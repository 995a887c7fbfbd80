"""The one door through which results enter an AnnData.

Whatever a verb writes goes through :func:`write`: names become keys that files can hold
(:mod:`scbert_cll._names`), values become what an h5ad and a zarr store can hold, and either all of
it is put in place or nothing. What a verb was called with is taken by :func:`params`, every keyword
by the same rule.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from itertools import chain, starmap
from operator import delitem, is_, setitem
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

NOTHING: Final = "none"  # None, which not every file holds
_X: Final = "X"  # None as a layer
# values of an array, or entries of a dict, that are recorded as they are
_FEW: Final = 50

NOT_RECORDED: Final[Mapping[str, str]] = {
    "adata": "the object itself",
    "data": "the object itself",
    "copy": "where the result goes, not what it is",
    "key_added": "the name of the entry",
    "checkpoint": "a folder of this machine; what is computed does not depend on it",
    "checkpoint_dir": "a folder of this machine; what is computed does not depend on it",
}

_TABLES: Final = ("obs", "var")
_REAL: Final = (int, float, np.number)
_NUMBERS: Final = (*_REAL, bool, np.bool_)
_MAPPINGS: Final = ("obsm", "varm", "layers", "uns")

type Place = tuple[str, str]  # slot and key, such as ("obsm", "X_scbert")
type Values = Mapping[str, Any]
type Names = str | Iterable[str] | None


def params(given: Mapping[str, Any]) -> dict[str, Any]:
    """Every argument of a verb as plain values, from the `locals()` of its first line.

    Further keywords by their own names.
    """
    arguments = dict(given)
    arguments |= arguments.pop("train", {})
    return {
        name: _X if name == "layer" and value is None else _plain(value)
        for name, value in arguments.items()
        if name not in NOT_RECORDED
    }


def write(adata: AnnData, *, replaces: Iterable[Place] = (), **slots: Values) -> None:
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
    new = {
        (slot, key): _of_obs(value)
        if slot in _TABLES
        else storable(value, long, rows=slot in ("obsm", "varm"))
        for slot, values in slots.items()
        for key, value in values.items()
    }
    if long:
        new["uns", _names.LONG] = dict(adata.uns.get(_names.LONG, {})) | long
    put = [(getattr(adata, slot), key, value) for (slot, key), value in new.items()]
    gone = [
        (getattr(adata, slot), key)
        for slot, key in replaces
        if (slot, key) not in new and key in getattr(adata, slot)
    ]
    steps = chain(starmap(setitem, put), starmap(delitem, gone))
    with uninterrupted(), untouched_on_error(adata):
        deque(steps, maxlen=0)  # one line, which nothing of ours can cut
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
    key_in(key, entries, "adata.uns", f"Run {verb} first. {hint}".rstrip())
    record = cast("Mapping[str, Any]", entries[key])
    for part in parts:
        remedy = missing or f"It was not written by {verb}."
        key_in(part, record, f"adata.uns[{key!r}]", remedy)
    return record


def named(names: Names, valid: Iterable[Any], where: str, hint: str = "") -> list[str]:
    """Names that a caller gave, each once and all existing; without any, those that exist."""
    valid = [str(name) for name in dict.fromkeys(valid)]
    if names is None:
        return valid
    given = list(dict.fromkeys([names] if isinstance(names, str) else names))
    for name in given:
        key_in(name, valid, where, hint)
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
    """Take back all that was written to the slots within, also by others, when a step fails."""
    frames = {slot: getattr(adata, slot).copy(deep=False) for slot in _TABLES}
    entries = {slot: _entries(getattr(adata, slot)) for slot in _MAPPINGS}
    try:
        yield
    except BaseException:
        with uninterrupted():
            for slot, frame in frames.items():
                table = getattr(adata, slot)
                _put_back(table, list(table), frame, _is_same_column)
            for slot, before in entries.items():
                store = getattr(adata, slot)
                _put_back(store, list(_entries(store)), before, is_)
        raise


def _put_back(now: Any, names: list[Any], before: Any, same: Callable[[Any, Any], bool]) -> None:
    """Columns of a user's table, or entries of a slot, as before; `now` stays the same object."""
    for name in [name for name in names if name not in before]:
        del now[name]
    for name, value in before.items():
        if name not in now or not same(now[name], value):
            now[name] = value


def _is_same_column(now: pd.Series, before: pd.Series) -> bool:
    return now.dtype == before.dtype and now.equals(before)


def _entries(slot: Mapping[Any, Any]) -> dict[Any, Any]:
    """Entries of a slot without X, which some versions of anndata list as a layer called None."""
    return {name: slot[name] for name in slot if name is not None}


def storable(value: Any, long: dict[str, str], *, rows: bool = False) -> Any:
    """A value that files can hold; `long` takes the names that were cut.

    With `rows` the index is that of cells or genes and stays.
    """
    if value is None:
        return NOTHING
    if isinstance(value, Mapping):
        keys = _keys(value, long)
        parts = [storable(part, long) for part in value.values()]
        return dict(zip(keys, parts, strict=True))
    if isinstance(value, pd.DataFrame):
        return _table(value, long, rows=rows)
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "biuf":
            return value
        return np.array([_text(v) for v in value.ravel()], dtype=object)
    if isinstance(value, (list, tuple, set, frozenset, pd.Index, pd.Series)):
        return _list(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return str(value)
    if isinstance(value, (pd.Categorical, *_NUMBERS)) or sparse.issparse(value):
        return value
    return str(value)


def _keys(names: Iterable[_names.Name], long: dict[str, str]) -> list[str]:
    """File-safe keys of names."""
    names = list(names)
    long |= _names.long_ones(names)
    return _names.keys(names)


def _table(table: pd.DataFrame, long: dict[str, str], *, rows: bool) -> pd.DataFrame:
    """Columns under keys, each of one type, with text for an index."""
    table = table.set_axis(_keys(table.columns, long), axis=1)
    for name in table:
        if _is_loose(table[name]):
            table[name] = _of_obs(table[name])
    if rows:
        return table
    name = table.index.name
    table.index = pd.Index([_text(label) for label in table.index], dtype=object)
    return table if name is None or str(name) in table else table.rename_axis(str(name))


def _is_loose(column: pd.Series) -> bool:
    """Text, or objects of whatever type."""
    return column.dtype == object or isinstance(column.dtype, pd.StringDtype)


def _of_obs(column: Any) -> Any:
    """A column of one type: numbers, or text, with categories where it is missing."""
    if not isinstance(column, pd.Series) or not _is_loose(column):
        return column
    values = column.dropna()
    complete = len(values) == len(column)
    if all(isinstance(value, _NUMBERS) for value in values):
        kind = values.infer_objects().dtype if complete and len(values) else np.float64
        return column.astype(kind)
    text = column.astype(object).where(column.notna(), None)
    text = text.map(_text, na_action="ignore").astype(object)
    return text if complete else text.astype("category")


def _list(values: Iterable[Any]) -> list[Any]:
    """Values of one type as they are, others as text."""
    values = list(values)
    kinds = {type(value) for value in values}
    numbers = bool not in kinds and all(issubclass(kind, _REAL) for kind in kinds)
    of_one_type = kinds <= {str} or kinds <= {bool, np.bool_} or numbers
    return values if of_one_type else [_text(value) for value in values]


def _text(value: Any) -> str:
    return NOTHING if value is None else str(value)


def _plain(value: Any) -> Any:
    """An argument as numbers, text, lists and dicts; of other values kind and size."""
    if value is None:
        return NOTHING
    if isinstance(value, (np.generic, np.ndarray)) and value.size <= _FEW:
        return _plain(value.tolist())
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, PathLike):
        return PurePath(value).name
    if isinstance(value, str):
        # no path of this machine in what others are going to read
        paths = PurePosixPath(value), PureWindowsPath(value)
        is_path = any(path.is_absolute() for path in paths)
        return PurePath(value).name if is_path else value
    if isinstance(value, Mapping) and len(value) <= _FEW:
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(part) for part in value]
    if hasattr(value, "shape") or isinstance(value, Mapping):
        shape = getattr(value, "shape", None) or (len(value),)
        return f"{type(value).__name__}, {' × '.join(map(str, shape))}"
    return getattr(value, "__qualname__", type(value).__name__)


def plain_strings(data: Any) -> None:
    """Make pandas 3's strings plain objects in an AnnData or MuData where pandas 2 runs.

    Values stay. A file that was written with pandas 3 comes with such strings, and anndata refuses
    to write them with pandas 2.
    """
    if int(pd.__version__.partition(".")[0]) >= 3 or pd.options.future.infer_string:
        return
    for part in (*getattr(data, "mod", {}).values(), data):  # pragma: no cover  # pandas 2
        for axis in ("obs", "var"):
            frame = getattr(part, axis)
            if (objects := _of_objects(frame)) is not frame:
                setattr(part, axis, objects)
        for slot in (part.obsm, part.varm, part.uns):
            _objects_in(slot)


def _objects_in(store: MutableMapping[Any, Any]) -> None:  # pragma: no cover  # pandas 2
    for key, value in list(store.items()):
        if isinstance(value, MutableMapping):
            _objects_in(value)
        elif (objects := _of_objects(value)) is not value:
            store[key] = objects


def _of_objects(value: Any) -> Any:  # pragma: no cover  # pandas 2
    """The value itself where it holds none of these strings."""
    if isinstance(value, pd.DataFrame):
        return _frame_of_objects(value)
    if not _is_foreign(getattr(value, "dtype", None)):
        return value
    if isinstance(value, pd.Series):
        return _frame_of_objects(value.to_frame()).iloc[:, 0]
    return np.asarray(value, dtype=object)


def _frame_of_objects(frame: pd.DataFrame) -> pd.DataFrame:  # pragma: no cover  # pandas 2
    foreign = [i for i, dtype in enumerate(frame.dtypes) if _is_foreign(dtype)]
    if not foreign and not any(_is_foreign(axis.dtype) for axis in frame.axes):
        return frame
    frame = frame.copy()
    for i in foreign:
        column = frame.iloc[:, i].to_numpy(dtype=object)
        gaps = pd.isna(column).any()  # no file holds one in plain text
        frame.isetitem(i, pd.Categorical(column) if gaps else column)
    for side in ("index", "columns"):
        axis = getattr(frame, side)
        if _is_foreign(axis.dtype):
            setattr(frame, side, pd.Index(axis, dtype=object, name=axis.name))
    return frame


def _is_foreign(dtype: Any) -> bool:  # pragma: no cover  # pandas 2
    """Pandas 3's str, whose missing value is NaN; the older "string" is a choice of the user's."""
    return isinstance(dtype, pd.StringDtype) and dtype.na_value is not pd.NA
