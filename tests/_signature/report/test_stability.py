"""Stability of feature selection against numbers worked out by hand, and against what it is known
to be equal to.
"""

from __future__ import annotations

import numpy as np
import pytest

from scbert_cll._signature.report.stability import stability


def chosen(*sets: set[int], n: int) -> np.ndarray:
    return np.array([[gene in one for gene in range(n)] for one in sets])


def fleiss_kappa(runs: np.ndarray) -> float:
    """Fleiss 1971 (doi:10.1037/h0031619) with genes as subjects, runs as raters, and chosen or not
    as categories.
    """
    n_runs, n_genes = runs.shape
    counts = np.column_stack([runs.sum(0), (~runs).sum(0)])
    agreement = ((counts**2).sum(1) - n_runs) / (n_runs * (n_runs - 1))
    by_chance = ((counts.sum(0) / (n_runs * n_genes)) ** 2).sum()
    return (agreement.mean() - by_chance) / (1 - by_chance)


def test_two_runs_by_hand() -> None:
    """Sets {0, 1} and {1, 2} of four genes: one in common, as by chance; shares ½, 1, ½, 0."""
    found = stability(chosen({0, 1}, {1, 2}, n=4))
    assert found.jaccard == pytest.approx(1 / 3)
    assert found.kuncheva == pytest.approx(0, abs=1e-12)  # (1 − 4/4) / (2 − 4/4)
    assert found.nogueira == pytest.approx(0, abs=1e-12)  # variances ½, 0, ½, 0: mean ¼, over ½ · ½


def test_three_runs_of_several_sizes_by_hand() -> None:
    """Sets of 1, 2 and 3 of ten genes: variances 1/3 at two genes, so 1 − (2/30) / (.2 · .8) =
    7/12.
    """
    found = stability(chosen({0}, {0, 1}, {0, 1, 2}, n=10))
    assert found.nogueira == pytest.approx(7 / 12)
    assert np.isnan(found.kuncheva), "it is for sets of one size"
    assert found.jaccard == pytest.approx((1 / 2 + 1 / 3 + 2 / 3) / 3)


def test_the_ends() -> None:
    same, apart = (
        stability(chosen({3, 5}, {3, 5}, {3, 5}, n=9)),
        stability(chosen({0, 1, 2}, {3, 4, 5}, n=6)),
    )
    assert same[:5] == pytest.approx((1, 1, 1, 1, 1))
    assert (apart.nogueira, apart.kuncheva, apart.jaccard) == pytest.approx((-1, -1, 0))


def test_sets_of_one_size_have_one_index() -> None:
    """Nogueira et al. 2018, section 4: sets of one size have the mean of Kuncheva's index."""
    rng = np.random.default_rng(0)
    runs = np.array([rng.permutation(30) < 8 for _ in range(6)])
    found = stability(runs)
    assert found.nogueira == pytest.approx(found.kuncheva)
    assert abs(found.nogueira) < 0.3


@pytest.mark.parametrize("seed", range(3))
def test_it_is_fleiss_kappa(seed: int) -> None:
    """Nogueira et al. 2018, section 5: the index is Fleiss' kappa of two categories."""
    rng = np.random.default_rng(seed)
    runs = rng.random((7, 40)) < rng.beta(0.4, 0.8, 40)
    assert stability(runs).nogueira == pytest.approx(fleiss_kappa(runs))


def test_limits_are_those_of_a_jackknife_over_runs() -> None:
    rng = np.random.default_rng(1)
    runs = rng.random((60, 60)) < rng.beta(0.4, 0.8, 60)
    found = stability(runs)
    without = [stability(np.delete(runs, i, axis=0)).nogueira for i in range(len(runs))]
    error = np.sqrt((len(runs) - 1) * np.var(without))
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.1)
    assert found.high - found.nogueira == pytest.approx(found.nogueira - found.low)


@pytest.mark.parametrize(
    "runs", [np.zeros((4, 5)), np.ones((4, 5)), np.eye(1, 5)], ids=["nothing", "all", "one run"]
)
def test_undefined_is_missing(runs: np.ndarray) -> None:
    found = stability(runs)
    assert np.isnan([found.nogueira, found.low, found.high, found.kuncheva]).all()
    assert found.jaccard == 1 if runs.all() else np.isnan(found.jaccard)
