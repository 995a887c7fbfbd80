"""The files a corpus is built from, read block by block: .h5ad, .h5mu, .zarr and 10x .h5."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset
from scipy import sparse

from scbert_cll import _checks, _keys
from scbert_cll._checks.words import key_in
from scbert_cll._corpus import checks as corpus_checks
from scbert_cll._corpus.elements import index_of, is_group, is_null, opened, values
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

    def __init__(self, group: Any, shape: tuple[int, int]) -> None:
        self.n_rows, self._n_columns = shape
        self._data, self._indices = group["data"], group["indices"]
        self._indptr = np.asarray(group["indptr"][:], dtype=np.int64)
        corpus_checks.of_one_shape(
            self._indptr, min(self._data.shape[0], self._indices.shape[0]), self.n_rows
        )

    def stored_before(self, row: int) -> int:
        return int(self._indptr[row])

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        first, last = self._indptr[start], self._indptr[stop]
        indices = self._indices[first:last]
        corpus_checks.within(indices, self._n_columns)
        indptr = (self._indptr[start : stop + 1] - first).astype(np.int32)
        columns = indices.astype(np.int32, copy=False)
        return sparse.csr_matrix(
            (self._data[first:last], columns, indptr), shape=(stop - start, self._n_columns)
        )


class _Dense:
    """Every number written out."""

    def __init__(self, dataset: Any) -> None:
        self.n_rows, self._n_columns = dataset.shape
        self._dataset = dataset

    def stored_before(self, row: int) -> int:
        return row * int(self._n_columns) // 8  # a zero is gone as soon as it is read

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        return _checks.counts.as_csr(self._dataset[start:stop], "its matrix")


class _Csc:
    """By genes: read as a whole, when it is first needed."""

    def __init__(self, group: Any, shape: tuple[int, int], memory: int) -> None:
        self.n_rows = shape[0]
        self._group = group
        self._csr: sparse.csr_matrix | None = None
        corpus_checks.of_one_shape(
            np.asarray(group["indptr"][:], dtype=np.int64), group["data"].shape[0], shape[1]
        )
        corpus_checks.by_cells(2 * (group["data"].nbytes + group["indices"].nbytes), memory)

    def stored_before(self, row: int) -> int:
        return int(self._whole().indptr[row])

    def read(self, start: int, stop: int) -> sparse.csr_matrix:
        return self._whole()[start:stop]

    def _whole(self) -> sparse.csr_matrix:
        if self._csr is None:
            corpus_checks.within(self._group["indices"][:], self.n_rows)
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
    modality
        Modality of a MuData with the RNA; one with a usual name if not given.
    """

    def __init__(
        self, path: Path, *, layer: str | None, memory: int, modality: str | None = None
    ) -> None:
        self._file = opened(path)
        self._layer, self._memory, self._modality = layer, memory, modality
        self._is_gene = np.zeros(0, dtype=bool)
        self.n_rounded = (
            0  # values that were beside whole numbers by round-off, of the blocks that were read
        )
        self._obs: Any = None
        self._mudata: tuple[str, Any] | None = None  # name of the modality, and what it is part of
        self._shared: dict[str, pd.Series] = {}
        self._categories: dict[str, pd.Index] = {}
        try:
            self._open()
            self.n_cells = self._rows.n_rows
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        if isinstance(self._file, h5py.File):
            self._file.close()

    @property
    def is_10x(self) -> bool:
        """Whether it has no `obs`."""
        return self._obs is None

    def resolve(self, vocab: GeneVocab, aliases: Any) -> pd.DataFrame:
        """Which vocabulary gene each column stands for, and why, as :meth:`~scbert_cll.vocab.GeneVocab.resolve` says."""
        columns, names = np.flatnonzero(self._is_gene), self._gene_names(vocab)
        found = vocab.resolve(
            names[columns], aliases=aliases, others=self._features.names[~self._features.is_gene]
        )
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
        found = _checks.counts.as_csr(self._rows.read(start, stop), "its matrix")
        of_genes = slice(None) if self._is_gene.all() else self._is_gene[found.indices]
        known = found.data[of_genes]
        if not _checks.counts.are_finite(known):
            self._complain(start, stop)
        if not _checks.counts.are_whole(known):
            whole = _checks.counts.nearly_whole(known)
            if whole is None:
                self._complain(start, stop)
            self.n_rounded += int((whole != known).sum())
            found.data[of_genes] = whole
        return found

    @property
    def others(self) -> list[str]:
        """Names of what is no gene: antibodies, hashtags and others."""
        return [str(name) for name in self._features.names[~self._features.is_gene]]

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
        return list(
            dict.fromkeys(
                str(name) for frame in frames for name in frame.attrs.get("column-order", frame)
            )
        )

    def _of_all(self, key: str, modality: str, whole: h5py.Group) -> pd.Series:
        """A column of a MuData's own `obs` for the cells of the modality, whose places are in its `obsmap`, counted from 1."""
        if key not in self._shared:
            places = np.asarray(whole["obsmap"][modality][:], dtype=np.int64).ravel()
            rows = np.flatnonzero(places)
            rows = rows[np.argsort(places[rows], kind="stable")]
            self._shared[key] = (
                values(whole["obs"][key], slice(None)).iloc[rows].reset_index(drop=True)
            )
        return self._shared[key]

    def is_binned(self) -> bool:
        """Whether the layer is one that pp.bin_expression wrote."""
        return self._layer is not None and f"uns/{self._layer}/edges" in self._root

    def _complain(self, start: int, stop: int) -> NoReturn:
        """What is wrong with values is said by the check of objects in memory, on the same cells of all matrices."""
        obs, genes = (
            pd.DataFrame(index=pd.Index(self.names(start, stop))),
            np.flatnonzero(self._is_gene),
        )

        def block(elem: Any) -> Any:
            try:
                rows = self._matrix(elem)
                found = rows.read(start, stop)
                return found.toarray() if isinstance(rows, _Dense) else found
            except UNREADABLE:  # another matrix than the one that is asked for
                return None

        root: Any = self._root
        layers = {
            name: found
            for name in root.get("layers", ())
            if (found := block(root["layers"][name])) is not None
        }
        X = None if self.is_10x or "X" not in root else block(root["X"])
        raw = None if self.is_10x or "raw" not in root else block(root["raw"]["X"])
        # gene names may repeat, of which AnnData warns
        with warnings.catch_warnings(action="ignore"):
            if self._is_raw or self.is_10x:  # its genes are not those of X
                cells = AnnData(
                    self._rows.read(start, stop), obs=obs, var=pd.DataFrame(index=self._genes)
                )[:, genes]
            else:
                var = pd.DataFrame(index=self._genes)
                cells = AnnData(X, obs=obs, var=var, layers=layers)
                if raw is not None:
                    cells.raw = AnnData(
                        raw, obs=obs, var=pd.DataFrame(index=index_of(root["raw"]["var"]))
                    )
                cells = cells[:, genes]
            cells = cells.copy()
        if "log1p" in root.get("uns", ()):
            cells.uns["log1p"] = {}
        _checks.counts.counts(cells, None if self._is_raw else self._layer)
        raise ValueError("its matrix must hold raw counts.")

    def _open(self) -> None:
        if "mod" not in self._file:
            corpus_checks.no_modalities(self._modality)
        if "matrix" in self._file:
            self._open_10x(self._file["matrix"])
        elif "mod" in self._file:
            modality = corpus_checks.rna_modality(self._file["mod"], self._modality)
            self._mudata = modality, self._file
            self._open_anndata(self._file["mod"][modality])
        elif "obs" in self._file and "var" in self._file:
            self._open_anndata(self._file)
        else:
            raise corpus_checks.known_layout(self._file)

    def _open_10x(self, matrix: Any) -> None:
        if "features" not in matrix:
            raise corpus_checks.known_layout(self._file)
        self._root, self._cells, self._is_raw = matrix, matrix["barcodes"], False
        found = matrix["features"]
        self._genes = pd.Index(values(found["name"], slice(None)))
        self._ids = pd.Index(values(found["id"], slice(None)))
        kinds = pd.DataFrame(
            {"feature_type": values(found["feature_type"], slice(None)).to_numpy()},
            index=self._genes,
        )
        self._take_features(kinds)
        n_features, n_cells = (int(n) for n in matrix["shape"][:])
        self._rows: _Rows = _Csr(matrix, (n_cells, n_features))

    def _open_anndata(self, group: Any) -> None:
        corpus_checks.not_too_old(is_new=is_group(group["obs"]) and is_group(group["var"]))
        self._root, self._obs = group, group["obs"]
        self._cells = group["obs"][group["obs"].attrs["_index"]]
        layers = group.get("layers", {})
        self._is_raw = (
            self._layer == _checks.counts.RAW
            and _checks.counts.RAW not in layers
            and "raw" in group
        )
        slots = group["raw"] if self._is_raw else group
        var = slots["var"]
        self._genes = index_of(var)
        self._ids = self._genes
        kinds = {
            key: values(var[key], slice(None)).to_numpy()
            for key in var
            if _checks.genes.may_tell(key)
        }
        self._take_features(pd.DataFrame(kinds, index=self._genes))
        if _keys.IN_QUERY in var:  # zeros of pp.align_genes
            self._is_gene = self._is_gene & values(var[_keys.IN_QUERY], slice(None)).to_numpy(
                dtype=bool
            )
        if self._layer is not None and not self._is_raw:
            key_in(self._layer, layers, "adata.layers")
            self._rows = self._matrix(layers[self._layer])
        else:
            corpus_checks.has_x(
                there="X" in slots and not is_null(slots["X"]),
                layers=list(layers),
                raw="raw" in group,
            )
            self._rows = self._matrix(slots["X"])

    def _take_features(self, var: pd.DataFrame) -> None:
        """Which rows are genes; some must be."""
        self._features = _checks.genes.features_of(var)
        if not self._features.is_gene.any():
            _checks.genes.only_genes(self._features)
        self._is_gene = self._features.is_gene

    def _matrix(self, matrix: Any) -> _Rows:
        if not is_group(matrix):
            return _Dense(matrix)
        backed = sparse_dataset(matrix)
        csr = backed.format == "csr"
        return _Csr(matrix, backed.shape) if csr else _Csc(matrix, backed.shape, self._memory)

    def _gene_names(self, vocab: GeneVocab) -> pd.Index:
        """Symbols, or the ids of a 10x file where the vocabulary has those."""
        by_symbol, by_id = (names.isin(vocab.names).sum() for names in (self._genes, self._ids))
        names: pd.Index = self._ids if by_id > by_symbol else self._genes
        return names
