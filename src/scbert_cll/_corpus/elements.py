"""What anndata writes, element by element, as HDF5 and zarr have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from scbert_cll import _checks
from scbert_cll._corpus import checks as corpus_checks


def opened(path: Path) -> Any:
    """A file of HDF5, or a folder of zarr."""
    if path.is_dir():
        import zarr

        corpus_checks.is_zarr(path)
        return zarr.open_group(path, mode="r")
    _checks.paths.plain_file(path)
    corpus_checks.is_hdf5(is_it=bool(h5py.is_hdf5(path)))
    return h5py.File(path, rdcc_nbytes=2**25)


def is_group(elem: Any) -> bool:
    """A group, of HDF5 or zarr, and no array."""
    return hasattr(elem, "keys")


def is_null(elem: Any) -> bool:
    return bool(elem.attrs.get("encoding-type") == "null")


def index_of(table: Any) -> pd.Index:
    """Names of the rows of a table on disk."""
    names: pd.Index = pd.Index(values(table[table.attrs["_index"]], slice(None)))
    return names


def values(elem: Any, rows: slice, known: dict[str, pd.Index] | None = None) -> pd.Series:
    """Some rows of a column as anndata writes it: plain, text, categorical (also that of anndata 0.7) or nullable; `known` keeps categories."""
    if is_group(elem) and "categories" in elem:
        return _categorical(elem["codes"][rows], elem["categories"], known)
    if is_group(elem):
        found = values(elem["values"], rows)
        return (
            found.astype(object).mask(elem["mask"][rows])
            if found.dtype == object
            else found.mask(elem["mask"][rows])
        )
    if "categories" in elem.attrs:
        return _categorical(elem[rows], elem.file[elem.attrs["categories"]], known)
    if hasattr(elem, "asstr") and h5py.check_string_dtype(elem.dtype) is not None:
        return pd.Series(elem.asstr()[rows], dtype=object)
    found = elem[rows]
    return pd.Series(found.astype(object) if found.dtype.kind in "OTU" else found)


def _categorical(
    codes: np.ndarray, categories: Any, known: dict[str, pd.Index] | None
) -> pd.Series:
    known = {} if known is None else known
    if categories.name not in known:
        known[categories.name] = pd.Index(values(categories, slice(None)))
    return pd.Series(pd.Categorical.from_codes(codes, known[categories.name]))
