"""Models compared within donors, with what knowing the donor alone gives."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from scbert_cll._evaluation import within_donors


def made(n_donors: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Cells of donors with very different shares; a model that knows something, one that knows
    nothing, and the donor alone.
    """
    rng = np.random.default_rng(seed)
    donors = np.repeat([f"d{i}" for i in range(n_donors)], 120)
    share = np.tile([0.1, 0.9], n_donors)[:n_donors].repeat(120)
    y = (rng.random(len(donors)) < share).astype(int)
    knows = 1 / (1 + np.exp(-(2.5 * y - 1.25 + rng.normal(size=len(y)))))
    guesses = rng.random(len(y))
    proba = {
        name: np.column_stack([1 - p, p]) for name, p in (("knows", knows), ("guesses", guesses))
    }
    return y, donors, proba | {"donor": within_donors.of_donor_alone(y, donors, 2)}


@pytest.mark.parametrize(
    ("n_donors", "unit"), [(1, "cells within"), (2, "cells within"), (6, "over donors")]
)
def test_estimates_are_scikit_learns_and_lie_in_their_intervals(n_donors: int, unit: str) -> None:
    y, donors, proba = made(n_donors)
    found = within_donors.compare(y, donors, proba, n_draws=300)
    assert unit in found.unit
    for model, p in proba.items():
        row = found.table.loc[model]
        aurocs = [roc_auc_score(y[donors == d], p[donors == d, 1]) for d in np.unique(donors)]
        pairs = [
            (y[donors == d] == 1).sum() * (y[donors == d] == 0).sum() for d in np.unique(donors)
        ]
        assert row["auroc_within"] == pytest.approx(np.average(aurocs, weights=pairs))
        assert row["macro_f1"] == pytest.approx(f1_score(y, p.argmax(1), average="macro"))
        for metric in within_donors.METRICS:
            assert row[f"{metric}_low"] <= row[metric] <= row[f"{metric}_high"]


def test_the_donor_alone_wins_over_all_cells_and_knows_nothing_within_donors() -> None:
    y, donors, proba = made(2)
    found = within_donors.compare(y, donors, proba, n_draws=300)
    assert found.table.loc["donor", "auroc_within"] == 0.5
    assert roc_auc_score(y, proba["donor"][:, 1]) > 0.85
    assert within_donors.difference(found, "guesses", "donor", "macro_f1").words == "is behind"


def test_words_come_from_the_interval() -> None:
    y, donors, proba = made(2)
    found = within_donors.compare(y, donors, proba | {"same": proba["knows"]}, n_draws=300)
    assert (
        within_donors.difference(found, "knows", "guesses", "auroc_within").words == "is ahead of"
    )
    assert within_donors.difference(found, "guesses", "knows", "auroc_within").words == "is behind"
    same = within_donors.difference(found, "knows", "same", "auroc_within")
    assert (same.value, same.low, same.high, same.words) == (0, 0, 0, "cannot be told apart from")
    chance = within_donors.difference(found, "guesses", "donor", "auroc_within")
    assert chance.low < 0 < chance.high
    assert chance.words == "cannot be told apart from"


def test_without_a_donor_of_both_classes_nothing_can_be_compared() -> None:
    donors = np.repeat(["a", "b"], 20)
    y = np.repeat([0, 1], 20)
    rng = np.random.default_rng(0)
    proba = {
        name: np.column_stack([1 - p, p])
        for name, p in (("x", rng.random(40)), ("y", rng.random(40)))
    }
    found = within_donors.compare(y, donors, proba, n_draws=100)
    assert np.isnan(found.table["auroc_within"]).all()
    assert (
        within_donors.difference(found, "x", "y", "auroc_within").words == "cannot be compared with"
    )
