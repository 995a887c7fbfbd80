"""The files a corpus is built from, read block by block: .h5ad, .h5mu and 10x .h5."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset
from scipy import sparse

from scbert_cll import _checks
from scbert_cll.vocab import GeneVocab

# Reading a damaged file raises any of these, by HDF5, by anndata or by a check.
UNREADABLE = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError)


class _Rows(Protocol):
    """Rows of a matrix on disk."""

    n_rows: int

    def stored_before(self, row: int) -> int:
        """Values that are read for the rows before this one."""
        ...

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        """Rows from `start` up to `stop`."""
        ...


class _Csr:
    """By cells, as most files are."""

    def __init__(self, group: h5py.Group, shape: tuple[int, int]) -> None:
        self.n_rows, self._n_columns = shape
        self._data, self._indices = group["data"], group["indices"]
        self._indptr = np.asarray(group["indptr"][:], dtype=np.int64)
        _checks.corpus.of_one_shape(self._indptr, min(len(self._data), len(self._indices)), self.n_rows)

    def stored_before(self, row: int) -> int:
        return int(self._indptr[row])

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        first, last = self._indptr[start], self._indptr[stop]
        indices = self._indices[first:last]
        _checks.corpus.within(indices, self._n_columns)
        indptr = (self._indptr[start : stop + 1] - first).astype(np.int32)
        columns = indices.astype(np.int32, copy=False)
        return sparse.csr_matrix((self._data[first:last], columns, indptr), shape=(stop - start, self._n_columns))


class _Dense:
    """Every number written out."""

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.n_rows, self._n_columns = dataset.shape
        self._dataset = dataset

    def stored_before(self, row: int) -> int:
        return row * int(self._n_columns) // 8  # a zero is gone as soon as it is read

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        return sparse.csr_matrix(self._dataset[start:stop])


class _Csc:
    """By genes: read as a whole, when it is first needed."""

    def __init__(self, group: h5py.Group, shape: tuple[int, int], memory: int) -> None:
        self.n_rows = shape[0]
        self._group = group
        self._csr: sparse.csr_matrix | None = None
        _checks.corpus.of_one_shape(np.asarray(group["indptr"][:], dtype=np.int64), len(group["data"]), shape[1])
        _checks.corpus.by_cells(2 * (group["data"].nbytes + group["indices"].nbytes), memory)

    def stored_before(self, row: int) -> int:
        return int(self._whole().indptr[row])

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        return self._whole()[start:stop]

    def _whole(self) -> sparse.csr_matrix:
        if self._csr is None:
            _checks.corpus.within(self._group["indices"][:], self.n_rows)
            self._csr = sparse.csr_matrix(read_elem(self._group))
        return self._csr


class Source:
    """One file, open for reading.

    Parameters
    ----------
    path
        The file; what it is is told by what it holds, not by its ending.
    layer
        Where the raw counts are in an AnnData; ``X`` if not given. A 10x file has one matrix.
    memory
        Bytes a matrix that is stored by genes may take.
    """

    def __init__(self, path: Path, *, layer: str | None, memory: int) -> None:
        _checks.corpus.is_hdf5(is_it=bool(h5py.is_hdf5(path)))
        self._file = h5py.File(path, rdcc_nbytes=2**25)
        self._layer, self._memory = layer, memory
        self._obs: h5py.Group | None = None
        self._mudata: tuple[str, h5py.Group] | None = None  # name of the modality, and what it is part of
        self._shared: dict[str, pd.Series] = {}
        self._categories: dict[str, pd.Index] = {}
        try:
            self._open()
            self.n_cells = self._rows.n_rows
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    @property
    def is_10x(self) -> bool:
        """Whether it has no `obs`."""
        return self._obs is None

    def resolve(self, vocab: GeneVocab, aliases: Any) -> pd.DataFrame:
        """Which vocabulary gene each column stands for, and why, as :meth:`~scbert_cll.vocab.GeneVocab.resolve` says."""
        columns = np.flatnonzero(self._is_gene)
        found = vocab.resolve(self._gene_names(vocab)[columns], aliases=aliases)
        return (
            found.set_axis(columns)
            .reindex(np.arange(len(self._is_gene)))
            .fillna({"name": "", "gene": "", "index": -1, "how": "no gene"})
            .astype({"index": np.int64})
        )

    def blocks(self, start: int, stop: int, n_values: int) -> Iterator[tuple[int, int]]:
        """Whole rows of at most `n_values` stored values at a time, at least one."""
        while start < stop:
            last = start + 1
            limit = self._rows.stored_before(start) + n_values
            low, high = last, stop
            while low <= high:
                middle = (low + high) // 2
                if self._rows.stored_before(middle) <= limit:
                    last, low = max(last, middle), middle + 1
                else:
                    high = middle - 1
            yield start, last
            start = last

    def counts(self, start: int, stop: int) -> sparse.csr_matrix:
        """Raw counts of some cells, checked."""
        found = self._rows.read(start, stop)
        found.sum_duplicates()
        values = found.data
        if values.min(initial=0) < 0 or not np.isfinite(values.max(initial=0)) or not _checks.are_whole(values):
            self._complain(found, start, stop)
        return found

    def names(self, start: int, stop: int) -> np.ndarray:
        """Names of cells."""
        return values(self._cells, slice(start, stop)).astype(str).to_numpy(dtype=object)

    def column(self, key: str, start: int, stop: int) -> pd.Series | None:
        """A column of `obs`, or of the MuData's own; None where the file has none of that name."""
        if self._obs is not None and key in self._obs:
            return values(self._obs[key], slice(start, stop), self._categories)
        if self._mudata is None:
            return None
        modality, whole = self._mudata
        if key in whole["obs"]:
            return self._of_all(key, modality, whole).iloc[start:stop].reset_index(drop=True)
        bare = key.removeprefix(f"{modality}:")
        return None if bare == key else self.column(bare, start, stop)

    @property
    def obs_columns(self) -> list[str]:
        """Columns of `obs`."""
        shared = [] if self._mudata is None else [self._mudata[1]["obs"]]
        frames = shared if self._obs is None else [self._obs, *shared]
        return list(dict.fromkeys(str(name) for frame in frames for name in frame.attrs.get("column-order", frame)))

    def _of_all(self, key: str, modality: str, whole: h5py.Group) -> pd.Series:
        """A column of a MuData's own `obs` for the cells of the modality, whose places are in its `obsmap`, counted from 1."""
        if key not in self._shared:
            places = np.asarray(whole["obsmap"][modality][:], dtype=np.int64).ravel()
            rows = np.flatnonzero(places)
            rows = rows[np.argsort(places[rows], kind="stable")]
            self._shared[key] = values(whole["obs"][key], slice(None)).iloc[rows].reset_index(drop=True)
        return self._shared[key]

    def is_binned(self) -> bool:
        """Whether the layer is one that pp.bin_expression wrote."""
        return self._layer is not None and f"uns/{self._layer}/edges" in self._root

    def _complain(self, found: sparse.csr_matrix, start: int, stop: int) -> None:
        """What is wrong with values is said by the check of objects in memory."""
        obs, var = pd.DataFrame(index=pd.Index(self.names(start, stop))), pd.DataFrame(index=self._genes)
        layers = dict.fromkeys(self._root.get("layers", ()), sparse.csr_matrix(found.shape))
        X, layers = (found, layers) if self._layer is None else (None, layers | {self._layer: found})
        uns: dict[str, Any] = {"log1p": {}} if "uns/log1p" in self._root else {}
        try:
            # gene names may repeat, of which AnnData warns
            with warnings.catch_warnings(action="ignore"):
                block = AnnData(X=X, layers=layers, obs=obs, var=var, uns=uns)
            _checks.counts(block, self._layer)
        except ValueError as error:
            raise _checks.corpus.with_raw(error, has_raw="raw" in self._root) from error

    def _open(self) -> None:
        if "matrix" in self._file:
            self._open_10x(self._file["matrix"])
        elif "mod" in self._file:
            modality = _checks.corpus.rna_modality(self._file["mod"])
            self._mudata = modality, self._file
            self._open_anndata(self._file["mod"][modality])
        elif "obs" in self._file and "var" in self._file:
            self._open_anndata(self._file)
        else:
            raise _checks.corpus.known_layout(self._file)

    def _open_10x(self, matrix: h5py.Group) -> None:
        if "features" not in matrix:
            raise _checks.corpus.known_layout(self._file)
        self._root, self._cells = matrix, matrix["barcodes"]
        features = matrix["features"]
        self._genes = pd.Index(values(features["name"], slice(None)))
        self._ids = pd.Index(values(features["id"], slice(None)))
        self._is_gene = (values(features["feature_type"], slice(None)) == "Gene Expression").to_numpy()
        n_features, n_cells = (int(n) for n in matrix["shape"][:])
        self._rows: _Rows = _Csr(matrix, (n_cells, n_features))

    def _open_anndata(self, group: h5py.Group) -> None:
        _checks.corpus.not_too_old(is_new=isinstance(group["obs"], h5py.Group) and isinstance(group["var"], h5py.Group))
        self._root, self._obs = group, group["obs"]
        self._cells = group["obs"][group["obs"].attrs["_index"]]
        self._genes = pd.Index(values(group["var"][group["var"].attrs["_index"]], slice(None)))
        self._ids, self._is_gene = self._genes, np.ones(len(self._genes), dtype=bool)
        if self._layer is not None:
            _checks.key_in(self._layer, group.get("layers", {}), "adata.layers")
        matrix = group["X"] if self._layer is None else group["layers"][self._layer]
        if isinstance(matrix, h5py.Dataset):
            self._rows = _Dense(matrix)
            return
        backed = sparse_dataset(matrix)
        csr = backed.format == "csr"
        self._rows = _Csr(matrix, backed.shape) if csr else _Csc(matrix, backed.shape, self._memory)

    def _gene_names(self, vocab: GeneVocab) -> pd.Index:
        """Symbols, or the ids of a 10x file where the vocabulary has those."""
        by_symbol, by_id = (names.isin(vocab.names).sum() for names in (self._genes, self._ids))
        names: pd.Index = self._ids if by_id > by_symbol else self._genes
        return names


