from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from scbert_cll._evaluation.donors import agreement, by_donor, interval, reliability
from scbert_cll._evaluation.metrics import score

CLASSES = ["neg", "pos"]


def hard(called):
    """Probabilities of certain calls (repeats, n) of two classes."""
    return np.eye(2)[np.asarray(called)]


def patients(shares, n=20):
    """`n` cells per donor, of which so many percent are positive."""
    y = np.concatenate([np.arange(n) < round(n * share / 100) for share in shares]).astype(int)
    return y, np.repeat([f"p{i}" for i in range(len(shares))], n)


def test_percentages_calls_and_limits_of_each_donor():
    y, donor = patients([0, 25, 30, 80])
    first = patients([10, 35, 30, 80])[0]
    second = patients([0, 35, 20, 80])[0]
    found = by_donor(y, donor, {"m": hard([first, second])}, CLASSES)
    assert found["donor"].tolist() == ["p0", "p1", "p2", "p3"]
    assert found["observed"].tolist() == pytest.approx([0, 25, 30, 80])
    assert found["predicted"].tolist() == pytest.approx([5, 35, 25, 80])
    assert found["predicted_low"].tolist() == pytest.approx([0, 35, 20, 80])
    assert found["predicted_high"].tolist() == pytest.approx([10, 35, 30, 80])
    assert found["observed_call"].tolist() == [False, False, True, True]
    assert found["predicted_call"].tolist() == [False, True, False, True]
    assert found["n_positive"].tolist() == [0, 5, 6, 16]
    assert found["accuracy"].tolist() == pytest.approx([0.95, 0.9, 0.95, 1])
    stricter = by_donor(y, donor, {"m": hard([first, second])}, CLASSES, positive_from=31)
    assert stricter["observed_call"].tolist() == [False, False, False, True]


def test_a_donor_of_one_class_has_no_auroc_and_says_so():
    y, donor = patients([0, 50])
    rng = np.random.default_rng(0)
    p = rng.random((3, 40))
    found = by_donor(y, donor, {"m": np.stack([1 - p, p], axis=2)}, CLASSES).set_index("donor")
    assert np.isnan(found.loc["p0", "auroc"])
    assert found.loc["p0", "note"] == "AUROC: one class only"
    expected = np.mean([roc_auc_score(y[20:], r[20:]) for r in p])
    assert found.loc["p1", "auroc"] == pytest.approx(expected)
    assert found.loc["p1", "note"] == ""


def test_limits_are_wilsons_and_clopper_and_pearsons():
    z, n, k = 1.959963984540054, 20, 6
    centre, half = (k + z**2 / 2) / (n + z**2), z * np.sqrt(k * (n - k) / n + z**2 / 4) / (n + z**2)
    y, donor = patients([30])
    found = by_donor(y, donor, {"m": hard([y])}, CLASSES).iloc[0]
    assert [found["observed_low"], found["observed_high"]] == pytest.approx(
        [100 * (centre - half), 100 * (centre + half)]
    )
    # ten of ten: the lower limit solves p ** 10 = .025
    assert interval(10, 10, "exact") == pytest.approx((0.025**0.1, 1))
    assert np.isnan(interval(0, 0, "wilson")).all()


def test_agreement_counts_donors():
    shares = [0, 10, 25, 35, 60, 90]
    y, donor = patients(shares)
    called = patients([5, 15, 40, 30, 65, 85])[0]
    perfect, off = (
        agreement(by_donor(y, donor, {"m": hard([c])}, CLASSES), ["m"]).iloc[0] for c in (y, called)
    )
    assert [perfect[c] for c in ("n_donors", "n_agree", "share", "spearman", "mae", "note")] == [
        6,
        6,
        1,
        1,
        0,
        "",
    ]
    assert [off["n_donors"], off["n_agree"]] == [6, 5]
    assert off["mae"] == pytest.approx(np.mean([5, 5, 15, 5, 5, 5]))
    assert off["spearman"] == pytest.approx(spearmanr(shares, [5, 15, 40, 30, 65, 85]).statistic)
    assert (off["low"], off["high"]) == pytest.approx(interval(5, 6, "exact"))


