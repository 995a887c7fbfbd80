"""Which cells of a corpus are read together, and in which batches: numbers only, so the same on every machine."""

from __future__ import annotations

from typing import Final

import numpy as np

_POOL: Final = 8  # batches whose cells are sorted by length together
_LEAST_CHUNKS: Final = 2


class Windows:
    """The batches of an epoch over `n` cells, of which each process gets its share: every cell exactly once.

    A window is what a process holds in memory: `n_chunks` chunks of `chunk` neighbours, from all
    over the corpus. Windows are cut into batches. Numbers of windows and batches depend on nothing
    but these sizes, so all processes take the same number of steps in every epoch; which cells are
    in them is drawn from the seed, the epoch and the window, never from the state of a generator,
    so that training goes on anywhere.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        *,
        seed: int | None,
        rank: int = 0,
        world: int = 1,
        chunk: int = 256,
        n_chunks: int = 16,
    ) -> None:
        if n < 2 * world:
            raise ValueError(
                f"{n} cells are too few for {world} processes; each needs at least two."
            )
        self.n, self.batch_size, self.seed, self.rank, self.world = n, batch_size, seed, rank, world
        self.step = chunk * world  # neighbours of which each process reads its own
        self.n_chunks = max(n_chunks, _LEAST_CHUNKS, -(-batch_size // self.step))
        self.n_full, self.rest = divmod(n, self.step)

    def __len__(self) -> int:
        """Windows in an epoch."""
        return -(-(self.n_full + (self.rest > 0)) // self.n_chunks)

    def n_batches(self, window: int) -> int:
        """Batches in a window.

        With a seed at least two cells for each process in every one, as BatchNorm wants.
        """
        chunks = min(self.n_chunks, self.n_full + (self.rest > 0) - window * self.n_chunks)
        n = chunks * self.step - (self.step - self.rest if window == 0 and self.rest else 0)
        return max(1, min(round(n / self.batch_size), n // (2 * self.world)))

    @property
    def total(self) -> int:
        """Batches in an epoch."""
        return sum(self.n_batches(window) for window in range(len(self)))

    def cells(self, epoch: int, window: int) -> np.ndarray:
        """Cells of this process in a window, in the order in which they are read."""
        chunks = self._chunks(epoch)[window * self.n_chunks : (window + 1) * self.n_chunks]
        return np.concatenate([self._mine(int(chunk)) for chunk in chunks])

    def batches(
        self,
        epoch: int,
        window: int,
        lengths: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> list[np.ndarray]:
        """Places in a window, batch by batch.

        With `lengths`, cells of about the same length share a batch; with `weights`, cells are
        drawn with replacement in proportion to them.
        """
        n_batches, n = self.n_batches(window), len(self.cells(epoch, window))
        if self.seed is None:
            return np.array_split(np.arange(n), n_batches)
        own = np.random.default_rng([self.seed, epoch, window, self.rank])
        if weights is None or not weights.any():
            order = own.permutation(n)
        else:
            order = own.choice(n, n, p=weights / weights.sum())
        if lengths is None:
            return np.array_split(order, n_batches)
        batches = np.array_split(order, n_batches)
        found: list[np.ndarray] = []
        for first in range(0, n_batches, _POOL):
            pool = np.concatenate(batches[first : first + _POOL])
            cuts = np.cumsum([len(batch) for batch in batches[first : first + _POOL]])[:-1]
            found += np.split(pool[np.argsort(lengths[pool], kind="stable")], cuts)
        # the same for all processes, so that none waits for another one's long cells
        shared = np.random.default_rng([self.seed, epoch, window])
        return [found[i] for i in shared.permutation(n_batches)]

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
        return np.insert(full, int(rng.integers(min(self.n_chunks, self.n_full + 1))), self.n_full)

    def _mine(self, chunk: int) -> np.ndarray:
        """Share of this process in a chunk."""
        start = chunk * self.step
        n = min(self.step, self.n - start)
        return start + np.arange(n * self.rank // self.world, n * (self.rank + 1) // self.world)
