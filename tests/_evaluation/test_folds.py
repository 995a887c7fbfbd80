"""Folds: every labelled cell tested once, no donor on both sides, every class where choices are
made.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scbert_cll import datasets, pp
from scbert_cll._evaluation.folds import SCHEMES, donor_folds, inner_folds, outer_folds


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
    folds = outer_folds(y, donors, scheme=scheme, n_splits=3, seeds=range(n_repeats))
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
    folds = outer_folds(y, donors, scheme="leave_one_donor_out", n_splits=5, seeds=[0])
    assert [set(donors[f.test]) for f in folds] == [{"a"}, {"b"}, {"c"}, {"d"}]


def test_repeats_of_k_folds_differ_and_the_seed_decides() -> None:
    y, donors = np.tile([0, 1], 30), np.repeat(np.arange(10), 6)
    first, again, other = (
        [
            f.test.tolist()
            for f in outer_folds(y, donors, scheme="group_kfold", n_splits=5, seeds=[s, s + 1])
        ]
        for s in (0, 0, 7)
    )
    assert first == again != other
    assert first[:5] != first[5:]


@st.composite
def real_donors(draw):
    """Donors of different sizes, each mostly of one class as in a cohort of patients, in random
    order of cells.
    """
    n_donors = draw(st.integers(2, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    donors = np.repeat([f"D{d}" for d in range(n_donors)], rng.integers(1, 60, n_donors))
    rates = dict(zip(np.unique(donors), rng.choice([0.0, 0.1, 0.5, 0.95], n_donors), strict=True))
    y = (rng.random(donors.size) < [rates[d] for d in donors]).astype(int)
    order = rng.permutation(donors.size)
    return y[order], donors[order]


def partition(donors: np.ndarray, folds) -> frozenset[frozenset[str]]:
    return frozenset(frozenset(donors[test]) for _, test in folds)


def unevenness(y: np.ndarray, donors: np.ndarray, folds) -> float:
    """Root mean squared deviation of what folds hold, of the donors, the cells and each class, from
    equal shares.
    """
    held = [
        [len(set(donors[t])) / len(set(donors)) for _, t in folds],
        [len(t) / len(y) for _, t in folds],
    ]
    held += [[(y[t] == c).sum() / (y == c).sum() for _, t in folds] for c in np.unique(y)]
    return float(np.sqrt(((np.array(held) - 1 / len(folds)) ** 2).mean()))


@settings(max_examples=60, deadline=None)
@given(real_donors(), st.integers(2, 6), st.integers(0, 2**16))
def test_every_donor_is_in_one_fold_and_none_is_empty(data, n, seed) -> None:
    y, donors = data
    n = min(n, len(set(donors)))
    folds = donor_folds(y, donors, n, seed)
    assert len(folds) == n
    assert all(len(test) and not set(donors[train]) & set(donors[test]) for train, test in folds)
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(len(y)))
    for train, test in folds:
        assert sorted([*train, *test]) == list(range(len(y)))
    spread = [
        c for c in np.unique(y) if len(set(donors[y == c])) > 1
    ]  # two donors of a class can be in two folds
    assert all(set(spread) <= set(y[train]) for train, _ in folds)


@settings(max_examples=30, deadline=None)
@given(real_donors(), st.integers(2, 5), st.integers(0, 2**16), st.randoms(use_true_random=False))
def test_folds_depend_on_the_seed_and_not_on_the_order_of_cells(data, n, seed, shuffler) -> None:
    y, donors = data
    n = min(n, len(set(donors)))
    first, again = donor_folds(y, donors, n, seed), donor_folds(y, donors, n, seed)
    assert all((a[1] == b[1]).all() for a, b in zip(first, again, strict=True))
    order = np.array(shuffler.sample(range(len(y)), len(y)))
    moved = donor_folds(y[order], donors[order], n, seed)
    assert [set(donors[t]) for _, t in first] == [set(donors[order][t]) for _, t in moved]


@settings(max_examples=15, deadline=None)
@given(st.integers(9, 14), st.integers(2, 5), st.integers(0, 2**16))
def test_other_seeds_hold_out_other_donors(n_donors, n, start) -> None:
    rng = np.random.default_rng(start)
    donors = np.repeat(np.arange(n_donors), rng.integers(30, 60, n_donors))
    y = (rng.random(donors.size) < rng.choice([0.1, 0.5, 0.9], n_donors)[donors]).astype(int)
    found = {partition(donors, donor_folds(y, donors, n, start + i)) for i in range(10)}
    assert len(found) >= 3


def test_no_partition_is_much_more_even_than_what_a_seed_gives() -> None:
    """Every partition of eight donors into three folds is tried."""
    rng = np.random.default_rng(3)
    donors = np.repeat([f"D{i}" for i in range(8)], rng.integers(20, 200, 8))
    rates = dict(zip(np.unique(donors), [0.05, 0.9, 0.5, 0.1, 0.95, 0.03, 0.4, 0.02], strict=True))
    y = (rng.random(donors.size) < [rates[d] for d in donors]).astype(int)
    fold = np.array(list(product(range(3), repeat=7)))
    fold = np.c_[np.zeros(len(fold), int), fold]  # the first donor's fold is called 0
    fold = fold[[len(set(f)) == 3 for f in fold.tolist()]]
    names = np.unique(donors)
    of = donors[:, None] == names
    table = np.stack([np.ones(8), of.sum(0), of[y == 0].sum(0), of[y == 1].sum(0)], axis=1)
    got = (fold[:, None] == np.arange(3)[:, None]) @ (table / table.sum(0))
    best = np.sqrt(((got - 1 / 3) ** 2).mean((1, 2))).min()
    found = [unevenness(y, donors, donor_folds(y, donors, 3, seed)) for seed in range(20)]
    assert best - 1e-9 <= min(found)
    assert max(found) <= best + 0.5 / (8 * 3) + 1e-9


def test_repeats_hold_out_other_donors_of_the_toy() -> None:
    """scikit-learn's stratified folds of groups are one and the same here, whatever the seed."""
    mdata = datasets.cll_toy()
    pp.label_cd49d(mdata)
    cells = mdata["rna"].obs
    y, donors = cells["cd49d"].cat.codes.to_numpy(), cells["donor"].astype(str).to_numpy()
    folds = outer_folds(y, donors, scheme="group_kfold", n_splits=3, seeds=range(10))
    seen = {
        partition(donors, [(f.train, f.test) for f in folds if f.repeat == repeat])
        for repeat in range(10)
    }
    assert len(seen) >= 5
    known = np.flatnonzero(y >= 0)
    inner = {
        partition(donors[known], inner_folds(y[known], donors[known], 3, seed))
        for seed in range(10)
    }
    assert len(inner) >= 5


