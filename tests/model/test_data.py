"""Rows to token batches, and the order in which they come."""

from __future__ import annotations

from itertools import chain

import lightning.pytorch as L
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from scbert_cll.model._data import RowBatches, TokenRows, in_order_of_length, random_split

SIZES = {"n": st.integers(0, 200), "batch_size": st.integers(2, 50), "seed": st.integers(0, 2**31 - 1)}


def epoch_of(batches: RowBatches, epoch: int) -> list[list[int]]:
    batches.set_epoch(epoch)
    return list(batches)


@given(**SIZES, epoch=st.integers(0, 5))
def test_every_row_comes_once_in_batches_that_batch_norm_can_train_on(n, batch_size, seed, epoch):
    rows = np.arange(n) * 3
    batches = RowBatches(rows, batch_size, seed=seed)
    found = epoch_of(batches, epoch)
    assert len(found) == len(batches)
    assert sorted(chain(*found)) == rows.tolist()
    assert all(len(b) == batch_size for b in found[:-1])
    if found:
        assert len(found[-1]) <= batch_size + 1
        assert len(found[-1]) > 1 or n == 1


@given(**SIZES)
def test_order_depends_on_seed_and_epoch_alone(n, batch_size, seed):
    n += 20  # fewer rows may well come in the same order twice
    batches = RowBatches(np.arange(n), batch_size, seed=seed)
    first, second = epoch_of(batches, 0), epoch_of(batches, 1)
    assert first != second
    assert first != epoch_of(RowBatches(np.arange(n), batch_size, seed=seed + 1), 0)
    assert second == epoch_of(RowBatches(np.arange(n), batch_size, seed=seed), 1)
    assert first == epoch_of(batches, 0)


@given(n=SIZES["n"], batch_size=st.integers(1, 50))
def test_without_a_seed_the_order_is_kept(n, batch_size):
    found = list(RowBatches(np.arange(n), batch_size))
    assert list(chain(*found)) == list(range(n))
    assert max(map(len, found), default=0) <= batch_size


class Rows(L.Callback):
    def __init__(self):
        self.epochs = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.epochs.append([])

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.epochs[-1].append(batch["rows"].tolist())


def test_lightning_tells_the_sampler_its_epoch(adata, pretrain):
    seen = Rows()
    pretrain(adata, 3, callbacks=[seen], rng=5)
    train = np.flatnonzero(adata.obs["split"] == "train")
    assert seen.epochs == [epoch_of(RowBatches(train, 32, seed=5), epoch) for epoch in range(3)]


TABLE = sparse.csr_matrix(np.array([[0, 2, 0, 5], [1, 0, 0, 0], [0, 3, 4, 1]], np.uint8))


def test_expressed_tokens_are_padded_to_the_longest_of_the_batch():
    batch = TokenRows(TABLE, "expressed", labels=np.array([7, 8, 9]))[[1, 0]]
    assert batch["rows"].tolist() == [1, 0]
    assert batch["labels"].tolist() == [8, 7]
    assert batch["tokens"].tolist() == [[1, 0], [2, 5]]
    assert batch["genes"].tolist() == [[0, 0], [1, 3]]
    assert batch["keep"].tolist() == [[True, False], [True, True]]


def test_all_tokens_and_the_end_token():
    batch = TokenRows(TABLE, "all", end_token=True)[[2, 0]]
    assert batch["tokens"].tolist() == [[0, 3, 4, 1, 0], [0, 2, 0, 5, 0]]
    assert batch.keys() == {"tokens", "rows"}
    assert TokenRows(TABLE, "all")[[0]]["tokens"].tolist() == [[0, 2, 0, 5]]


def test_cells_of_like_length_share_a_batch():
    found = [batch["rows"].tolist() for batch in in_order_of_length(TokenRows(TABLE, "expressed"), 2)]
    assert found == [[1, 0], [2]]


@given(n=st.integers(1, 300), fraction=st.floats(0, 0.9), seed=st.integers(0, 100))
def test_random_split_parts_the_rows(n, fraction, seed):
    parts = random_split(n, fraction, seed)
    assert sorted([*parts["train"], *parts["val"]]) == list(range(n))
    assert len(parts["val"]) == round(n * fraction)
