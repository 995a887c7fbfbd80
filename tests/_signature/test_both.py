"""Donors with both classes and with one in one estimate: what it finds, and when it does not."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.signature.designs import Study, asked, simulated
from scbert_cll._signature.both import join
from scbert_cll._signature.moderated import Moderated


def mean(study: Study, n: int = 6) -> dict[str, float]:
    rows = [asked(study, np.random.default_rng([7, seed])) for seed in range(n)]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


@pytest.mark.parametrize(
    ("study", "recall"),
    [(Study(2, 10, 1.0, 0.3), 0.95), (Study(2, 10, 1.0, 0.5), 0.9), (Study(4, 8, 0.5, 0.3), 0.6)],
)
def test_donors_of_one_class_lift_recall_at_the_nominal_false_share(study, recall) -> None:
    found = mean(study)
    assert found["recall_joined"] >= recall
    assert found["recall_gated"] >= 0.9 * recall
    assert found["false_joined"] <= 0.08
    assert found["small_p"] <= 1.8
    if study.n_bimodal == 4:  # of two, the other way would be refused
        assert found["recall_within"] <= 0.3
    assert found["disagree"] == 0


@pytest.mark.parametrize("sd_donor", [0.3, 0.5])
def test_clones_of_donors_of_one_class_are_seen_over_all_genes(sd_donor: float) -> None:
    for donors in ((2, 10), (4, 8)):
        assert mean(Study(*donors, 1.0, sd_donor, 0.15))["disagree"] == 1


def test_two_parts_of_known_variance_are_averaged_by_their_precision() -> None:
    ones = np.ones(3)
    parts = [
        Moderated(effect * ones, error * ones, effect / error * ones, ones, 1e9, np.inf)
        for effect, error in ((1.0, 0.1), (2.0, 0.2))
    ]
    joined = join(*parts, 10**9, 0.0)
    np.testing.assert_allclose(joined.test.effect, 1.2)
    np.testing.assert_allclose(joined.test.error, 1 / np.sqrt(125))
    assert joined.share == 1.0
    assert not joined.agree


def test_without_the_donors_of_both_classes_the_others_are_left() -> None:
    design = simulated(Study(2, 10, 1.0, 0.3), np.random.default_rng(0))
    less = design.without("D00")
    between = less.joined.between
    np.testing.assert_array_equal(less.test().p, between.p)
    assert (less.joined.p_disagree == 1).all()
