from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from scbert_cll._evaluation.metrics import (
    LOWER_IS_BETTER,
    METRICS,
    chance,
    ends,
    score,
    weighted,
)

NAMES = "abcd"


def predictions(n, n_classes, seed, *, coarse=False, skill=1.0):
    """Codes and probabilities; coarse ones have many equal values, as of neighbours or trees."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(
        np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)])
    )
    z = rng.normal(size=(n, n_classes))
    z[np.arange(n), y] += skill
    proba = np.exp(z)
    if coarse:
        proba = np.ceil(4 * proba / proba.sum(1, keepdims=True))
    return y, proba / proba.sum(1, keepdims=True)


def within(y, proba, unit, weights):
    """AUROC of each unit and class by scikit-learn, weighted by its pairs."""
    found = []
    for code in [1] if proba.shape[1] == 2 else range(proba.shape[1]):
        each = [(y[unit == u] == code, proba[unit == u, code], weights[u]) for u in np.unique(unit)]
        each = [
            (hit, value, w * hit.sum() * (~hit).sum())
            for hit, value, w in each
            if hit.any() and not hit.all()
        ]
        found.append(
            np.average([sk.roc_auc_score(h, v) for h, v, _ in each], weights=[w for *_, w in each])
        )
    return np.mean(found)


def values(y, proba, donors=None):
    classes = NAMES[: proba.shape[1]]
    return {
        name: score(name, y, proba, classes, ordered=True, donors=donors).value for name in METRICS
    }


def brute_ece(y, proba, weight):
    """Each cell written out as often as it counts, sorted, dealt into 15 bins by the middle of its
    run of equal values.
    """
    y, proba = np.repeat(y, weight), np.repeat(proba, weight, axis=0)
    two = proba.shape[1] == 2
    sure = proba[:, 1] if two else proba.max(1)
    right = (y == 1) if two else (y == proba.argmax(1))
    below, upto = (sure[None] < sure[:, None]).sum(1), (sure[None] <= sure[:, None]).sum(1)
    bins = np.floor(15 * (below + upto) / 2 / len(y))
    return sum(abs((right[bins == b] - sure[bins == b]).sum()) for b in range(15)) / len(y)


def of_sklearn(y, proba, w):
    """scikit-learn's numbers with sample weights."""
    k, called = proba.shape[1], proba.argmax(1)
    hot, two = np.eye(k)[y], k == 2
    squares = ((proba - hot) ** 2).sum(1) / (2 if two else 1)
    ovr = {} if two else {"multi_class": "ovr", "average": "macro"}
    return {
        "accuracy": sk.accuracy_score(y, called, sample_weight=w),
        "macro_f1": sk.f1_score(
            y, called, labels=range(k), average="macro", zero_division=0, sample_weight=w
        ),
        "balanced_accuracy": sk.balanced_accuracy_score(y, called, sample_weight=w),
        "mcc": sk.matthews_corrcoef(y, called, sample_weight=w),
        "auroc": sk.roc_auc_score(y, proba[:, 1] if two else proba, sample_weight=w, **ovr),
        "auprc": sk.average_precision_score(
            hot[:, 1:] if two else hot, proba[:, 1:] if two else proba, sample_weight=w
        ),
        "kappa_quadratic": sk.cohen_kappa_score(y, called, weights="quadratic", sample_weight=w),
        "brier": np.average(squares, weights=w),
        "log_loss": sk.log_loss(y, proba, labels=range(k), sample_weight=w),
    }


