"""Rows to token batches, and the order in which they come."""

from __future__ import annotations

from itertools import chain

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.fabric.utilities import move_data_to_device
from scipy import sparse
from torch.utils.data import default_convert

from scbert_cll.model.training.batches import (
    RowBatches,
    Rows,
    TokenRows,
    compact,
    expand,
    gene_order,
    in_order_of_length,
    random_split,
)
from scbert_cll.nn import Config

SIZES = {
    "n": st.integers(0, 200),
    "batch_size": st.integers(2, 50),
    "seed": st.integers(0, 2**31 - 1),
}


def epoch_of(batches: RowBatches, epoch: int) -> list[list[int]]:
    batches.set_epoch(epoch)
    return [asked.rows for asked in batches]


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
    found = [asked.rows for asked in RowBatches(np.arange(n), batch_size)]
    assert list(chain(*found)) == list(range(n))
    assert max(map(len, found), default=0) <= batch_size


class SeenRows(L.Callback):
    def __init__(self):
        self.epochs = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.epochs.append([])

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.epochs[-1].append(sorted(batch["rows"].tolist()))


def test_lightning_tells_the_sampler_its_epoch(adata, pretrain):
    seen = SeenRows()
    pretrain(adata, 3, callbacks=[seen], rng=5)
    train = np.flatnonzero(adata.obs["split"] == "train")
    expected = RowBatches(train, 32, seed=5)
    assert seen.epochs == [
        [sorted(rows) for rows in epoch_of(expected, epoch)] for epoch in range(3)
    ]


TABLE = sparse.csr_matrix(np.array([[0, 2, 0, 5], [1, 0, 0, 0], [0, 3, 4, 1]], np.uint8))


def table(
    tokens: str, *, end_token: bool = False, n_background: int = 500, **columns: np.ndarray
) -> TokenRows:
    config = Config(n_genes=4, tokens=tokens, end_token=end_token, n_background=n_background)
    return TokenRows(TABLE, config, **columns)


def test_expressed_tokens_are_padded_to_the_longest():
    batch = table("expressed", labels=np.array([7, 8, 9]))[Rows([1, 0])]
    assert batch["rows"].tolist() == [0, 1]
    assert batch["labels"].tolist() == [7, 8]
    (cells,) = batch["cells"]
    assert cells["tokens"].tolist() == [[2, 5], [1, 0]]
    assert cells["genes"].tolist() == [[1, 3], [0, 0]]
    assert cells["weight"].tolist() == [[1, 1], [1, 0]]
    (alone,) = table("expressed")[Rows([2])]["cells"]
    assert alone["tokens"].tolist() == [[3, 4, 1]]
    assert "weight" not in alone


@pytest.mark.parametrize(
    "network", [{}, {"n_hidden": 200, "n_layers": 6}], ids=["small", "published"]
)
def test_padding_costs_less_than_a_tensor_of_its_own(network):
    lengths = np.random.default_rng(0).integers(300, 4000, 64)
    csr = sparse.csr_matrix((np.arange(4000) < lengths[:, None]).astype(np.uint8))
    cells = TokenRows(csr, Config(n_genes=4000, **network))[Rows(list(range(64)))]["cells"]
    assert sum(len(part["tokens"]) for part in cells) == 64
    for part in cells:
        kept = part.get("weight", (part["tokens"] > 0).float())
        assert ((part["tokens"] > 0) == (kept == 1)).all()  # padding has weight 0
    padded = sum(part["tokens"].numel() for part in cells)
    assert padded < (1.2 if network == {} else 1.05) * lengths.sum()
    assert len(cells) <= (20 if network == {} else 64)
    assert sorted(int(n) for part in cells for n in (part["tokens"] > 0).sum(1)) == sorted(
        lengths.tolist()
    )


def test_all_tokens_and_the_end_token():
    (cells,) = table("all", end_token=True)[Rows([2, 0])]["cells"]
    assert cells["tokens"].tolist() == [[0, 3, 4, 1, 0], [0, 2, 0, 5, 0]]
    assert cells.keys() == {"tokens"}
    assert table("all")[Rows([0])]["cells"][0]["tokens"].tolist() == [[0, 2, 0, 5]]


def sample(data: TokenRows, row: int, draw: int | None = None) -> tuple[list[int], list[float]]:
    """Background genes of a cell and their weights."""
    (cells,) = data[Rows([row], draw)]["cells"]
    zero = cells["tokens"][0] == 0
    weight = cells.get("weight", zero.float()[None])
    return cells["genes"][0][zero].tolist(), weight[0][zero].tolist()