@pytest.mark.parametrize(
    ("shares", "called", "note"),
    [
        ([10, 90], [10, 90], "Spearman: 2 donors, fewer than 3"),
        ([10, 50, 90], [0, 0, 0], "Spearman: every donor has the same predicted percentage"),
        ([50, 50, 50], [0, 10, 20], "Spearman: every donor has the same observed percentage"),
    ],
)
def test_a_correlation_that_cannot_be_has_a_reason(shares, called, note):
    y, donor = patients(shares)
    found = agreement(by_donor(y, donor, {"m": hard([patients(called)[0]])}, CLASSES), ["m"]).iloc[
        0
    ]
    assert np.isnan(found["spearman"])
    assert found["note"] == note
    assert np.isfinite(found["mae"])


def test_without_donors_there_is_nothing_to_agree_on():
    y, _ = patients([50])
    table = by_donor(y, None, {"m": hard([y])}, CLASSES)
    assert table.empty
    found = agreement(table, ["m"]).iloc[0]
    assert (found["n_donors"], found["note"]) == (0, "Spearman: no donors")
    assert np.isnan([found["share"], found["low"], found["mae"]]).all()


def test_donors_without_predictions_are_left_out_of_the_agreement():
    y, donor = patients([20, 40, 60, 80])
    proba = hard([y]).copy()
    proba[0, 3] = np.nan
    table = by_donor(y, donor, {"m": proba}, CLASSES)
    assert table["note"].iloc[0] == "1 of 1 repeats without predictions of all cells"
    assert table["predicted"].isna().tolist() == [True, False, False, False]
    assert agreement(table, ["m"])["n_donors"].item() == 3


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 200), n_repeats=st.integers(1, 3))
def test_bins_of_the_reliability_hold_every_cell_once(seed, n, n_repeats):
    rng = np.random.default_rng(seed)
    y, p = rng.integers(0, 2, n), rng.random((n_repeats, n))
    found = reliability(y, {"m": np.stack([1 - p, p], axis=2)})
    assert len(found) == min(15, n * n_repeats)
    assert abs(found["n_cells"].sum() - n) <= len(found)
    assert found["predicted"].is_monotonic_increasing
    assert (found["low"] <= found["high"]).all()
    assert found[["predicted", "observed", "low", "high"]].stack().between(0, 1).all()


def test_the_gaps_of_the_reliability_are_the_calibration_error():
    rng = np.random.default_rng(1)
    y, p = rng.integers(0, 2, 300), rng.random(300)
    proba = np.stack([1 - p, p], axis=1)
    found = reliability(y, {"m": proba[None]})
    assert found["n_cells"].tolist() == [20] * 15
    gap = np.average((found["observed"] - found["predicted"]).abs(), weights=found["n_cells"])
    assert gap == pytest.approx(score("ece", y, proba, CLASSES).value)


def test_a_calibrated_model_lies_within_its_limits():
    rng = np.random.default_rng(2)
    p = rng.random(6000)
    found = reliability(
        (rng.random(6000) < p).astype(int), {"m": np.stack([1 - p, p], axis=1)[None]}
    )
    assert (
        (found["low"] <= found["predicted"]) & (found["predicted"] <= found["high"])
    ).sum() >= 12


def test_repeats_do_not_make_cells():
    y, p = np.arange(90) % 2, np.random.default_rng(3).random(90)
    proba = np.stack([1 - p, p], axis=1)[None]
    once, thrice = reliability(y, {"m": proba}), reliability(y, {"m": np.repeat(proba, 3, axis=0)})
    assert thrice["n_cells"].sum() == once["n_cells"].sum() == 90
