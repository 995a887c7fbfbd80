"""A corpus on disk as what Lightning trains on: windows through annbatch, batches of tokens.

And what a verb was given: cells in memory, or a corpus.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from torch import Tensor

from scbert_cll import _binning, _checks, _keys, pp
from scbert_cll._checks.words import key_in, number_in, refuse_given
from scbert_cll._corpus.format import PARTS, open_corpus
from scbert_cll._disk.formats import Json, digest
from scbert_cll._optional import require
from scbert_cll.model.corpus.loader import CorpusLoader, WindowRows, Windows
from scbert_cll.model.training import batches
from scbert_cll.model.training.batches import Batch, TokenRows
from scbert_cll.model.training.options import Rng
from scbert_cll.nn import Config

# of a raw corpus
_LOG2: Final = {"method": "log2", "n_bins": 5, "target_sum": 1e4, "layer": "X"}
_REHEARSED: Final = 512  # cells


def without_cells(genes: pd.Index) -> AnnData:
    """Genes alone, as checks of cells take them."""
    return AnnData(var=pd.DataFrame(index=genes))


class Stored(NamedTuple):
    """Neighbouring cells of a corpus, in memory."""

    part: str
    start: int  # number of the first cell in its part
    adata: AnnData


class CorpusData(batches.ResumableData):
    """Cells of a corpus that :func:`~scbert_cll.pp.build_corpus` wrote, for training and inference.

    The corpus may be larger than memory. Cells are read through annbatch in windows: chunks of
    neighbours from all over the (shuffled) corpus. Every process reads its share of each, and every
    cell is seen exactly once per epoch. What a window holds, and in which order, follows from the
    seed, the epoch and its number alone: it does not depend on workers, and a resumed run goes on
    in the middle of an epoch. Only expressed genes travel; tokens are made on the device.

    Parameters
    ----------
    path
        The corpus.
    balance
        `obs` columns of the corpus, e.g. ``["cd49d", "donor"]``: in training, every combination of
        their values is drawn equally often from each window, with replacement. Empty: every cell
        once per epoch.
    num_workers
        Processes that read ahead; they change nothing but the speed.
    chunk_size, preload_nchunks
        Neighbours read at once, and chunks in a window: a process holds ``chunk_size *
        preload_nchunks`` cells.
    binning
        For a corpus of raw counts: the record of :func:`~scbert_cll.pp.bin_expression` to bin by;
        None is log2 with 5 bins.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no corpus, or it is damaged; files are named.
    ImportError
        The extra ``corpus`` is not installed.

    Examples
    --------
    >>> data = CorpusData("corpus.zarr")
    >>> model = ScBERT.from_corpus(data)
    >>> model.train(max_epochs=1, datamodule=data)
    """

    is_streamed = True

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        balance: Sequence[str] = (),
        num_workers: int = 0,
        chunk_size: int = 256,
        preload_nchunks: int = 16,
        binning: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        number_in(chunk_size, "chunk_size", 2, np.inf, whole=True)
        number_in(preload_nchunks, "preload_nchunks", 2, np.inf, whole=True)
        number_in(num_workers, "num_workers", 0, np.inf, whole=True)
        self.corpus = open_corpus(path)
        self.num_workers = num_workers
        self.chunk_size, self.preload_nchunks = chunk_size, preload_nchunks
        self.balance = [balance] if isinstance(balance, str) else list(balance)
        self._raw = self.corpus.binning is None
        log2 = {"params": _LOG2, "edges": np.exp2(np.arange(1.0, 6)) - 1}
        record: Mapping[str, Any] = self.corpus.binning or binning or log2
        params, edges = dict(record["params"]), record["edges"]
        self.binning: Json = {"params": params, "edges": edges}
        self.count(self.genes, _checks.counts.totals_of(self.genes))
        require("annbatch", "A corpus")
        from scbert_cll.model.corpus.reader import Reader

        self.readers = {part: Reader(self.corpus, part) for part in PARTS}
        self.n_train, self.n_val = (self.corpus.n_cells(part) for part in PARTS)
        self.labels: dict[str, np.ndarray] = {}
        self._obs_cache: dict[tuple[str, str], pd.Series] = {}
        self.batch_size, self.seed, self.n_proteins = 32, 0, 0

    @property
    def genes(self) -> pd.Index:
        """The vocabulary of the corpus."""
        return self.corpus.genes

    def obs(self, part: str, column: str) -> pd.Series:
        """One column of the cells of a part."""
        if (part, column) not in self._obs_cache:
            where = f"the obs columns of {self.corpus.path}"
            remedy = "Name it in obs_columns= of pp.build_corpus."
            key_in(column, [_keys.DONOR, *self.corpus.obs_columns], where, remedy)
            self._obs_cache[part, column] = self.readers[part].obs([column])[column]
        return self._obs_cache[part, column]

    def names(self, part: str) -> pd.Index:
        """Names of the cells of a part: number of their file, and the name they had there."""
        return self.readers[part].names()

    def classes(self, labels_key: str) -> list[str]:
        """Classes of the training cells."""
        return _checks.adata.classes(self.obs(_keys.TRAIN, labels_key), labels_key)

    # ---- training

    def attach(
        self,
        genes: pd.Index,
        config: Config,
        *,
        seed: int,
        labels_key: str | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        """Get ready for a network: its genes, how it wants tokens, and the labels it learns.

        Without these, cells are sorted by length.
        """
        _checks.genes.model_genes(genes, without_cells(self.genes))
        self.n_train, self.n_val = (self.corpus.n_cells(part) for part in PARTS)
        self.model_genes, self.config, self.seed = genes, config, seed
        self.labels = {}
        if labels_key is not None:
            for part in PARTS:
                names = _checks.people.class_names(self.obs(part, labels_key))
                codes = pd.Categorical(names, list(classes)).codes
                self.labels[part] = np.asarray(codes, np.int64)
            counts = (int((codes >= 0).sum()) for codes in self.labels.values())
            self.n_train, self.n_val = counts
        self._lengths: dict[str, np.ndarray] = {}
        self._orders: dict[int | None, Tensor | None] = {}
        self._described = {"labels_key": labels_key, "classes": list(classes)}

    def digest(self) -> str:
        """Checksum of what is trained on, and in which order."""
        names = "balance", "chunk_size", "preload_nchunks"
        how = {name: getattr(self, name) for name in names}
        return digest({"corpus": self.corpus.digest, **how, **self._described})

    def train_dataloader(self) -> CorpusLoader:
        """Shuffled batches; each process gets its share."""
        return self.placed(self._loader(_keys.TRAIN, self.seed))

    def val_dataloader(self) -> CorpusLoader | list[Any]:
        """Validation cells, once each, in the order in which they are stored."""
        return self._loader(_keys.VAL, None) if self.n_val else []

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Tokens, made where the network is."""
        if "cells" in batch:
            return batch
        draw = batch["draw"]
        if draw not in self._orders:
            self._orders = {draw: batches.gene_order(self.config, self.seed, draw)}
        cells = batches.expand(batch["compact"], self.config, self._orders[draw])
        names = [name for name in batch if name not in ("compact", "draw")]
        return {"cells": cells, **{name: batch[name] for name in names}}

    def rehearsal(self) -> tuple[TokenRows, np.ndarray, int]:
        """Some training cells in memory, their rows, and how many cells they stand for."""
        places = np.linspace(0, self.n_train - 1, min(_REHEARSED, self.n_train))
        some = np.unique(places.astype(np.int64))
        rows = TokenRows(self.tokens(_keys.TRAIN, some), self.config)
        rows.columns["labels"] = torch.zeros(len(rows), dtype=torch.int64)
        return rows, np.flatnonzero(rows.lengths() > 0), self.n_train

    def tokens(self, part: str, rows: np.ndarray) -> sparse.csr_matrix:
        """Tokens of some cells, for the genes of the network."""
        tokens = self._binned(self.readers[part].read(rows))
        return batches.take_columns(tokens, self.genes.get_indexer(self.model_genes))

    def count(self, genes: pd.Index, params: Mapping[str, Any]) -> None:
        """Make totals of raw counts, binned when they are read, of the genes of a model.

        Its `params` tell whether these are all; else totals are of the corpus' genes.
        """
        if not self._raw:
            return
        totals = _checks.counts.totals_of(genes)
        if totals["genes_digest"] != params.get("genes_digest"):
            genes, totals = self.genes, _checks.counts.totals_of(self.genes)
        self._counted = np.flatnonzero(self.genes.isin(genes))
        self.binning["params"].update(totals)

    def _binned(self, csr: sparse.csr_matrix) -> sparse.csr_matrix:
        if not self._raw:
            return csr
        if len(self._counted) < len(self.genes):
            return self._binned_in_some(csr)
        adata = AnnData(csr, var=pd.DataFrame(index=self.genes))
        pp.bin_expression(adata, edges=self.binning)
        return adata.layers[_keys.BINNED]

    def _binned_in_some(self, csr: sparse.csr_matrix) -> sparse.csr_matrix:
        """Tokens of the genes that are counted; the others have none."""
        edges = self.binning["edges"]
        if isinstance(edges, pd.DataFrame):
            edges = edges.loc[self.genes[self._counted]]
        tokens = _binning.cut(csr[:, self._counted], self.binning | {"edges": edges})
        genes = self._counted[tokens.indices]
        return sparse.csr_matrix((tokens.data, genes, tokens.indptr), shape=csr.shape)

    def _loader(self, part: str, seed: int | None) -> CorpusLoader:
        # cells that are trained on: the labelled ones where there are labels, else all
        rows = np.flatnonzero(self.labels[part] >= 0) if self.labels else None
        windows = Windows(
            len(self.readers[part]) if rows is None else len(rows),
            self.batch_size,
            seed=seed,
            rank=self.trainer.global_rank if self.trainer else 0,
            world=self.trainer.world_size if self.trainer else 1,
            chunk=self.chunk_size,
            n_chunks=self.preload_nchunks,
        )
        is_sorted = not self.labels and not self.config.every_gene  # by length
        if is_sorted and part not in self._lengths:
            self._lengths[part] = self.readers[part].lengths()
        return CorpusLoader(
            WindowRows(windows, rows, partial(self.tokens, part)),
            self.config,
            labels=self.labels.get(part),
            lengths=self._lengths[part] if is_sorted else None,
            weights=self.weights(part) if seed is not None and self.balance else None,
            num_workers=self.num_workers,
        )

    def weights(self, part: str) -> np.ndarray:
        """One over the number of cells with the same values; 0 where one is missing."""
        columns = {name: self.obs(part, name).to_numpy() for name in self.balance}
        values = pd.DataFrame(columns)
        grouped = values.groupby(self.balance, observed=True, dropna=True)
        groups = grouped.ngroup().fillna(-1).to_numpy(np.int64)
        counts = np.bincount(groups[groups >= 0])
        return np.where(groups >= 0, 1 / np.maximum(counts, 1)[groups], 0.0)

    # ---- inference

    def inference_dataloader(self, parts: Sequence[str] = PARTS) -> Iterator[Stored]:
        """Go through all cells in the order in which they are stored, a window at a time.

        Each comes as an AnnData with ``layers["binned"]``, which every method of a model takes.
        :func:`~scbert_cll.tl.predict_corpus` writes what models say straight to disk.
        """
        size = self.chunk_size * self.preload_nchunks
        for part in parts:
            n = self.corpus.n_cells(part)
            for start in range(0, n, size):
                rows = np.arange(start, min(start + size, n))
                yield Stored(part, start, self.cells(part, rows))

    def sample(self, n_cells: int, *, part: str = _keys.TRAIN, rng: Rng = 0) -> AnnData:
        """Cells drawn at random, in memory, with all columns of `obs`.

        To look at, or for :func:`~scbert_cll.tl.gene2vec`.
        """
        n = self.corpus.n_cells(part)
        rows = np.random.default_rng(rng).choice(n, min(n_cells, n), replace=False)
        return self.cells(part, np.sort(rows), obs=True)

    def cells(self, part: str, rows: np.ndarray, *, obs: bool = False) -> AnnData:
        """Some cells in memory, binned."""
        layers = {_keys.BINNED: self._binned(self.readers[part].read(rows))}
        adata = AnnData(layers=layers, var=pd.DataFrame(index=self.genes))
        adata.uns[_keys.BINNED] = dict(self.binning)
        if obs:
            columns = [_keys.DONOR, *self.corpus.obs_columns]
            adata.obs = self.readers[part].obs(columns).iloc[rows]
        return adata


