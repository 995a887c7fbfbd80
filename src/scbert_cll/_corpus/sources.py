"""The files a corpus is built from, read block by block: .h5ad, .h5mu, .zarr and 10x .h5."""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, Self

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _checks, _keys
from scbert_cll._checks.words import key_in, listed
from scbert_cll._corpus import elements
from scbert_cll._corpus.elements import index_of, values
from scbert_cll._gene_names.columns import KNOWN, names_of
from scbert_cll.vocab import GeneVocab

# Reading a damaged file raises any of these, by HDF5, by anndata or by a check.
UNREADABLE = (OSError, LookupError, ValueError, TypeError, RuntimeError, AttributeError)


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

    def __init__(self, path: Path, layer: str | None, memory: int, modality: str | None) -> None:
        self._file = elements.opened(path)
        self._layer, self._memory, self._modality = layer, memory, modality
        self._is_gene = np.zeros(0, dtype=bool)
        # in blocks read: counts, and values that float32 had left beside whole numbers
        self.n_counts, self.n_rounded = 0.0, 0
        self._obs: Any = None
        # name of the modality, and what it is part of
        self._mudata: tuple[str, Any] | None = None
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

    def __exit__(self, *error: object) -> None:
        self._close()

    def _close(self) -> None:
        if isinstance(self._file, h5py.File):
            self._file.close()

    @property
    def is_10x(self) -> bool:
        """Whether it has no `obs`."""
        return self._obs is None

    @property
    def is_binned(self) -> bool:
        """Whether the layer is one that pp.bin_expression wrote."""
        return self._layer is not None and f"uns/{self._layer}/edges" in self._root

    @property
    def others(self) -> list[str]:
        """Names of rows of var that are not genes: antibodies, hashtags and others."""
        return [str(name) for name in self._features.names[~self._features.is_gene]]

    @property
    def obs_columns(self) -> list[str]:
        """Columns of `obs`, and of the MuData's own."""
        frames = [] if self._obs is None else [self._obs]
        frames += [] if self._mudata is None else [self._mudata[1]["obs"]]
        orders = (frame.attrs.get("column-order", frame) for frame in frames)
        return list(dict.fromkeys(str(name) for order in orders for name in order))

    def resolve(self, vocab: GeneVocab, aliases: Any, gene_key: str | None) -> pd.DataFrame:
        """The vocabulary gene of each column, and why, as `GeneVocab.resolve` says it."""
        columns = np.flatnonzero(self._is_gene)
        keys = [key for key in self._var if key in KNOWN or key == gene_key]
        named = {key: values(self._var[key], slice(None)).to_numpy()[columns] for key in keys}
        names, _ = names_of(pd.DataFrame(named, self._genes[columns]), vocab.names, gene_key)
        resolved = vocab.resolve(names, aliases=aliases, others=self.others)
        return (
            resolved.set_axis(columns)
            .reindex(np.arange(len(self._is_gene)))
            .fillna({"name": "", "gene": "", "index": -1, "how": "no gene"})
            .astype({"index": np.int64})
        )

    def blocks(self, start: int, stop: int, n_values: int) -> Iterator[slice]:
        """Blocks of rows: at most `n_values` stored values each, at least one row."""
        before = self._rows.stored_before
        while start < stop:
            ends, most = range(start + 1, stop + 1), before(start) + n_values
            end = start + max(bisect_right(ends, most, key=before), 1)
            yield slice(start, end)
            start = end

    def counts(self, rows: slice) -> sparse.csr_matrix:
        """Raw counts of some cells, checked."""
        csr = _checks.counts.as_csr(self._rows.read(rows), "its matrix")
        of_genes = slice(None) if self._is_gene.all() else self._is_gene[csr.indices]
        counts = csr.data[of_genes]
        if not _checks.counts.are_finite(counts):
            self._refuse(rows)
        if not _checks.counts.are_whole(counts):
            whole = _checks.counts.nearly_whole(counts)
            if whole is None:
                self._refuse(rows)
            self.n_rounded += int((whole != counts).sum())
            csr.data[of_genes] = whole
        self.n_counts += float(csr.data[of_genes].sum())
        return csr

    def names(self, rows: slice) -> np.ndarray:
        """Names of cells."""
        return values(self._cells, rows).astype(str).to_numpy(dtype=object)

    def column(self, key: str, rows: slice) -> pd.Series | None:
        """A column of `obs`, or of the MuData's own; None where the file has none of that name."""
        if self._obs is not None and key in self._obs:
            return values(self._obs[key], rows, self._categories)
        if self._mudata is None:
            return None
        modality, mudata = self._mudata
        if key in mudata["obs"]:
            column = self._of_mudata(key, modality, mudata)
            return column.iloc[rows].reset_index(drop=True)
        bare = key.removeprefix(f"{modality}:")
        return None if bare == key else self.column(bare, rows)

    def _of_mudata(self, key: str, modality: str, mudata: Any) -> pd.Series:
        """A column of a MuData's own `obs` for the cells of the modality.

        Their places are in its `obsmap`, counted from 1.
        """
        if key not in self._shared:
            places = np.asarray(mudata["obsmap"][modality][:], dtype=np.int64).ravel()
            rows = np.flatnonzero(places)
            rows = rows[np.argsort(places[rows], kind="stable")]
            column = values(mudata["obs"][key], slice(None))
            self._shared[key] = column.iloc[rows].reset_index(drop=True)
        return self._shared[key]

    def _refuse(self, cells: slice) -> NoReturn:
        """Let the check of objects in memory say what is wrong, on the same cells of all slots."""

        def block(elem: Any) -> Any:
            try:
                rows = elements.rows_of(elem, self._memory)
                matrix = rows.read(cells)
                return matrix.toarray() if isinstance(rows, elements.Dense) else matrix
            except UNREADABLE:  # another matrix than the one that is asked for
                return None

        root: Any = self._root
        var, raw = pd.DataFrame(index=self._genes), None
        if self._is_raw or self.is_10x:  # its genes are not those of X
            X, layers = self._rows.read(cells), {}
        else:
            X = block(root["X"]) if "X" in root else None
            slot = root.get("layers", {})
            layers = {name: block(slot[name]) for name in slot}
            layers = {name: one for name, one in layers.items() if one is not None}
            raw = block(root["raw"]["X"]) if "raw" in root else None
        obs = pd.DataFrame(index=pd.Index(self.names(cells)))
        with warnings.catch_warnings(action="ignore"):  # gene names may repeat
            adata = AnnData(X, obs=obs, var=var, layers=layers)
            if raw is not None:
                var_of_raw = pd.DataFrame(index=index_of(root["raw"]["var"]))
                adata.raw = AnnData(raw, obs=obs, var=var_of_raw)
            adata = adata[:, np.flatnonzero(self._is_gene)].copy()
        if "log1p" in root.get("uns", ()):
            adata.uns["log1p"] = {}
        _checks.counts.counts(adata, None if self._is_raw else self._layer)
        raise ValueError("its matrix must hold raw counts.")

    # ---- what the file is

    def _open(self) -> None:
        file = self._file
        if "mod" not in file and self._modality is not None:
            raise ValueError(
                f"it is one matrix without modalities, so modality={self._modality!r} is not in "
                f"it; leave that out."
            )
        if "features" in file.get("matrix", ()):
            self._open_10x(file["matrix"])
        elif "mod" in file and "matrix" not in file:
            modality = self._rna(list(file["mod"]))
            self._mudata = modality, file
            self._open_anndata(file["mod"][modality])
        elif "obs" in file and "var" in file and "matrix" not in file:
            self._open_anndata(file)
        else:
            raise ValueError(
                f"is neither .h5ad (obs, var), .h5mu (mod) nor a 10x matrix of Cell Ranger 3 or "
                f"later (matrix); it holds {listed(file)}."
            )

    def _rna(self, modalities: list[str]) -> str:
        """The modality that was asked for, or one with a usual name of RNA."""
        if self._modality is not None:
            remedy = "Name the RNA with modality=."
            key_in(self._modality, modalities, "its modalities", remedy)
            return self._modality
        if usual := [name for name in _keys.RNA_KEYS if name in modalities]:
            return usual[0]
        raise KeyError(
            f"has no RNA modality ({listed(_keys.RNA_KEYS)}); it holds {listed(modalities)}. Name "
            f"the RNA with modality=."
        )

    def _open_10x(self, matrix: Any) -> None:
        self._root, self._cells, self._is_raw = matrix, matrix["barcodes"], False
        keys = "name", "id", "feature_type"
        columns = {key: values(matrix["features"][key], slice(None)) for key in keys}
        self._genes = pd.Index(columns["name"])
        self._var: Any = {"gene_ids": matrix["features"]["id"]}
        kinds = {"feature_type": columns["feature_type"].to_numpy()}
        self._take_features(pd.DataFrame(kinds, index=self._genes))
        n_features, n_cells = map(int, matrix["shape"][:])
        self._rows: elements.Rows = elements.Csr(matrix, (n_cells, n_features))

    def _open_anndata(self, group: Any) -> None:
        if not (elements.is_group(group["obs"]) and elements.is_group(group["var"])):
            raise ValueError(
                "was written by an anndata before 0.7; read it and write it again: "
                "ad.read_h5ad(path).write_h5ad(path)."
            )
        self._root, self._obs = group, group["obs"]
        self._cells = self._obs[self._obs.attrs["_index"]]
        layers, raw = group.get("layers", {}), _checks.counts.RAW
        self._is_raw = self._layer == raw and raw not in layers and "raw" in group
        slots = group["raw"] if self._is_raw else group
        var = slots["var"]
        self._genes, self._var = index_of(var), var
        columns = [key for key in var if _checks.genes.may_tell(key)]
        kinds = {key: values(var[key], slice(None)).to_numpy() for key in columns}
        self._take_features(pd.DataFrame(kinds, index=self._genes))
        if _keys.IN_QUERY in var:  # zeros of pp.align_genes
            in_query = values(var[_keys.IN_QUERY], slice(None))
            self._is_gene = self._is_gene & in_query.to_numpy(dtype=bool)
        if self._layer is not None and not self._is_raw:
            key_in(self._layer, layers, "adata.layers")
            self._rows = elements.rows_of(layers[self._layer], self._memory)
            return
        if "X" not in slots or slots["X"].attrs.get("encoding-type") == "null":
            places = [f"layer={name!r}" for name in layers]
            places += ["layer='raw' (adata.raw)"] if "raw" in group else []
            raise ValueError(
                f"has no X. Name the layer with the raw counts; there are "
                f"{listed(places) if places else 'none'}."
            )
        self._rows = elements.rows_of(slots["X"], self._memory)

    def _take_features(self, var: pd.DataFrame) -> None:
        """Which rows are genes; some must be."""
        self._features = _checks.genes.features_of(var)
        if not self._features.is_gene.any():
            _checks.genes.only_genes(self._features)
        self._is_gene = self._features.is_gene