@pytest.mark.parametrize("n_classes", [2, 3, 4])
@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("many_units", [False, True])
def test_weighted_metrics_are_scikit_learns(n_classes, coarse, many_units):
    y, proba = predictions(400, n_classes, 3, coarse=coarse)
    rng = np.random.default_rng(1)
    n_units = 400 if many_units else 7
    unit = np.arange(400) if many_units else rng.integers(0, n_units, 400)
    weights = rng.multinomial(n_units, np.full(n_units, 1 / n_units), 6).astype(float)
    found = dict(zip(METRICS, weighted(METRICS, y, proba, unit, weights), strict=True))
    for i, row in enumerate(weights[:, unit]):
        assert set(y[row > 0]) == set(range(n_classes))
        expected = of_sklearn(y[row > 0], proba[row > 0], row[row > 0]) | {
            "ece": brute_ece(y, proba, row.astype(int))
        }
        expected["auroc_within"] = (
            expected["auroc"] if many_units else within(y, proba, unit, weights[i])
        )
        assert {name: found[name][i] for name in METRICS} == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_single_values_are_those_of_weight_one(n_classes):
    y, proba = predictions(300, n_classes, 5)
    ones = weighted(METRICS, y, proba, np.zeros(300, dtype=int), np.ones((1, 1)))[:, 0]
    assert values(y, proba) == pytest.approx(dict(zip(METRICS, ones, strict=True)), abs=1e-12)
    expected = of_sklearn(y, proba, None) | {"ece": brute_ece(y, proba, np.ones(300, dtype=int))}
    assert values(y, proba) == pytest.approx(
        expected | {"auroc_within": expected["auroc"]}, abs=1e-12
    )


@pytest.mark.parametrize(("n_classes", "scaled"), [(2, True), (3, False)])
def test_brier_is_scikit_learns(n_classes, scaled):
    y, proba = predictions(100, n_classes, 2)
    expected = sk.brier_score_loss(y, proba, labels=range(n_classes), scale_by_half=scaled)
    assert values(y, proba)["brier"] == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(8, 60),
    n_classes=st.integers(2, 4),
    coarse=st.booleans(),
)
def test_order_does_not_matter_and_values_stay_in_range(seed, n, n_classes, coarse):
    y, proba = predictions(n, n_classes, seed, coarse=coarse)
    order = np.random.default_rng(seed).permutation(n)
    found = values(y, proba)
    assert values(y[order], proba[order]) == pytest.approx(found)
    for name, value in found.items():
        least, most = ends(name, n_classes)
        assert least - 1e-12 <= value <= most + 1e-12, name


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n_classes=st.integers(2, 3), coarse=st.booleans())
def test_a_unit_that_counts_twice_is_its_cells_twice(seed, n_classes, coarse):
    y, proba = predictions(50, n_classes, seed, coarse=coarse)
    unit = np.random.default_rng(seed).integers(0, 4, 50)
    weights = np.ones((1, 4))
    weights[0, 2] = 2
    twice = np.concatenate([np.arange(50), np.flatnonzero(unit == 2)])
    found = dict(zip(METRICS, weighted(METRICS, y, proba, unit, weights)[:, 0], strict=True))
    donors = np.concatenate([unit, np.full((unit == 2).sum(), 4)])
    assert found == pytest.approx(values(y[twice], proba[twice], donors), abs=1e-9, nan_ok=True)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), n_classes=st.integers(2, 3))
def test_perfect_predictions_have_the_best_value(seed, n_classes):
    y, _ = predictions(40, n_classes, seed)
    for name, value in values(y, np.eye(n_classes)[y]).items():
        assert value == pytest.approx(0 if name in LOWER_IS_BETTER else 1, abs=1e-6), name


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("auroc", "one class only"),
        ("auprc", "one class only"),
        ("mcc", "one class only"),
        ("balanced_accuracy", "one class only"),
        ("kappa_quadratic", "one class only"),
    ],
)
def test_one_class_has_no_value_and_a_reason(name, note):
    _, proba = predictions(20, 2, 0)
    value, why = score(name, np.zeros(20, dtype=int), proba, "ab", ordered=True)
    assert np.isnan(value)
    assert why == note


def test_what_is_agreed_upon_is_said():
    y, proba = predictions(60, 3, 0)
    some, proba = y[y != 2], proba[y != 2]
    assert score("macro_f1", some, proba, "abc").note == "no cell of 'c', whose F1 counts as 0"
    assert (
        score("balanced_accuracy", some, proba, "abc").note
        == "no cell of 'c', left out of the mean"
    )
    assert score("auroc", some, proba, "abc").note == "no cell of 'c'"
    assert np.isnan(score("auroc", some, proba, "abc").value)
    constant = np.tile([0.7, 0.2, 0.1], (60, 1))
    assert score("mcc", y, constant, "abc") == (0, "every cell is called 'a': 0 by convention")


