"""From sparse rows to batches of tokens, and which rows train, validate and test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import lightning.pytorch as L
import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

Batch = dict[str, Tensor]


class TokenRows(Dataset[Batch]):
    """Cells as token batches; one item is a whole batch, asked for by its row numbers.

    With ``tokens="expressed"`` a cell is its non-zero genes, padded to the longest of the batch; with ``"all"`` it is every
    gene, plus the constant end token where the network has one.
    """

    def __init__(
        self,
        csr: sparse.csr_matrix,
        tokens: Literal["expressed", "all"],
        *,
        end_token: bool = False,
        **columns: np.ndarray,
    ) -> None:
        self.csr, self.tokens, self.end_token = csr, tokens, end_token
        self.columns = {name: torch.as_tensor(values) for name, values in columns.items()}

    def __len__(self) -> int:
        return int(self.csr.shape[0])

    def __getitem__(self, rows: Sequence[int] | np.ndarray) -> Batch:
        rows = np.asarray(rows)
        batch = self._expressed(rows) if self.tokens == "expressed" else self._all(rows)
        batch["rows"] = torch.from_numpy(rows.astype(np.int64))
        return batch | {name: values[rows] for name, values in self.columns.items()}

    def lengths(self) -> np.ndarray:
        """Number of tokens of each cell that are not zero."""
        return np.diff(self.csr.indptr)

    def _expressed(self, rows: np.ndarray) -> Batch:
        starts, lengths = self.csr.indptr[rows].astype(np.int64), self.lengths()[rows]
        place = np.arange(lengths.max())
        keep = place < lengths[:, None]
        source = (starts[:, None] + place)[keep]
        tokens, genes = np.zeros(keep.shape, np.int64), np.zeros(keep.shape, np.int64)
        tokens[keep], genes[keep] = self.csr.data[source], self.csr.indices[source]
        return {"tokens": torch.from_numpy(tokens), "genes": torch.from_numpy(genes), "keep": torch.from_numpy(keep)}

    def _all(self, rows: np.ndarray) -> Batch:
        tokens = torch.from_numpy(self.csr[rows].toarray().astype(np.int64))
        return {"tokens": torch.nn.functional.pad(tokens, (0, int(self.end_token)))}


class RowBatches(Sampler[list[int]]):
    """Lists of row numbers; with a seed shuffled, in another way in every epoch (Lightning tells which one it is)."""

    def __init__(self, rows: np.ndarray, batch_size: int, *, seed: int | None = None) -> None:
        self.rows, self.batch_size, self.seed, self.epoch = np.asarray(rows), batch_size, seed, 0

    def __len__(self) -> int:
        return len(self._bounds())

    def set_epoch(self, epoch: int) -> None:
        """Choose the order, so that a resumed run goes on with the one it would have had."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        rows = self.rows
        if self.seed is not None:
            rows = np.random.default_rng([self.seed, self.epoch]).permutation(rows)
        yield from (rows[start:stop].tolist() for start, stop in self._bounds())

    def _bounds(self) -> list[tuple[int, int]]:
        starts = list(range(0, len(self.rows), self.batch_size))
        if self.seed is not None and len(starts) > 1 and len(self.rows) - starts[-1] == 1:
            starts.pop()  # BatchNorm cannot train on a batch of one: the last cell joins the batch before
        return list(pairwise([*starts, len(self.rows)]))


def loader(data: TokenRows, batches: RowBatches) -> DataLoader[Batch]:
    """Loader whose batches are exactly those of `batches`; a generator of its own leaves the user's random numbers alone."""
    return DataLoader(data, sampler=batches, batch_size=None, generator=torch.Generator())


def in_order_of_length(data: TokenRows, batch_size: int) -> DataLoader[Batch]:
    """All cells, those with as many tokens together: little padding. Results are put back by their `rows`."""
    order = np.argsort(data.lengths(), kind="stable")
    return loader(data, RowBatches(order, batch_size))


class TokenSplits(L.LightningDataModule):
    """Training and validation rows of one `TokenRows`, for Lightning."""

    def __init__(self, data: TokenRows, parts: dict[str, np.ndarray], *, batch_size: int, seed: int) -> None:
        super().__init__()
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.train_idx, self.val_idx, self.test_idx = (
            parts.get(p, np.zeros(0, np.int64)) for p in ("train", "val", "test")
        )
        self.n_train, self.n_val = len(self.train_idx), len(self.val_idx)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches of training cells."""
        return loader(self.data, RowBatches(self.train_idx, self.batch_size, seed=self.seed))

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Batches of validation cells in a fixed order."""
        return loader(self.data, RowBatches(self.val_idx, self.batch_size)) if self.n_val else []


def random_split(n: int, fraction: float, seed: int) -> dict[str, np.ndarray]:
    """Part the rows at random, for data without a split; nothing is held out for testing."""
    order = np.random.default_rng(seed).permutation(n)
    n_val = round(n * fraction)
    return {"train": np.sort(order[n_val:]), "val": np.sort(order[:n_val])}
