"""Files of cells (.h5ad, .h5mu) that a command writes: aside, read back, then put in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem
from scipy import sparse

from scbert_cll._disk.in_place import replace

_AT_A_TIME: Final = 2**22  # values of a matrix that are compared at a time
_ALIGNED: Final = ("layers", "obsm", "varm", "obsp", "varp")


def write_cells(path: Path, data: Any) -> None:
    """Write an AnnData or MuData to a file, which replaces another only when it reads back right.

    The one way in which commands write cells: aside in the same folder, opened again and compared
    with what is in memory (names of cells and genes, every column, layer and table, the keys of
    `uns`), renamed. Matrices are compared piece by piece, so this takes no second copy of them in
    memory.

    Parameters
    ----------
    path
        The file, ``.h5ad`` or ``.h5mu``; its folder is made. What may be replaced is for the caller
        to decide.
    data
        An AnnData, or a MuData.

    Raises
    ------
    NotAsWrittenError
        A slot reads back as something else. What was there is as it was.
    """

    def is_written(aside: Path) -> bool:
        return not differing_slots(aside, data)

    replace(path, lambda aside: _written(aside, data), is_written)


def _written(path: Path, data: Any) -> None:
    """Write text as every pandas reads and writes it.

    Only text with gaps takes the form of pandas 3.
    """
    try:
        with anndata.settings.override(allow_write_nullable_strings=False):
            data.write(path)
    except ValueError:
        with anndata.settings.override(allow_write_nullable_strings=True):
            data.write(path)


def differing_slots(path: Path, data: Any) -> list[str]:
    """Slots of a file that differ from those in memory, e.g. ``obs['donor']``.

    A modality's come after its name.
    """
    with h5py.File(path, "r") as file:
        if isinstance(data, AnnData):
            return list(differing(file, data))
        parts = [
            f"{name}: {slot}"
            for name, part in data.mod.items()
            for slot in differing(file["mod"][name], part)
        ]
        obs = _of_table(file["obs"], data.obs, "obs")
        return [*parts, *obs, *_of_keys(file, data, "uns")]


def differing(group: Any, adata: AnnData) -> Iterator[str]:
    """Slots of an AnnData in an HDF5 or zarr group that differ from those in memory."""
    for axis in ("obs", "var"):
        yield from _of_table(group[axis], getattr(adata, axis), axis)
    if adata.X is not None and not _same_values(group["X"], adata.X):
        yield "X"
    if adata.raw is not None and not _same_values(group["raw/X"], adata.raw.X):
        yield "raw.X"
    for slot in _ALIGNED:
        yield from _of_keys(group, adata, slot)
        stored = group.get(slot, {})
        for key, value in getattr(adata, slot).items():
            is_both = key is not None and key in stored
            if is_both and not _same_values(stored[key], value):
                yield f"{slot}[{key!r}]"
    yield from _of_keys(group, adata, "uns")


def _of_keys(group: Any, data: Any, slot: str) -> Iterator[str]:
    """Keys that are on one side only; anndata lists X among the layers, as None."""
    expected = {str(key) for key in getattr(data, slot) if key is not None}
    odd = sorted(expected ^ set(group.get(slot, {})))
    yield from (f"{slot}[{key!r}]" for key in odd)


def _of_table(group: Any, expected: pd.DataFrame, name: str) -> Iterator[str]:
    table: Any = read_elem(group)
    if list(table.index) != list(expected.index):
        yield f"names of {name}"
    if list(map(str, table.columns)) != list(map(str, expected.columns)):
        yield f"columns of {name}"
        return
    for i, column in enumerate(expected):
        if not _same_column(table.iloc[:, i], expected.iloc[:, i]):
            yield f"{name}[{column!r}]"


def _same_column(column: pd.Series, expected: pd.Series) -> bool:
    """Values alike; whether text is categorical makes no difference."""
    present = expected.notna().to_numpy()
    if not np.array_equal(column.notna().to_numpy(), present):
        return False
    column, expected = column[present], expected[present]
    if pd.api.types.is_numeric_dtype(expected):
        return bool(np.array_equal(column.to_numpy(), expected.to_numpy()))
    return column.astype(str).tolist() == expected.astype(str).tolist()


def _same_values(elem: Any, expected: Any) -> bool:
    if isinstance(expected, pd.DataFrame):
        return not list(_of_table(elem, expected, "table"))
    if sparse.issparse(expected):
        csx: Any = expected
        shape = tuple(elem.attrs.get("shape", elem.attrs.get("h5sparse_shape", ())))
        parts = ("indptr", "indices", "data") if hasattr(csx, "indptr") else ()
        same = (_same_array(elem[part], getattr(csx, part)) for part in parts)
        return shape == csx.shape and all(same)
    if isinstance(expected, np.ndarray) and hasattr(elem, "dtype"):
        return _same_array(elem, expected)
    # lazy or structured: that it opens, and its shape, is all that is compared
    return isinstance(elem, Mapping) or tuple(elem.shape) == tuple(expected.shape)


def _same_array(array: Any, expected: np.ndarray) -> bool:
    """Compare some rows at a time, missing numbers alike."""
    if tuple(array.shape) != expected.shape:
        return False
    kind = expected.dtype.kind
    step = max(_AT_A_TIME // max(int(np.prod(expected.shape[1:])), 1), 1)
    blocks = (slice(start, start + step) for start in range(0, len(expected), step))
    pairs = ((array[rows], expected[rows]) for rows in blocks)
    same = (np.array_equal(*pair, equal_nan=kind in "fc") for pair in pairs)
    return kind not in "biufc" or all(same)
