"""Batches of an epoch over a corpus, from any place on: windows are read ahead and cut."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Final

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scbert_cll.model.training.batches import Batch, compact
from scbert_cll.nn import Config

_POOL: Final = 8  # batches whose cells are sorted by length together
_LEAST_CHUNKS: Final = 2

type PerCell = np.ndarray | None  # a number of each


@dataclass
class Windows:
    """The batches of an epoch over `n` cells: numbers only, so the same on every machine.

    Each process gets its share, and every cell is seen exactly once. A window is what a process
    holds in memory: `n_chunks` chunks of `chunk` neighbours, from all over the corpus. Windows are
    cut into batches. Numbers of windows and batches depend on nothing but these sizes, so all
    processes take the same number of steps in every epoch; which cells are in them is drawn from
    the seed, the epoch and the window, never from the state of a generator, so that training goes
    on anywhere.
    """

    n: int
    batch_size: int
    _: KW_ONLY
    seed: int | None
    rank: int = 0
    world: int = 1
    chunk: int = 256
    n_chunks: int = 16

    def __post_init__(self) -> None:
        n, world = self.n, self.world
        if n < 2 * world:
            raise ValueError(
                f"{n} cells are too few for {world} processes; each needs at least two."
            )
        self.step = self.chunk * world  # neighbours of which each process reads its own
        n_chunks = -(-self.batch_size // self.step)
        self.n_chunks = max(self.n_chunks, _LEAST_CHUNKS, n_chunks)
        self.n_full, self.rest = divmod(n, self.step)
        self.n_all = self.n_full + (self.rest > 0)  # chunks

    def __len__(self) -> int:
        """Windows in an epoch."""
        return -(-self.n_all // self.n_chunks)

    def n_batches(self, window: int) -> int:
        """Batches in a window.

        With a seed at least two cells for each process in every one, as BatchNorm wants.
        """
        n = min(self.n_chunks, self.n_all - window * self.n_chunks) * self.step
        n -= self.step - self.rest if window == 0 and self.rest else 0
        return max(1, min(round(n / self.batch_size), n // (2 * self.world)))

    @property
    def total(self) -> int:
        """Batches in an epoch."""
        return sum(self.n_batches(window) for window in range(len(self)))

    def cells(self, epoch: int, window: int) -> np.ndarray:
        """Cells of this process in a window, in the order in which they are read."""
        first, last = window * self.n_chunks, (window + 1) * self.n_chunks
        chunks = self._chunks(epoch)[first:last]
        return np.concatenate([self._mine(int(chunk)) for chunk in chunks])

    def batches(
        self, epoch: int, window: int, lengths: PerCell = None, weights: PerCell = None
    ) -> list[np.ndarray]:
        """Places in a window, batch by batch.

        With `lengths`, cells of about the same length share a batch; with `weights`, cells are
        drawn with replacement in proportion to them.
        """
        n_batches, n = self.n_batches(window), len(self.cells(epoch, window))
        if self.seed is None:
            return np.array_split(np.arange(n), n_batches)
        rng = np.random.default_rng([self.seed, epoch, window, self.rank])
        if weights is None or not weights.any():
            order = rng.permutation(n)
        else:
            order = rng.choice(n, n, p=weights / weights.sum())
        batches = np.array_split(order, n_batches)
        if lengths is None:
            return batches
        by_length: list[np.ndarray] = []
        for first in range(0, n_batches, _POOL):
            pooled = batches[first : first + _POOL]
            pool = np.concatenate(pooled)
            cuts = np.cumsum([len(batch) for batch in pooled])[:-1]
            by_length += np.split(pool[np.argsort(lengths[pool], kind="stable")], cuts)
        # the same for all processes, so that none waits for another one's long cells
        shared = np.random.default_rng([self.seed, epoch, window])
        return [by_length[i] for i in shared.permutation(n_batches)]

    def _chunks(self, epoch: int) -> np.ndarray:
        """Numbers of the chunks in the order of the epoch.

        The short one is always in the first window, where it changes no count.
        """
        if self.seed is None:
            short = [self.n_full] if self.rest else []
            return np.concatenate([short, np.arange(self.n_full)]).astype(np.int64)
        rng = np.random.default_rng([self.seed, epoch])
        full = rng.permutation(self.n_full)
        if not self.rest:
            return full
        place = int(rng.integers(min(self.n_chunks, self.n_full + 1)))
        return np.insert(full, place, self.n_full)

    def _mine(self, chunk: int) -> np.ndarray:
        """Share of this process in a chunk."""
        start = chunk * self.step
        n, rank, world = min(self.step, self.n - start), self.rank, self.world
        return start + np.arange(n * rank // world, n * (rank + 1) // world)


@dataclass(eq=False)
class WindowRows(Dataset[list[Tensor]]):
    """One item is a window: the tokens of its cells as the three arrays of a CSR matrix."""

    windows: Windows
    rows: np.ndarray | None
    read: Callable[[np.ndarray], sparse.csr_matrix]

    def cells(self, epoch: int, window: int) -> np.ndarray:
        """Which cells are in a window."""
        cells = self.windows.cells(epoch, window)
        return cells if self.rows is None else self.rows[cells]

    def __getitem__(self, key: tuple[int, int]) -> list[Tensor]:
        csr = self.read(self.cells(*key))
        arrays = csr.data, csr.indices, csr.indptr
        return [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]


@dataclass(eq=False, repr=False)
class CorpusLoader:
    """Batches of an epoch, one after the other; Lightning saves and restores the place.

    `waited` counts the seconds that training stood still for data.
    """

    data: WindowRows
    config: Config
    labels: PerCell
    lengths: PerCell
    weights: PerCell
    num_workers: int

    def __post_init__(self) -> None:
        self.epoch, self.done, self.waited = 0, 0, 0.0
        self._from = 0
        # where Lightning looks for who wants to know the epoch
        self.sampler, self.batch_sampler = self, None

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
        windows, n_before = self.data.windows, 0
        left = dict[int, int]()  # windows, and how many batches of each are behind
        for window in range(len(windows)):
            n = windows.n_batches(window)
            if n_before + n > first:
                left[window] = max(first - n_before, 0)
            n_before += n
        loader = DataLoader(
            self.data,
            sampler=[(epoch, window) for window in left],
            batch_size=None,
            num_workers=self.num_workers,
            generator=torch.Generator(),
            prefetch_factor=1 if self.num_workers else None,
        )
        for window, arrays in zip(left, loader, strict=True):
            values, genes, indptr = (array.numpy() for array in arrays)
            shape = len(indptr) - 1, self.config.n_genes
            csr = sparse.csr_matrix((values, genes, indptr), shape)
            yield from self._batches(csr, epoch, window, left[window])

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
            packed = compact(csr, places, self.config)
            rows = cells[packed.rows.numpy()]
            batch: Batch = {"compact": packed, "draw": draw}
            batch["rows"] = torch.from_numpy(rows)
            if self.labels is not None:
                batch["labels"] = torch.from_numpy(self.labels[rows])
                batch["weights"] = torch.ones(len(rows))
            yield batch


def _next(batches: Iterator[Batch]) -> Batch | None:
    """The next batch; None at the end."""
    try:
        return next(batches, None)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RuntimeError(
            f"A process that reads ahead ended: {error}. It may have run out of memory: try fewer "
            f"num_workers or a smaller preload_nchunks. Started again, the run goes on from its "
            f"last checkpoint."
        ) from error
