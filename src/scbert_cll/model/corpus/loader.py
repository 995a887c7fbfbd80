"""Batches of an epoch over a corpus: windows that are read ahead, cut into batches, from any place on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scbert_cll.model.corpus.windows import Windows
from scbert_cll.model.training.batches import Batch, compact
from scbert_cll.nn import Config


class WindowRows(Dataset[list[Tensor]]):
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
        return [
            torch.from_numpy(np.ascontiguousarray(x)) for x in (csr.data, csr.indices, csr.indptr)
        ]


class CorpusLoader:
    """Batches of an epoch, one after the other; Lightning saves and restores the place.

    `waited` counts the seconds that training stood still for data.
    """

    def __init__(
        self,
        rows: WindowRows,
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
        self.sampler, self.batch_sampler = (
            self,
            None,
        )  # where Lightning looks for who wants to know the epoch

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
                (values.numpy(), genes.numpy(), indptr.numpy()),
                (len(indptr) - 1, self.config.n_genes),
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

    def _batches(
        self, csr: sparse.csr_matrix, epoch: int, window: int, behind: int
    ) -> Iterator[Batch]:
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
                batch |= {
                    "labels": torch.from_numpy(self.labels[rows]),
                    "weights": torch.ones(len(rows)),
                }
            yield batch


def _next(batches: Iterator[Batch]) -> Batch | None:
    """The next batch; None at the end."""
    try:
        return next(batches, None)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RuntimeError(
            f"A process that reads ahead ended: {error}. It may have run out of memory: try "
            f"fewer num_workers or a smaller preload_nchunks. "
            "Started again, the run goes on from its last checkpoint."
        ) from error