# ---- what a verb was given: cells in memory, or a corpus on disk


OnDisk = CorpusData | str | PathLike[str]
ON_DISK: Final = (CorpusData, str, PathLike)
# why arguments are refused that are not for the one, or not for the other
NOT_OF_A_CORPUS: Final = (
    "belong to cells in memory; a corpus was binned and split by donor when it was built. Leave "
    "them out."
)
ONLY_OF_A_CORPUS: Final = "are for a corpus on disk, and the cells are in memory."
_OF_CELLS: Final = (".h5ad", ".h5mu", ".h5")


def opened(
    corpus: OnDisk,
    *,
    balance: Sequence[str] = (),
    num_workers: int = 0,
    binning: Mapping[str, Any] | None = None,
) -> CorpusData:
    """The corpus; `binning` is for one of raw counts."""
    if isinstance(corpus, CorpusData):
        given = {"balance": bool(balance), "num_workers": bool(num_workers)}
        why = "belong in CorpusData(…), which is open already; leave them out here."
        refuse_given(given, why)
        return corpus
    if not isinstance(corpus, (str, PathLike)):
        raise TypeError(
            f"Expected a corpus, its path or a CorpusData; found {type(corpus).__name__}."
        )
    if Path(corpus).suffix in _OF_CELLS:
        raise ValueError(
            f"{corpus} is a file of cells; read it (ad.read_h5ad), or build a corpus of it and "
            f"others (pp.build_corpus)."
        )
    return CorpusData(corpus, balance=balance, num_workers=num_workers, binning=binning)