def values(elem: h5py.Group | h5py.Dataset, rows: slice, known: dict[str, pd.Index] | None = None) -> pd.Series:
    """Some rows of a column as anndata writes it: plain, text, categorical (also that of anndata 0.7) or nullable; `known` keeps categories."""
    if isinstance(elem, h5py.Group) and "categories" in elem:
        return _categorical(elem["codes"][rows], elem["categories"], known)
    if isinstance(elem, h5py.Group):
        found = values(elem["values"], rows)
        return (
            found.astype(object).mask(elem["mask"][rows]) if found.dtype == object else found.mask(elem["mask"][rows])
        )
    if "categories" in elem.attrs:
        return _categorical(elem[rows], elem.file[elem.attrs["categories"]], known)
    is_text = h5py.check_string_dtype(elem.dtype) is not None
    return pd.Series(elem.asstr()[rows] if is_text else elem[rows], dtype=object if is_text else None)


def _categorical(
    codes: np.ndarray, categories: h5py.Group | h5py.Dataset, known: dict[str, pd.Index] | None
) -> pd.Series:
    known = {} if known is None else known
    if categories.name not in known:
        known[categories.name] = pd.Index(values(categories, slice(None)))
    return pd.Series(pd.Categorical.from_codes(codes, known[categories.name]))
