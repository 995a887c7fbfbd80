"""From sparse rows to batches of tokens, and which rows train, validate and test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, Final, NamedTuple

import lightning.pytorch as L
import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import sparse
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from scbert_cll._keys import SPLIT_ORDER
from scbert_cll.nn.config import Config, cut, tokens

# tokens (b, n), and where needed genes (b, n) and weight (b, n)
Cells = dict[str, Tensor]
# "cells": list of Cells; "rows" and further columns, in the order of the cells
Batch = dict[str, Any]
# what a further tensor costs, as numbers of the residual stream (tokens × width × blocks)
_OVERHEAD: Final = 2**17


class Rows(NamedTuple):
    """Row numbers of a batch, and which sample of background genes (None is the fixed one)."""

    rows: list[int]
    draw: int | None = None


class Compact(NamedTuple):
    """A batch as it is cheapest to move: expressed genes only, the longest cell first.

    Moved to a GPU as it is, and expanded there. `lengths` stays on the host, where the shapes of
    the tokens are made of it.
    """

    rows: Tensor  # (b,) int64: which cells these are
    values: Tensor  # (nnz,) uint8
    genes: Tensor  # (nnz,) int32
    # expressed genes of each cell, one list for each tensor of tokens
    lengths: list[list[int]]


def compact(csr: sparse.csr_matrix, rows: ArrayLike, config: Config) -> Compact:
    """Rows sorted by falling length, in parts of about the same length: little is padding."""
    rows = np.asarray(rows, np.int64)
    rows = rows[np.argsort(csr.indptr[rows] - csr.indptr[rows + 1], kind="stable")]
    taken = csr[rows]
    lengths = np.diff(taken.indptr)
    bounds = [0, len(rows)] if config.every_gene else _bounds(lengths, config)
    values = torch.from_numpy(taken.data.astype(np.uint8, copy=False))
    genes = torch.from_numpy(taken.indices.astype(np.int32, copy=False))
    parts = [lengths[start:stop].tolist() for start, stop in pairwise(bounds)]
    return Compact(torch.from_numpy(rows), values, genes, parts)


def expand(batch: Compact, config: Config, order: Tensor | None) -> list[Cells]:
    """Tokens of each part, on whichever device the batch is; `order` is `gene_order`'s."""
    lengths = list(chain(*batch.lengths))
    whole = tokens(batch.values, batch.genes, lengths, config, order)
    return cut(whole, batch.lengths, config) if len(batch.lengths) > 1 else [whole]


def gene_order(config: Config, seed: int, draw: int | None) -> Tensor | None:
    """All genes in the random order of a draw (None is the one that is the same for all seeds).

    None where there is no background.
    """
    if not config.samples:
        return None
    rng = np.random.default_rng([0] if draw is None else [seed, draw])
    return torch.from_numpy(rng.permutation(config.n_genes))


class TokenRows(Dataset[Batch]):
    """Cells as token batches; one item is a whole batch, asked for by its `Rows`.

    With ``tokens="expressed"`` a cell is its non-zero genes. ``"background"`` adds a sample of its
    zero genes, each of which stands for as many as make up all of them: the first `n_background`
    that the cell does not express in one random order of all genes, so that a cell's sample depends
    on nothing but the cell. With ``"all"`` a cell is every gene. The end token belongs to the
    latter two. Cells of about the same length share a tensor, so that little is padding.
    """

    def __init__(
        self, csr: sparse.csr_matrix, config: Config, seed: int = 0, **columns: np.ndarray
    ) -> None:
        self.csr, self.config, self.seed = csr, config, seed
        self.columns = {name: torch.as_tensor(part) for name, part in columns.items()}
        self._order: dict[int | None, Tensor | None] = {}

    def __len__(self) -> int:
        return int(self.csr.shape[0])

    def __getitem__(self, index: Rows) -> Batch:
        batch = compact(self.csr, index.rows, self.config)
        if index.draw not in self._order:
            self._order = {index.draw: gene_order(self.config, self.seed, index.draw)}
        cells = expand(batch, self.config, self._order[index.draw])
        columns = {name: values[batch.rows] for name, values in self.columns.items()}
        return {"cells": cells, "rows": batch.rows, **columns}

    def lengths(self) -> np.ndarray:
        """Number of tokens of each cell that are not zero."""
        return np.asarray(np.diff(self.csr.indptr))

    def n_tokens(self) -> np.ndarray:
        """Number of tokens that attend in each cell."""
        return self.config.n_tokens(self.lengths())


