"""A corpus on disk as what Lightning trains on: windows of cells through annbatch, batches of tokens on the device."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scbert_cll import _checks, _keys, pp
from scbert_cll._corpus.format import PARTS, Corpus, open_corpus
from scbert_cll._files import digest
from scbert_cll.model._data import Batch, Placed, TokenRows, compact, expand, gene_order, take_columns
from scbert_cll.model._windows import Windows
from scbert_cll.nn import Config

if TYPE_CHECKING:
    from scbert_cll.model._annbatch import Reader

_LOG2: Final[dict[str, Any]] = {"method": "log2", "n_bins": 5, "target_sum": 1e4, "layer": "X"}  # of a raw corpus
_REHEARSED: Final = 512  # cells


class Stored(NamedTuple):
    """Neighbouring cells of a corpus, in memory."""

    part: str
    start: int  # number of the first cell in its part
    adata: AnnData


class CorpusData(Placed):
    """Cells of a corpus that :func:`~scbert_cll.pp.build_corpus` wrote, for training and inference without reading it into memory.

    Cells are read through annbatch in windows: chunks of neighbours from all over the (shuffled) corpus. Every process reads its share of
    each, and every cell is seen exactly once per epoch. What a window holds, and in which order, follows from the seed, the epoch and its number alone:
    it does not depend on workers, and a resumed run goes on in the middle of an epoch. Only expressed genes travel; tokens are made on the device.

    Parameters
    ----------
    path
        The corpus.
    balance
        `obs` columns of the corpus, e.g. ``["cd49d", "donor"]``: in training, every combination of their values is drawn equally
        often from each window, with replacement. Empty: every cell once per epoch.
    num_workers
        Processes that read ahead; they change nothing but the speed.
    chunk_size, preload_nchunks
        Neighbours read at once, and chunks in a window: a process holds ``chunk_size * preload_nchunks`` cells.
    binning
        For a corpus of raw counts: the record of :func:`~scbert_cll.pp.bin_expression` to bin by; None is log2 with 5 bins.

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

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        balance: Sequence[str] = (),
        num_workers: int = 0,
        chunk_size: int = 256,
        preload_nchunks: int = 16,
        binning: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("chunk_size", chunk_size), ("preload_nchunks", preload_nchunks)):
            _checks.number_in(value, name, 2, np.inf, whole=True)
        _checks.number_in(num_workers, "num_workers", 0, np.inf, whole=True)
        self.corpus = open_corpus(path)
        self.num_workers, self.chunk_size, self.preload_nchunks = num_workers, chunk_size, preload_nchunks
        self.balance = [balance] if isinstance(balance, str) else list(balance)
        self._raw = self.corpus.binning is None
        stored = self.corpus.binning or binning or {"params": _LOG2, "edges": np.exp2(np.arange(1.0, 6)) - 1}
        self.binning: dict[str, Any] = {"params": dict(stored["params"]), "edges": stored["edges"]}
        self.readers = {part: _reader(self.corpus, part) for part in PARTS}
        self.n_train, self.n_val = (self.corpus.n_cells(part) for part in PARTS)
        self.labels: dict[str, np.ndarray] = {}
        self._obs_cache: dict[tuple[str, str], pd.Series] = {}
        self.batch_size, self.seed, self.n_proteins = 32, 0, 0

    @property
    def n_labelled(self) -> int:
        """Training cells that have a label, or all where none is learned."""
        return self.n_train

    @property
    def genes(self) -> pd.Index:
        """The vocabulary of the corpus."""
        return self.corpus.genes

    def obs(self, part: str, column: str) -> pd.Series:
        """One column of the cells of a part."""
        if (part, column) not in self._obs_cache:
            known = [_keys.DONOR, *self.corpus.record["obs_columns"]]
            _checks.key_in(
                column, known, f"the obs columns of {self.corpus.path}", "Name it in obs_columns= of pp.build_corpus."
            )
            self._obs_cache[part, column] = self.readers[part].obs([column])[column]
        return self._obs_cache[part, column]

    def names(self, part: str) -> pd.Index:
        """Names of the cells of a part: number of their file, and the name they had there."""
        return self.readers[part].names()

    def classes(self, labels_key: str) -> list[str]:
        """Classes of the training cells."""
        return _checks.classes(self.obs(_keys.TRAIN, labels_key), labels_key)

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
        """Get ready for a network: its genes, how it wants tokens, and the labels it learns; without these, cells are sorted by length."""
        _checks.model_genes(genes, AnnData(var=pd.DataFrame(index=self.genes)))
        self.n_train, self.n_val = (self.corpus.n_cells(part) for part in PARTS)
        self.model_genes, self.config, self.seed = genes, config, seed
        self.labels = {} if labels_key is None else {part: self._codes(part, labels_key, classes) for part in PARTS}
        if self.labels:
            self.n_train, self.n_val = (int((self.labels[part] >= 0).sum()) for part in PARTS)
        self._lengths: dict[str, np.ndarray] = {}
        self._orders: dict[int | None, Tensor | None] = {}
        self._described = {"labels_key": labels_key, "classes": list(classes)}

    def digest(self) -> str:
        """Checksum of what is trained on, and in which order."""
        how = {"balance": self.balance, "chunk_size": self.chunk_size, "preload_nchunks": self.preload_nchunks}
        return digest({"corpus": self.corpus.digest} | how | self._described)

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
            self._orders = {draw: gene_order(self.config, self.seed, draw)}
        order = self._orders[draw]
        columns = {name: value for name, value in batch.items() if name not in ("compact", "draw")}
        return {"cells": expand(batch["compact"], self.config, order)} | columns

    def rehearsal(self) -> tuple[TokenRows, np.ndarray, int]:
        """Some training cells in memory, their rows, and how many cells they stand for."""
        some = np.unique(np.linspace(0, self.n_train - 1, min(_REHEARSED, self.n_train)).astype(np.int64))
        rows = TokenRows(self.tokens(_keys.TRAIN, some), self.config)
        rows.columns["labels"] = torch.zeros(len(rows), dtype=torch.int64)
        return rows, np.flatnonzero(rows.lengths() > 0), self.n_train

    def tokens(self, part: str, rows: np.ndarray) -> sparse.csr_matrix:
        """Tokens of some cells, for the genes of the network."""
        columns = self.genes.get_indexer(self.model_genes)
        return take_columns(self._binned(self.readers[part].read(rows)), columns)

    def _binned(self, csr: sparse.csr_matrix) -> sparse.csr_matrix:
        if not self._raw:
            return csr
        adata = AnnData(csr, var=pd.DataFrame(index=self.genes))
        pp.bin_expression(adata, edges=self.binning)
        return adata.layers[_keys.BINNED]

    def _loader(self, part: str, seed: int | None) -> CorpusLoader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        shared = {"rank": rank, "world": world, "chunk": self.chunk_size, "n_chunks": self.preload_nchunks}
        rows = self._rows(part)
        n = len(self.readers[part]) if rows is None else len(rows)
        windows = Windows(n, self.batch_size, seed=seed, **shared)
        return CorpusLoader(
            _Windows(windows, rows, part, self.tokens),
            self.config,
            labels=self.labels.get(part),
            lengths=None if self.labels or self.config.tokens == "all" else self._of_length(part),
            weights=self.weights(part) if seed is not None and self.balance else None,
            num_workers=self.num_workers,
        )

    def _rows(self, part: str) -> np.ndarray | None:
        """Cells that are trained on: the labelled ones where there are labels, else None for all."""
        return np.flatnonzero(self.labels[part] >= 0) if self.labels else None

    def _of_length(self, part: str) -> np.ndarray:
        if part not in self._lengths:
            self._lengths[part] = self.readers[part].lengths()
        return self._lengths[part]

    def _codes(self, part: str, labels_key: str, classes: Sequence[str]) -> np.ndarray:
        """Class of each cell, -1 without."""
        if not self.corpus.n_cells(part):
            return np.zeros(0, np.int64)
        column = self.obs(part, labels_key)
        known = pd.Categorical(column.astype(object).where(column.notna(), None), categories=list(classes))
        return np.asarray(known.codes, np.int64)

    def weights(self, part: str) -> np.ndarray:
        """One over the number of cells with the same values; 0 where one is missing."""
        values = pd.DataFrame({name: self.obs(part, name).to_numpy() for name in self.balance})
        groups = values.groupby(self.balance, observed=True, dropna=True).ngroup().fillna(-1).to_numpy(np.int64)
        counts = np.bincount(groups[groups >= 0])
        return np.where(groups >= 0, 1 / np.maximum(counts, 1)[groups], 0.0)

    # ---- inference

    def inference_dataloader(self, parts: Sequence[str] = PARTS) -> Iterator[Stored]:
        """Go through all cells in the order in which they are stored, a window at a time.

        Each comes as an AnnData with ``layers["binned"]``, which every method of a model takes. :func:`~scbert_cll.tl.predict_corpus` writes what
        models say straight to disk.
        """
        size = self.chunk_size * self.preload_nchunks
        for part in parts:
            n = self.corpus.n_cells(part)
            for start in range(0, n, size):
                yield Stored(part, start, self.cells(part, np.arange(start, min(start + size, n))))

    def sample(self, n_cells: int, *, part: str = _keys.TRAIN, rng: int | np.random.Generator | None = 0) -> AnnData:
        """Cells drawn at random, in memory, with all columns of `obs`: to look at, or for :func:`~scbert_cll.tl.gene2vec`."""
        n = self.corpus.n_cells(part)
        rows = np.sort(np.random.default_rng(rng).choice(n, min(n_cells, n), replace=False))
        return self.cells(part, rows, obs=True)

    def cells(self, part: str, rows: np.ndarray, *, obs: bool = False) -> AnnData:
        """Some cells in memory, binned."""
        tokens = self._binned(self.readers[part].read(rows))
        adata = AnnData(layers={_keys.BINNED: tokens}, var=pd.DataFrame(index=self.genes))
        adata.uns[_keys.BINNED] = dict(self.binning)
        if obs:
            adata.obs = self.readers[part].obs([_keys.DONOR, *self.corpus.record["obs_columns"]]).iloc[rows]
        return adata


