"""From sparse rows to batches of tokens, and which rows train, validate and test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from typing import Any, Final, NamedTuple

import lightning.pytorch as L
import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from scbert_cll.nn import Config
from scbert_cll.nn.tokens import cut, tokens

Cells = dict[str, Tensor]  # tokens (b, n), and where needed genes (b, n) and weight (b, n)
Batch = dict[
    str, Any
]  # "cells": list of Cells; "rows" and further columns, in the order of the cells
_OVERHEAD: Final = (
    2**17
)  # what a further tensor costs, as numbers of the residual stream (tokens × width × blocks)


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
    lengths: list[list[int]]  # expressed genes of each cell, one list for each tensor of tokens


def compact(csr: sparse.csr_matrix, rows: Sequence[int] | np.ndarray, config: Config) -> Compact:
    """Rows sorted by falling length, in parts of about the same length: little is padding."""
    rows = np.asarray(rows, np.int64)
    rows = rows[np.argsort(csr.indptr[rows] - csr.indptr[rows + 1], kind="stable")]
    taken = csr[rows]
    lengths = np.diff(taken.indptr)
    bounds = [0, len(rows)] if config.tokens == "all" else _bounds(lengths, config)
    values, genes = (
        taken.data.astype(np.uint8, copy=False),
        taken.indices.astype(np.int32, copy=False),
    )
    parts = [lengths[start:stop].tolist() for start, stop in pairwise(bounds)]
    return Compact(torch.from_numpy(rows), torch.from_numpy(values), torch.from_numpy(genes), parts)


def expand(batch: Compact, config: Config, order: Tensor | None) -> list[Cells]:
    """Tokens of each part, on whichever device the batch is; `order` is `gene_order`'s."""
    whole = tokens(batch.values, batch.genes, list(chain(*batch.lengths)), config, order)
    return cut(whole, batch.lengths, config) if len(batch.lengths) > 1 else [whole]


def gene_order(config: Config, seed: int, draw: int | None) -> Tensor | None:
    """All genes in the random order of a draw (None is the one that is the same for all seeds).

    None where there is no background.
    """
    if config.tokens != "background":
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
        self, csr: sparse.csr_matrix, config: Config, *, seed: int = 0, **columns: np.ndarray
    ) -> None:
        self.csr, self.config, self.seed = csr, config, seed
        self.columns = {name: torch.as_tensor(values) for name, values in columns.items()}
        self._order: dict[int | None, Tensor | None] = {}

    def __len__(self) -> int:
        return int(self.csr.shape[0])

    def __getitem__(self, asked: Rows) -> Batch:
        batch = compact(self.csr, asked.rows, self.config)
        columns = {name: values[batch.rows] for name, values in self.columns.items()}
        return {
            "cells": expand(batch, self.config, self._genes_in_order(asked.draw)),
            "rows": batch.rows,
        } | columns

    def lengths(self) -> np.ndarray:
        """Number of tokens of each cell that are not zero."""
        return np.asarray(np.diff(self.csr.indptr))

    def n_tokens(self) -> np.ndarray:
        """Number of tokens that attend in each cell."""
        if self.config.tokens == "all":
            return np.full(len(self), self.config.n_positions)
        if self.config.tokens == "expressed":
            return self.lengths()
        background = np.minimum(self.config.n_background, self.config.n_genes - self.lengths())
        return np.asarray(self.lengths() + background + self.config.end_token)

    def _genes_in_order(self, draw: int | None) -> Tensor | None:
        if draw not in self._order:
            self._order = {draw: gene_order(self.config, self.seed, draw)}
        return self._order[draw]


def _bounds(lengths: np.ndarray, config: Config) -> list[int]:
    """Where falling lengths are cut, since the padding that is spared is worth a further tensor."""
    bounds, longest = [0], lengths[0]
    worth = _OVERHEAD / (config.n_hidden * config.n_layers)
    for i, length in enumerate(lengths):
        if (longest - length) * (len(lengths) - i) > worth:
            bounds.append(i)
            longest = length
    return [*bounds, len(lengths)]