def test_inner_folds_find_the_only_grouping_with_every_class() -> None:
    """Two donors of the rare class have to be apart: ten equal tries would fall back to cells."""
    donors = np.repeat([f"D{i}" for i in range(9)], 20)
    y = np.zeros(180, int)
    y[:15], y[20:35] = 1, 1
    for seed in range(10):
        folds = inner_folds(y, donors, 3, seed)
        assert len(folds) == 3
        assert all(
            set(y[train]) == {0, 1} and not set(donors[train]) & set(donors[test])
            for train, test in folds
        )


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
    by_cell = inner_folds(
        np.repeat([0, 1], 20), np.repeat([0, 1], 20), 3, seed=0
    )  # each donor is a class
    assert len(by_cell) == 3


@pytest.mark.parametrize(
    ("scheme", "groups", "message"),
    [
        (
            "group_kfold",
            np.repeat(["a", "b"], 10),
            "at least 5 donors with labelled cells, found 2",
        ),
        (
            "leave_one_donor_out",
            np.repeat(["a"], 20),
            "at least 2 donors with labelled cells, found 1",
        ),
        ("leave_one_donor_out", None, "needs to know them: give donor_key="),
        ("random_cell", None, "at least 5 labelled cells in the smallest class, found 3"),
    ],
)
def test_too_few_to_hold_out(scheme, groups, message) -> None:
    y = np.r_[np.zeros(17, int), np.ones(3, int)]
    with pytest.raises(ValueError, match=message):
        outer_folds(y, groups, scheme=scheme, n_splits=5, seeds=[0])


def test_a_class_of_one_cell_has_no_inner_folds() -> None:
    with pytest.raises(ValueError, match="two labelled training cells of every class"):
        inner_folds(np.r_[np.zeros(5, int), 1], None, 3, seed=0)
