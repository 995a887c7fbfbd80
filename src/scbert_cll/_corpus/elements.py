"""What anndata writes, element by element, as HDF5 and zarr have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from scbert_cll._checks.paths import plain_file


def opened(path: Path) -> Any:
    """A file of HDF5, or a folder of zarr, open for reading."""
    if not path.is_dir():
        if not h5py.is_hdf5(plain_file(path)):
            raise ValueError(
                "is not an HDF5 file, or was cut off; .h5ad, .h5mu and 10x .h5 files are. A .zarr "
                "is a folder."
            )
        return h5py.File(path, rdcc_nbytes=2**25)
    import zarr

    if (path / "manifest.json").exists():
        raise ValueError("is a corpus already; a corpus is built from files of cells.")
    if not any((path / name).exists() for name in ("zarr.json", ".zgroup")):
        remedy = " Of Cell Ranger's matrix: sc.read_10x_mtx(path).write_h5ad('cells.h5ad')."
        raise ValueError(
            "is a folder, but not a zarr store as adata.write_zarr makes them."
            + (remedy if any(path.glob("matrix.mtx*")) else "")
        )
    return zarr.open_group(path, mode="r")


def is_group(elem: Any) -> bool:
    """Whether an element is a group, of HDF5 or zarr, not an array."""
    return hasattr(elem, "keys")


def is_null(elem: Any) -> bool:
    """Whether an element is anndata's None."""
    return bool(elem.attrs.get("encoding-type") == "null")


def index_of(table: Any) -> pd.Index:
    """Names of the rows of a table on disk."""
    names: pd.Index = pd.Index(values(table[table.attrs["_index"]], slice(None)))
    return names


def values(elem: Any, rows: slice, categories: dict[str, pd.Index] | None = None) -> pd.Series:
    """Some rows of a column: plain, text, categorical (also anndata 0.7's) or nullable.

    `categories` keeps those that were read before.
    """
    if is_group(elem) and "categories" in elem:
        return _categorical(elem["codes"][rows], elem["categories"], categories)
    if is_group(elem):
        column, missing = values(elem["values"], rows), elem["mask"][rows]
        return (column.astype(object) if column.dtype == object else column).mask(missing)
    if "categories" in elem.attrs:
        return _categorical(elem[rows], elem.file[elem.attrs["categories"]], categories)
    if hasattr(elem, "asstr") and h5py.check_string_dtype(elem.dtype) is not None:
        return pd.Series(elem.asstr()[rows], dtype=object)
    array = elem[rows]
    return pd.Series(array.astype(object) if array.dtype.kind in "OTU" else array)


def _categorical(
    codes: np.ndarray, names: Any, categories: dict[str, pd.Index] | None
) -> pd.Series:
    categories = {} if categories is None else categories
    if names.name not in categories:
        categories[names.name] = pd.Index(values(names, slice(None)))
    return pd.Series(pd.Categorical.from_codes(codes, categories[names.name]))
