"""Folds: every labelled cell tested once, no donor on both sides, every class where choices are made."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scbert_cll._evaluation.folds import SCHEMES, inner_folds, outer_folds


@st.composite
def labelled_donors(draw, least_donors: int = 3):
    """Class codes (−1: no label) and donors; two classes, each in at least three cells."""
    n_donors = draw(st.integers(least_donors, 8))
    n = draw(st.integers(30, 80))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    donors = np.concatenate([np.arange(n_donors), rng.integers(0, n_donors, n - n_donors)])
    y = rng.integers(-1, 2, n)
    y[:n_donors] = np.arange(n_donors) % 2  # every donor has a labelled cell
    y[-6:] = [0, 0, 0, 1, 1, 1]
    return y, np.array([f"D{d}" for d in donors])


@settings(max_examples=30, deadline=None)
@given(labelled_donors(), st.sampled_from(SCHEMES), st.integers(1, 3))
def test_every_labelled_cell_is_tested_once_per_repeat(data, scheme, n_repeats) -> None:
    y, donors = data
    folds = outer_folds(y, donors, scheme=scheme, n_splits=3, n_repeats=n_repeats, seed=0)
    for repeat in range(n_repeats):
        tested = np.concatenate([f.test for f in folds if f.repeat == repeat])
        assert sorted(tested) == np.flatnonzero(y >= 0).tolist()
    for fold in folds:
        assert not set(fold.train) & set(fold.test)
        if scheme != "random_cell":
            assert not set(donors[fold.train]) & set(donors[fold.test])
            assert set(donors[fold.train]) | set(donors[fold.test]) == set(donors)
        else:
            assert len(fold.train) + len(fold.test) == len(y)


def test_leaving_one_donor_out_leaves_each_out_once() -> None:
    y, donors = np.tile([0, 1], 10), np.repeat(["a", "b", "c", "d"], 5)
    folds = outer_folds(y, donors, scheme="leave_one_donor_out", n_splits=5, n_repeats=1, seed=0)
    assert [set(donors[f.test]) for f in folds] == [{"a"}, {"b"}, {"c"}, {"d"}]


def test_repeats_of_k_folds_differ_and_the_seed_decides() -> None:
    y, donors = np.tile([0, 1], 30), np.repeat(np.arange(10), 6)
    first, again, other = (
        [f.test.tolist() for f in outer_folds(y, donors, scheme="group_kfold", n_splits=5, n_repeats=2, seed=s)]
        for s in (0, 0, 7)
    )
    assert first == again != other
    assert first[:5] != first[5:]


@settings(max_examples=30, deadline=None)
@given(labelled_donors())
def test_inner_folds_keep_every_class_in_training(data) -> None:
    y, donors = data
    y, donors = y[y >= 0], donors[y >= 0]
    folds = inner_folds(y, donors, 3, seed=0)
    assert sorted(np.concatenate([val for _, val in folds])) == list(range(len(y)))
    for train, val in folds:
        assert not set(train) & set(val)
        assert set(y[train]) == set(y)


def test_inner_folds_go_by_donor_where_that_is_possible() -> None:
    y, donors = np.tile([0, 1], 20), np.repeat(np.arange(4), 10)
    assert all(not set(donors[t]) & set(donors[v]) for t, v in inner_folds(y, donors, 3, seed=0))
    by_cell = inner_folds(np.repeat([0, 1], 20), np.repeat([0, 1], 20), 3, seed=0)  # each donor is a class
    assert len(by_cell) == 3


@pytest.mark.parametrize(
    ("scheme", "groups", "message"),
    [
        ("group_kfold", np.repeat(["a", "b"], 10), "at least 5 donors with labelled cells, found 2"),
        ("leave_one_donor_out", np.repeat(["a"], 20), "at least 2 donors with labelled cells, found 1"),
        ("leave_one_donor_out", None, "needs to know them: give donor_key="),
        ("random_cell", None, "at least 5 labelled cells in the smallest class, found 3"),
    ],
)
def test_too_few_to_hold_out(scheme, groups, message) -> None:
    y = np.r_[np.zeros(17, int), np.ones(3, int)]
    with pytest.raises(ValueError, match=message):
        outer_folds(y, groups, scheme=scheme, n_splits=5, n_repeats=1, seed=0)


def test_a_class_of_one_cell_has_no_inner_folds() -> None:
    with pytest.raises(ValueError, match="two labelled training cells of every class"):
        inner_folds(np.r_[np.zeros(5, int), 1], None, 3, seed=0)