class _Windows(Dataset[list[Tensor]]):
    """One item is a window: the tokens of its cells as the three arrays of a CSR matrix."""

    def __init__(
        self,
        windows: Windows,
        rows: np.ndarray | None,
        part: str,
        read: Callable[[str, np.ndarray], sparse.csr_matrix],
    ) -> None:
        self.windows, self.rows, self.part, self.read = windows, rows, part, read

    def cells(self, epoch: int, window: int) -> np.ndarray:
        """Which cells are in a window."""
        cells = self.windows.cells(epoch, window)
        return cells if self.rows is None else self.rows[cells]

    def __getitem__(self, asked: tuple[int, int]) -> list[Tensor]:
        csr = self.read(self.part, self.cells(*asked))
        return [torch.from_numpy(np.ascontiguousarray(x)) for x in (csr.data, csr.indices, csr.indptr)]


class CorpusLoader:
    """Batches of an epoch, one after the other; Lightning saves and restores the place.

    `waited` counts the seconds that training stood still for data.
    """

    def __init__(
        self,
        rows: _Windows,
        config: Config,
        *,
        labels: np.ndarray | None,
        lengths: np.ndarray | None,
        weights: np.ndarray | None,
        num_workers: int,
    ) -> None:
        self.data, self.config, self.num_workers = rows, config, num_workers
        self.labels, self.lengths, self.weights = labels, lengths, weights
        self.epoch, self.done, self.waited = 0, 0, 0.0
        self._from = 0
        self.sampler, self.batch_sampler = self, None  # where Lightning looks for who wants to know the epoch

    def __len__(self) -> int:
        return self.data.windows.total

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the cells."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """The place in the epoch."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on there."""
        self._from = state["done"]

    def __iter__(self) -> Iterator[Batch]:
        first, self._from = self._from, 0
        self.done = first
        batches = self._epoch(self.epoch, first)
        while True:
            before = time.perf_counter()
            batch = _next(batches)
            self.waited += time.perf_counter() - before
            if batch is None:
                return
            self.done += 1
            yield batch

    def _epoch(self, epoch: int, first: int) -> Iterator[Batch]:
        """Batches from the `first` on; windows that are behind are not read."""
        windows, at = self.data.windows, 0
        left = []
        for window in range(len(windows)):
            n = windows.n_batches(window)
            left += [(window, max(first - at, 0))] if at + n > first else []
            at += n
        arrays = self._read([(epoch, window) for window, _ in left])
        for (window, behind), (values, genes, indptr) in zip(left, arrays, strict=True):
            csr = sparse.csr_matrix(
                (values.numpy(), genes.numpy(), indptr.numpy()), (len(indptr) - 1, self.config.n_genes)
            )
            yield from self._batches(csr, epoch, window, behind)

    def _read(self, asked: list[tuple[int, int]]) -> DataLoader[list[Tensor]]:
        ahead: dict[str, Any] = {"prefetch_factor": 1} if self.num_workers else {}
        return DataLoader(
            self.data,
            sampler=asked,
            batch_size=None,
            num_workers=self.num_workers,
            generator=torch.Generator(),
            **ahead,
        )

    def _batches(self, csr: sparse.csr_matrix, epoch: int, window: int, behind: int) -> Iterator[Batch]:
        cells, windows = self.data.cells(epoch, window), self.data.windows
        lengths = None if self.lengths is None else self.lengths[cells]
        weights = None if self.weights is None else self.weights[cells]
        draw = None if windows.seed is None else epoch
        for places in windows.batches(epoch, window, lengths, weights)[behind:]:
            # excluding genes may have left a cell without a token
            places = places[np.diff(csr.indptr)[places] > 0]
            found = compact(csr, places, self.config)
            rows = cells[found.rows.numpy()]
            batch: Batch = {"compact": found, "draw": draw, "rows": torch.from_numpy(rows)}
            if self.labels is not None:
                batch |= {"labels": torch.from_numpy(self.labels[rows]), "weights": torch.ones(len(rows))}
            yield batch


def _next(batches: Iterator[Batch]) -> Batch | None:
    """The next batch; None at the end."""
    try:
        return next(batches, None)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RuntimeError(
            f"A process that reads ahead ended: {error}. It may have run out of memory: try fewer num_workers or a smaller preload_nchunks. "
            "Started again, the run goes on from its last checkpoint."
        ) from error


def _reader(corpus: Corpus, part: str) -> Reader:
    try:
        from scbert_cll.model._annbatch import Reader
    except ImportError as error:
        raise ImportError(
            "Corpora are read by annbatch, which is not installed. Remedy: pip install 'scbert-cll[corpus]'."
        ) from error
    return Reader(corpus, part)