# ---- columns of a matrix brought to the places of a vocabulary


class Columns:
    """Where each column of a data set belongs, for all its matrices and blocks of cells.

    Parameters
    ----------
    index
        Place of each column, −1 for one that is left out, as
        :meth:`~scbert_cll.vocab.GeneVocab.resolve` gives it.
    n_genes
        Length of the vocabulary.
    """

    def __init__(self, index: np.ndarray, n_genes: int) -> None:
        columns = np.flatnonzero(index >= 0)
        places = index[columns]
        self.per_gene = np.bincount(places, minlength=n_genes)
        ones = np.ones(len(columns), np.int8)
        shape = len(index), n_genes
        self._place = sparse.csr_matrix((ones, (columns, places)), shape)

    @property
    def is_summed(self) -> bool:
        """Whether several columns share a place."""
        return bool((self.per_gene > 1).any())

    @property
    def is_complete(self) -> bool:
        """Whether no column is left out."""
        return bool(self.per_gene.sum() == self._place.shape[0])

    def placed(self, csr: sparse.csr_matrix) -> sparse.csr_matrix:
        """Put columns in their place and sum those that share one; genes of a cell in any order.

        One sparse product, in a type that holds the sums.
        """
        dtype = np.int64 if self.is_summed and csr.dtype.kind in "bui" else csr.dtype
        return csr @ self._place.astype(dtype)

    def moved(self, csr: sparse.csr_matrix) -> sparse.csr_matrix:
        """The same, genes of every cell in order."""
        moved = self.placed(csr)
        moved.sort_indices()
        return moved