class RowBatches(Sampler[Rows]):
    """Row numbers, batch by batch.

    With a seed shuffled, in another way in every epoch (Lightning tells which one it is).

    Of several processes (`world`), each gets its share of every batch, so that `batch_size` counts
    the cells of all.
    """

    def __init__(
        self,
        rows: np.ndarray,
        batch_size: int,
        *,
        seed: int | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.rows, self.batch_size, self.seed, self.epoch = np.asarray(rows), batch_size, seed, 0
        self.rank, self.world = rank, world
        self.skip = 0  # batches of the next epoch that a run which is resumed has seen

    def __len__(self) -> int:
        return len(self._bounds())

    def set_epoch(self, epoch: int) -> None:
        """Choose the order, so that a resumed run goes on with the one it would have had."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Rows]:
        rows, draw = self.rows, None
        skip, self.skip = self.skip, 0
        if self.seed is not None:
            rows, draw = (
                np.random.default_rng([self.seed, self.epoch]).permutation(rows),
                self.epoch,
            )
        yield from (
            Rows(rows[start:stop][self.rank :: self.world].tolist(), draw)
            for start, stop in self._bounds()[skip:]
        )

    def _bounds(self) -> list[tuple[int, int]]:
        starts = list(range(0, len(self.rows), self.batch_size))
        if (
            self.seed is not None
            and len(starts) > 1
            and len(self.rows) - starts[-1] < 2 * self.world
        ):
            # BatchNorm cannot train on a batch of one: the last cells join the batch before
            starts.pop()
        return list(pairwise([*starts, len(self.rows)]))


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


def loader(data: TokenRows, batches: RowBatches) -> DataLoader[Batch]:
    """Loader whose batches are exactly those of `batches`.

    A generator of its own leaves the user's random numbers alone.
    """
    return ResumableLoader(data, sampler=batches, batch_size=None, generator=torch.Generator())


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

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {} if self._train is None else dict(self._train.state_dict())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint; a network that is shared out is read after the loaders were made."""
        if self._train is None:
            self._done = state_dict["done"]
        else:
            self._train.load_state_dict(state_dict)


class TokenSplits(ResumableData):
    """Training and validation rows of one `TokenRows`, for Lightning."""

    def __init__(
        self,
        data: TokenRows,
        parts: dict[str, np.ndarray],
        *,
        seed: int,
        batch_size: int = 32,
    ) -> None:
        super().__init__()
        self.data, self.batch_size, self.seed = data, batch_size, seed
        self.train_idx, self.val_idx, self.test_idx = (
            parts.get(p, np.zeros(0, np.int64)) for p in ("train", "val", "test")
        )
        self.n_train, self.n_val = len(self.train_idx), len(self.val_idx)
        self.n_proteins = data.columns["proteins"].shape[1] if "proteins" in data.columns else 0

    @property
    def n_labelled(self) -> int:
        """Training cells that have a label, or all where none is learned."""
        labels = self.data.columns.get("labels")
        return self.n_train if labels is None else int((labels[self.train_idx] >= 0).sum())

    def rehearsal(self) -> tuple[TokenRows, np.ndarray, int]:
        """The cells, which of them are trained on, and how many these are."""
        return self.data, self.train_idx, self.n_train

    def digest(self) -> str:
        """Checksum of all that is trained on and validated with."""
        csr, checksum = self.data.csr, hashlib.sha256()
        matrix = {"values": csr.data, "genes": csr.indices, "cells": csr.indptr}
        rows = {"train": self.train_idx, "val": self.val_idx}
        for name, values in (matrix | rows | self.data.columns).items():
            array = np.ascontiguousarray(values)
            checksum.update(f"{name} {array.dtype.str} {array.shape}".encode())
            checksum.update(array.tobytes())
        return checksum.hexdigest()

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches of training cells, of which each process gets its share."""
        rank, world = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        rows = RowBatches(self.train_idx, self.batch_size, seed=self.seed, rank=rank, world=world)
        return self.placed(loader(self.data, rows))

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """Batches of validation cells in a fixed order.

        Every process sees them all, so that all agree on the best epoch.
        """
        return loader(self.data, RowBatches(self.val_idx, self.batch_size)) if self.n_val else []


def random_split(n: int, fraction: float, seed: int) -> dict[str, np.ndarray]:
    """Part the rows at random, for data without a split; nothing is held out for testing."""
    order = np.random.default_rng(seed).permutation(n)
    n_val = round(n * fraction)
    return {"train": np.sort(order[n_val:]), "val": np.sort(order[:n_val])}


def take_columns(csr: sparse.csr_matrix, columns: np.ndarray) -> sparse.csr_matrix:
    """Columns by number, -1 for one of zeros; sorted, and without stored zeros."""
    if not np.array_equal(columns, np.arange(csr.shape[1])):
        padded = sparse.csr_matrix(
            (csr.data, csr.indices, csr.indptr), shape=(csr.shape[0], csr.shape[1] + 1)
        )
        csr = padded[:, columns]  # -1 is the added column of zeros
    csr = sparse.csr_matrix(csr, copy=not csr.has_canonical_format or bool((csr.data == 0).any()))
    csr.sum_duplicates()
    csr.eliminate_zeros()
    return csr