def _bounds(lengths: np.ndarray, config: Config) -> list[int]:
    """Where falling lengths are cut, since the padding that is spared is worth a further tensor."""
    bounds, longest = [0], lengths[0]
    worth = _OVERHEAD / (config.n_hidden * config.n_layers)
    for i, length in enumerate(lengths):
        if (longest - length) * (len(lengths) - i) > worth:
            bounds.append(i)
            longest = length
    return [*bounds, len(lengths)]


@dataclass(eq=False)
class RowBatches(Sampler[Rows]):
    """Row numbers, batch by batch.

    With a seed shuffled, in another way in every epoch (Lightning tells which one it is).

    Of several processes (`world`), each gets its share of every batch, so that `batch_size` counts
    the cells of all.
    """

    rows: np.ndarray
    batch_size: int
    seed: int | None = None
    rank: int = 0
    world: int = 1
    epoch: int = 0
    skip: int = 0  # batches of the next epoch that a run which is resumed has seen

    def __len__(self) -> int:
        return len(self._bounds())

    def set_epoch(self, epoch: int) -> None:
        """Choose the order, so that a resumed run goes on with the one it would have had."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Rows]:
        rows, draw = self.rows, None
        skip, self.skip = self.skip, 0
        if self.seed is not None:
            rows = np.random.default_rng([self.seed, self.epoch]).permutation(rows)
            draw = self.epoch
        for start, stop in self._bounds()[skip:]:
            yield Rows(rows[start:stop][self.rank :: self.world].tolist(), draw)

    def _bounds(self) -> list[tuple[int, int]]:
        n, is_trained = len(self.rows), self.seed is not None
        starts = list(range(0, n, self.batch_size))
        if is_trained and len(starts) > 1 and n - starts[-1] < 2 * self.world:
            # BatchNorm cannot train on a batch of one: the last cells join the batch before
            starts.pop()
        return list(pairwise([*starts, n]))


class ResumableLoader(DataLoader[Batch]):
    """A loader that knows how far it is in its epoch; Lightning saves and restores the place."""

    sampler: RowBatches
    done = 0

    def state_dict(self) -> dict[str, int]:
        """The place in the epoch."""
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on there."""
        self.sampler.skip = state["done"]

    def __iter__(self) -> Any:
        self.done = self.sampler.skip
        for batch in super().__iter__():
            self.done += 1
            yield batch


def loader(data: TokenRows, batches: RowBatches) -> ResumableLoader:
    """Loader whose batches are exactly those of `batches`.

    A generator of its own leaves the user's random numbers alone.
    """
    rng = torch.Generator()
    return ResumableLoader(data, sampler=batches, batch_size=None, generator=rng)


def in_order_of_length(data: TokenRows, batch_size: int) -> DataLoader[Batch]:
    """All cells, those with as many tokens together. Results are put back by their `rows`."""
    order = np.argsort(data.lengths(), kind="stable")
    return loader(data, RowBatches(order, batch_size))


