"""Every cell once per epoch, in as many steps for every process."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scbert_cll.model.corpus.loader import Windows


@st.composite
def cut(draw):
    """Some cells, and how they are cut."""
    world = draw(st.integers(1, 4))
    return {
        "n": draw(st.integers(2 * world, 600)),
        "batch_size": draw(st.integers(2, 70)),
        "world": world,
        "chunk": draw(st.integers(2, 40)),
        "n_chunks": draw(st.integers(2, 7)),
    }


def _epoch(how, rank, epoch, *, seed, lengths=None):
    windows = Windows(**how, rank=rank, seed=seed)
    found = []
    for window in range(len(windows)):
        cells = windows.cells(epoch, window)
        batches = windows.batches(epoch, window, None if lengths is None else lengths[cells])
        assert len(batches) == windows.n_batches(window)
        found += [cells[batch] for batch in batches]
    assert len(found) == windows.total
    return found


@settings(deadline=None)  # machines may be busy
@given(cut(), st.sampled_from([None, 0, 7]), st.integers(0, 3), st.booleans())
def test_every_cell_is_seen_once_and_all_processes_take_as_many_steps(how, seed, epoch, by_length):
    lengths = np.random.default_rng(0).integers(1, 50, how["n"]) if by_length else None
    ranks = [_epoch(how, rank, epoch, seed=seed, lengths=lengths) for rank in range(how["world"])]
    assert len({len(batches) for batches in ranks}) == 1
    seen = np.concatenate([cells for batches in ranks for cells in batches])
    np.testing.assert_array_equal(np.sort(seen), np.arange(how["n"]))
    if seed is not None:
        assert min(len(cells) for batches in ranks for cells in batches) >= 2


@settings(deadline=None)  # machines may be busy
@given(cut(), st.integers(0, 3))
def test_an_epoch_follows_from_the_seed_and_its_number_alone(how, epoch):
    first = _epoch(how, 0, epoch, seed=3)
    _epoch(how, 0, epoch + 1, seed=3)
    for one, other in zip(first, _epoch(how, 0, epoch, seed=3), strict=True):
        np.testing.assert_array_equal(one, other)


def test_epochs_and_seeds_differ_and_without_a_seed_the_order_is_that_on_disk():
    how = {"n": 500, "batch_size": 20, "chunk": 16, "n_chunks": 4}
    orders = [
        np.concatenate(_epoch(how, 0, epoch, seed=seed)) for epoch, seed in ((0, 0), (1, 0), (0, 1))
    ]
    for i in range(3):
        assert not np.array_equal(orders[i], orders[i - 1])
    as_stored = np.concatenate(_epoch(how, 0, 0, seed=None))
    assert (np.diff(as_stored) < 0).sum() <= 1  # the short chunk comes first


def test_cells_of_like_length_share_a_batch():
    """Padding is what the longest cell of a batch costs all others."""
    how = {"n": 2000, "batch_size": 20, "chunk": 50, "n_chunks": 40}
    lengths = np.random.default_rng(0).integers(1, 1000, how["n"])

    def padding(batches):
        return sum(int((lengths[batch].max() - lengths[batch]).sum()) for batch in batches)

    sorted_, plain = (padding(_epoch(how, 0, 0, seed=0, lengths=by)) for by in (lengths, None))
    assert sorted_ < 0.3 * plain


def test_weights_draw_rare_cells_more_often():
    windows = Windows(2000, 20, seed=0, chunk=50, n_chunks=40)
    rare = windows.cells(0, 0) % 100 == 0
    weights = np.where(rare, 1 / rare.sum(), 1 / (~rare).sum())
    drawn = np.concatenate(windows.batches(0, 0, weights=weights))
    assert len(drawn) == 2000
    assert 0.4 < rare[drawn].mean() < 0.6


def test_too_few_cells_for_the_processes_are_refused():
    with pytest.raises(ValueError, match="3 cells are too few for 2 processes"):
        Windows(3, 2, seed=0, world=2)


def test_each_epoch_reads_other_chunks_together_and_puts_them_in_another_order():
    """Windows of two epochs are of other cells, and cells of a window are drawn anew, with and
    without lengths.
    """
    windows = Windows(640, 16, seed=5, chunk=16, n_chunks=4)
    together = [
        {tuple(sorted(windows.cells(epoch, window))) for window in range(len(windows))}
        for epoch in range(3)
    ]
    assert not together[0] & together[1]
    assert not together[1] & together[2]
    lengths = np.random.default_rng(0).integers(1, 30, 64)
    for given_lengths in (None, lengths):
        places = [np.concatenate(windows.batches(epoch, 2, given_lengths)) for epoch in range(3)]
        assert not np.array_equal(places[0], places[1])
        assert not np.array_equal(places[1], places[2])
        assert not np.array_equal(places[0], np.concatenate(windows.batches(0, 3, given_lengths)))
    by_length = [
        [sorted(lengths[batch]) for batch in windows.batches(epoch, 2, lengths)]
        for epoch in range(4)
    ]
    assert len({str(order) for order in by_length}) > 1, (
        "long cells come at another place of each epoch"
    )