@given(
    n_background=st.integers(1, 60), seed=st.integers(0, 100), draw=st.none() | st.integers(0, 5)
)
def test_background_genes_stand_for_all_zero_genes(n_background, seed, draw):
    csr = sparse.random(
        5, 60, 0.4, format="csr", random_state=seed, data_rvs=lambda n: np.full(n, 3)
    ).astype(np.uint8)
    data = TokenRows(
        csr, Config(n_genes=60, tokens="background", n_background=n_background), seed=seed
    )
    for row in range(5):
        expressed = set(csr[row].indices)
        genes, weights = sample(data, row, draw)
        assert (
            len(genes)
            == len(set(genes))
            == min(n_background, 60 - len(expressed))
            == data.n_tokens()[row] - len(expressed)
        )
        assert not set(genes) & expressed
        np.testing.assert_allclose(sum(weights), 60 - len(expressed), rtol=1e-6)
        assert len(set(weights)) == 1


def test_background_is_redrawn_in_training_and_fixed_otherwise():
    csr = sparse.csr_matrix((np.arange(200) < np.array([[40], [50]])).astype(np.uint8))
    config = Config(n_genes=200, tokens="background", n_background=20)
    one, other = (TokenRows(csr, config, seed=seed) for seed in (1, 2))
    assert sample(one, 0) == sample(other, 0)
    assert sample(one, 0, 3) == sample(TokenRows(csr, config, seed=1), 0, 3)
    assert (
        len({tuple(sample(data, 0, draw)[0]) for data in (one, other) for draw in (None, 0, 1)})
        == 5
    )
    alone = TokenRows(csr[1:], config, seed=7)
    assert sample(alone, 0) == sample(one, 1)  # whichever row it is


def test_end_token_is_in_the_background():
    (cells,) = table("background", end_token=True, n_background=1)[Rows([1])]["cells"]
    assert cells["tokens"].tolist() == [[1, 0, 0]]
    assert cells["genes"][0, 2] == 4
    assert cells["weight"].tolist() == [[1, 3, 1]]


def test_a_compact_batch_moves_as_bytes_and_its_lengths_stay():
    batch = move_data_to_device(compact(TABLE, [1, 0, 2], Config(n_genes=4)), torch.device("meta"))
    assert batch.values.device == batch.genes.device == torch.device("meta")
    assert (batch.values.dtype, batch.genes.dtype) == (torch.uint8, torch.int32)
    assert batch.lengths == [[3, 2, 1]]


@pytest.mark.parametrize("mode", ["expressed", "background", "all"])
@pytest.mark.parametrize("kind", [np.int64, np.float32], ids=["int64", "float32"])
def test_a_compact_batch_expands_to_what_the_rows_are(mode, kind):
    """Also out of a matrix of other types, as a corpus on disk may be read, and after a worker's
    conversion.
    """
    lengths = np.random.default_rng(0).integers(10, 300, 24)
    csr = sparse.csr_matrix((np.arange(400) < lengths[:, None]).astype(np.uint8) * 3)
    config = Config(
        n_genes=400, tokens=mode, n_background=20, end_token=True, n_hidden=200, n_layers=6
    )
    whole = TokenRows(csr, config, seed=4)[Rows(list(range(24)), 2)]
    other = csr.astype(kind)
    other.indices, other.indptr = other.indices.astype(np.int64), other.indptr.astype(np.int64)
    batch = default_convert(compact(other, range(24), config))
    assert torch.equal(batch.rows, whole["rows"])
    assert (np.diff(lengths[batch.rows]) <= 0).all()
    cells = expand(batch, config, gene_order(config, 4, 2))
    assert len(cells) == len(whole["cells"]) == len(batch.lengths)
    assert (len(cells) > 1) == (mode != "all")
    for found, expected in zip(cells, whole["cells"], strict=True):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)


def test_cells_of_like_length_share_a_batch():
    found = [batch["rows"].tolist() for batch in in_order_of_length(table("expressed"), 2)]
    assert found == [[0, 1], [2]]


@given(
    n=st.integers(20, 200),
    batch_size=st.integers(8, 50),
    seed=st.integers(0, 100),
    world=st.integers(2, 4),
)
def test_processes_share_every_batch(n, batch_size, seed, world):
    whole = [asked.rows for asked in RowBatches(np.arange(n), batch_size, seed=seed)]
    shares = [
        list(RowBatches(np.arange(n), batch_size, seed=seed, rank=r, world=world))
        for r in range(world)
    ]
    assert len({len(share) for share in shares}) == 1
    seen = [sorted(chain(*(asked.rows for asked in step))) for step in zip(*shares, strict=True)]
    assert sorted(chain(*seen)) == list(range(n))
    assert seen[0] == sorted(whole[0]) or len(seen) == 1
    assert all(len(asked.rows) > 1 for share in shares for asked in share)


@given(n=st.integers(1, 300), fraction=st.floats(0, 0.9), seed=st.integers(0, 100))
def test_random_split_parts_the_rows(n, fraction, seed):
    parts = random_split(n, fraction, seed)
    assert sorted([*parts["train"], *parts["val"]]) == list(range(n))
    assert len(parts["val"]) == round(n * fraction)