class ResumableData(L.LightningDataModule):
    """Data whose place in the epoch is part of a checkpoint.

    Lightning, too, saves the place of a loader, but does not hand it back where a schedule had to
    know the number of steps before.
    """

    is_streamed = False  # from disk: how fast is worth to be told
    batch_size: int
    seed: int
    n_train: int
    n_val: int
    n_proteins = 0
    _train: Any = None
    _done = 0

    @property
    def n_labelled(self) -> int:
        """Training cells that have a label, or all where none is learned."""
        return self.n_train

    def digest(self) -> str:
        """Checksum of all that is trained on and validated with."""
        raise NotImplementedError

    def rehearsal(self) -> tuple[TokenRows, np.ndarray, int]:
        """Training cells in memory, rows of them to try a step with, how many they stand for."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Begin anew."""
        self._train, self._done = None, 0

    def placed[Loader](self, train: Loader) -> Loader:
        """Let a training loader go on where the checkpoint says, and remember it."""
        train.load_state_dict({"done": self._done})  # type: ignore[attr-defined]
        self._train, self._done = train, 0
        return train

    def state_dict(self) -> dict[str, int]:
        """For a checkpoint."""
        return {} if self._train is None else dict(self._train.state_dict())

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """From a checkpoint; a network that is shared out is read after the loaders were made."""
        if self._train is None:
            self._done = state_dict["done"]
        else:
            self._train.load_state_dict(state_dict)


class TokenSplits(ResumableData):
    """Training and validation rows of one `TokenRows`, for Lightning."""

    def __init__(self, data: TokenRows, parts: Mapping[str, np.ndarray], *, seed: int) -> None:
        super().__init__()
        self.data, self.batch_size, self.seed = data, 32, seed
        none = np.zeros(0, np.int64)
        rows = [parts.get(part, none) for part in SPLIT_ORDER]
        self.train_idx, self.val_idx, self.test_idx = rows
        self.n_train, self.n_val = len(self.train_idx), len(self.val_idx)
        if "proteins" in data.columns:
            self.n_proteins = data.columns["proteins"].shape[1]

    @property
    def n_labelled(self) -> int:
        """Training cells that have a label, or all where none is learned."""
        if "labels" not in self.data.columns:
            return self.n_train
        return int((self.data.columns["labels"][self.train_idx] >= 0).sum())

    def rehearsal(self) -> tuple[TokenRows, np.ndarray, int]:
        """The cells, which of them are trained on, and how many these are."""
        return self.data, self.train_idx, self.n_train

    def digest(self) -> str:
        """Checksum of all that is trained on and validated with."""
        csr, checksum = self.data.csr, hashlib.sha256()
        matrix = {"values": csr.data, "genes": csr.indices, "cells": csr.indptr}
        rows = {"train": self.train_idx, "val": self.val_idx}
        for name, values in {**matrix, **rows, **self.data.columns}.items():
            array = np.ascontiguousarray(values)
            checksum.update(f"{name} {array.dtype.str} {array.shape}".encode())
            checksum.update(array.tobytes())
        return checksum.hexdigest()

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches of training cells, of which each process gets its share."""
        rows = RowBatches(self.train_idx, self.batch_size, seed=self.seed)
        if self.trainer:
            rows.rank, rows.world = self.trainer.global_rank, self.trainer.world_size
        return self.placed(loader(self.data, rows))

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Batches of validation cells in a fixed order.

        Every process sees them all, so that all agree on the best epoch.
        """
        rows = RowBatches(self.val_idx, self.batch_size)
        return loader(self.data, rows) if self.n_val else []


def random_split(n: int, fraction: float, seed: int) -> dict[str, np.ndarray]:
    """Part the rows at random, for data without a split; nothing is held out for testing."""
    order = np.random.default_rng(seed).permutation(n)
    n_val = round(n * fraction)
    return {"train": np.sort(order[n_val:]), "val": np.sort(order[:n_val])}


def take_columns(csr: sparse.csr_matrix, columns: np.ndarray) -> sparse.csr_matrix:
    """Columns by number, -1 for one of zeros; sorted, and without stored zeros."""
    if not np.array_equal(columns, np.arange(csr.shape[1])):
        shape = (csr.shape[0], csr.shape[1] + 1)
        padded = sparse.csr_matrix((csr.data, csr.indices, csr.indptr), shape=shape)
        csr = padded[:, columns]  # -1 is the added column of zeros
    is_clean = csr.has_canonical_format and bool(csr.data.all())
    csr = sparse.csr_matrix(csr, copy=not is_clean)
    csr.sum_duplicates()
    csr.eliminate_zeros()
    return csr