def test_other_reasons():
    y, proba = predictions(20, 2, 0)
    assert score("kappa_quadratic", y, proba, "ab").note == "the classes are not ordered"
    gaps = np.where(np.arange(20)[:, None] < 3, np.nan, proba)
    assert score("brier", y, gaps, "ab").note == "no prediction for 3 of 20 cells"
    assert score("accuracy", y[:0], proba[:0], "ab").note == "no cells"
    with pytest.raises(ValueError, match=r"A metric must be one of .*'macro_f1'.*; found 'f1'"):
        score("f1", y, proba, "ab")


def test_a_draw_without_a_class_is_another_question():
    y, unit = np.array([0, 1, 2, 0, 1, 1]), np.array([0, 0, 0, 1, 1, 1])
    proba = np.eye(3)[y] * 0.7 + 0.1
    found = dict(
        zip(
            METRICS,
            weighted(METRICS, y, proba, unit, np.array([[1.0, 1], [0, 2], [0, 0]])),
            strict=True,
        )
    )
    for name in METRICS:
        assert np.isfinite(found[name][0])
        assert np.isnan(found[name][2])
    gone = {name for name in METRICS if np.isnan(found[name][1])}
    assert gone == {"macro_f1", "balanced_accuracy", "auroc", "auroc_within", "auprc"}


@pytest.mark.parametrize("n_classes", [2, 3])
def test_chance_is_what_shares_alone_reach(n_classes):
    y, _ = predictions(500, n_classes, 0)
    shares = np.bincount(y) / 500
    found = values(y, np.tile(shares, (500, 1)))
    for name in set(METRICS) - {"ece"}:
        assert found[name] == pytest.approx(chance(name, y, n_classes), abs=1e-6), name
    assert np.isnan(chance("ece", y, n_classes))


# ---- within donors


def test_auroc_within_donors_is_the_mean_of_each_donors_weighted_by_its_pairs() -> None:
    rng = np.random.default_rng(0)
    y, donors = rng.integers(0, 2, 200), rng.integers(0, 4, 200)
    p = np.round(rng.random(200), 1)  # with ties
    proba = np.stack([1 - p, p], axis=1)
    each = [
        (
            sk.roc_auc_score(y[donors == d], p[donors == d]),
            (y[donors == d] == 1).sum() * (y[donors == d] == 0).sum(),
        )
        for d in range(4)
    ]
    expected = np.average([a for a, _ in each], weights=[n for _, n in each])
    assert score("auroc_within", y, proba, ["a", "b"], donors=donors).value == pytest.approx(
        expected, abs=1e-12
    )
    assert score("auroc_within", y, proba, ["a", "b"]).value == pytest.approx(
        sk.roc_auc_score(y, p), abs=1e-12
    )


def test_telling_donors_apart_is_worth_nothing_within_them() -> None:
    donors = np.repeat([0, 1], 50)
    y = np.r_[np.arange(50) % 5 == 0, np.arange(50) % 5 != 0].astype(int)
    p = np.where(donors == 1, 0.9, 0.1)
    proba = np.stack([1 - p, p], axis=1)
    assert score("auroc", y, proba, ["a", "b"]).value == pytest.approx(0.8)
    assert score("auroc_within", y, proba, ["a", "b"], donors=donors).value == 0.5


def test_auroc_within_is_undefined_where_every_donor_has_one_class() -> None:
    proba = np.tile([0.4, 0.6], (10, 1))
    found = score(
        "auroc_within", np.repeat([0, 1], 5), proba, ["a", "b"], donors=np.repeat([0, 1], 5)
    )
    assert np.isnan(found.value)
    assert found.note == "no donor has cells of a class and of others"


@pytest.mark.parametrize("k", [2, 3])
def test_weighting_a_donor_twice_equals_its_cells_as_two_donors(k) -> None:
    rng = np.random.default_rng(k)
    y, donors = rng.integers(0, k, 90), np.repeat([0, 1, 2], 30)
    proba = rng.dirichlet(np.ones(k), 90)
    (found,) = weighted(["auroc_within"], y, proba, donors, np.array([[1.0, 2.0, 0.0]]))[0]
    rows = np.r_[np.arange(30), np.arange(30, 60), np.arange(30, 60)]
    twice = np.repeat([0, 1, 2], 30)
    expected = score("auroc_within", y[rows], proba[rows], list("abc")[:k], donors=twice).value
    assert found == pytest.approx(expected, abs=1e-12)
