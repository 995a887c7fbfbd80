"""Files of cells (.h5ad, .h5mu) that a command writes: aside, read back slot by slot, then put in place."""

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
    """Write an AnnData or MuData to a file, and replace what is there only when it reads back as it was.

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
    replace(
        path, lambda aside: _written(aside, data), lambda aside: not differing_slots(aside, data)
    )


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
    """Slots of a file that differ from those in memory, e.g.

    ``obs['donor']``; a modality's come after its name.
    """
    with h5py.File(path, "r") as file:
        if isinstance(data, AnnData):
            return list(differing(file, data))
        parts = [
            f"{name}: {slot}"
            for name, part in data.mod.items()
            for slot in differing(file["mod"][name], part)
        ]
        return [*parts, *_of_table(file["obs"], data.obs, "obs"), *_of_keys(file, data, "uns")]


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
        there = group.get(slot, {})
        both = [
            (key, value)
            for key, value in getattr(adata, slot).items()
            if key is not None and key in there
        ]
        yield from (
            f"{slot}[{key!r}]" for key, value in both if not _same_values(there[key], value)
        )
    yield from _of_keys(group, adata, "uns")


def _of_keys(group: Any, data: Any, slot: str) -> Iterator[str]:
    """Keys that are on one side only; anndata lists X among the layers, as None."""
    expected = {str(key) for key in getattr(data, slot) if key is not None}
    yield from (f"{slot}[{key!r}]" for key in sorted(expected ^ set(group.get(slot, {}))))


def _of_table(group: Any, expected: pd.DataFrame, name: str) -> Iterator[str]:
    found: Any = read_elem(group)
    if list(found.index) != list(expected.index):
        yield f"names of {name}"
    if list(map(str, found.columns)) != list(map(str, expected.columns)):
        yield f"columns of {name}"
        return
    yield from (
        f"{name}[{c!r}]"
        for i, c in enumerate(expected)
        if not _same_column(found.iloc[:, i], expected.iloc[:, i])
    )


def _same_column(found: pd.Series, expected: pd.Series) -> bool:
    """Values alike; whether text is categorical makes no difference."""
    there = expected.notna().to_numpy()
    if not np.array_equal(found.notna().to_numpy(), there):
        return False
    if pd.api.types.is_numeric_dtype(expected):
        return bool(np.array_equal(found[there].to_numpy(), expected[there].to_numpy()))
    return found.astype(str)[there].tolist() == expected.astype(str)[there].tolist()


def _same_values(group: Any, expected: Any) -> bool:
    if isinstance(expected, pd.DataFrame):
        return not list(_of_table(group, expected, "table"))
    if sparse.issparse(expected):
        csx: Any = expected
        shape = tuple(group.attrs.get("shape", group.attrs.get("h5sparse_shape", ())))
        if not hasattr(csx, "indptr") or shape != csx.shape:
            return bool(shape == csx.shape)
        return all(
            _same_array(group[name], getattr(csx, name)) for name in ("indptr", "indices", "data")
        )
    if isinstance(expected, np.ndarray) and hasattr(group, "dtype"):
        return _same_array(group, expected)
    return isinstance(group, Mapping) or tuple(group.shape) == tuple(
        expected.shape
    )  # lazy, structured: opened is all


def _same_array(found: Any, expected: np.ndarray) -> bool:
    """Compare some rows at a time, missing numbers alike."""
    if tuple(found.shape) != expected.shape:
        return False
    if expected.dtype.kind not in "biufc":
        return True
    rows = max(_AT_A_TIME // max(int(np.prod(expected.shape[1:])), 1), 1)
    return all(
        np.array_equal(
            found[start : start + rows],
            expected[start : start + rows],
            equal_nan=expected.dtype.kind in "fc",
        )
        for start in range(0, len(expected), rows)
    )
