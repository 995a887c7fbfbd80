"""The likelihood by cumulative sums is that of the risk sets, and its maximum that of lifelines."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scbert_cll._survival import models
from scbert_cll._survival.likelihood import RiskSets, maximum, moments
from scbert_cll._survival.outcome import Outcome

COMBINATIONS = list(product(("plain", "tied"), (False, True), (False, True)))


def patients(
    seed: int, n: int = 60, *, ties: bool, entry: bool, strata: bool
) -> tuple[Outcome, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    time = rng.exponential(np.exp(-0.6 * x[:, 0])) + 0.2
    start = time * rng.uniform(0, 0.8, n)
    if ties:
        time, start = np.ceil(time * 3) / 3, np.floor(start * 3) / 3
    event = rng.random(n) < 0.6
    groups = rng.integers(0, 3, n) if strata else None
    return Outcome(event, time, start if entry else None, None, groups), x


# -- the likelihood


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 40), st.booleans(), st.booleans(), st.booleans())
def test_sums_over_those_at_risk_are_those_of_the_risk_sets(
    risk_weights: Callable[[Outcome, np.ndarray], np.ndarray],
    seed: int,
    n: int,
    ties: bool,
    entry: bool,
    strata: bool,
) -> None:
    """Slope, information and each patient's share, event by event."""
    outcome, x = patients(seed, n, ties=ties, entry=entry, strata=strata)
    risk = x @ np.array([0.5, -1.0, 2.0])
    weight, event = risk_weights(outcome, risk), outcome.event
    mean = weight @ x
    parts = moments(outcome, risk, x)
    slope = sum(part.slope for part in parts)
    np.testing.assert_allclose(slope, (x[event] - mean).sum(axis=0), atol=1e-9)
    second = sum(((x - m).T * row) @ (x - m) for row, m in zip(weight, mean, strict=True))
    information = sum(part.information() for part in parts)
    np.testing.assert_allclose(information, np.zeros((3, 3)) + second, atol=1e-8)
    curvature = sum(part.curvature(slice(None)) for part in parts)
    np.testing.assert_allclose(curvature, np.diag(information), atol=1e-8)
    shares = np.zeros(n)
    for stratum, part in zip(RiskSets.of(outcome), parts, strict=True):
        shares[stratum.rows] = part.weight
    np.testing.assert_allclose(shares, weight.sum(axis=0), atol=1e-9)
    assert shares.sum() == pytest.approx(event.sum())


def test_likelihood_is_the_sum_over_events() -> None:
    """Without ties: log of each patient's hazard among those at risk."""
    outcome, x = patients(0, ties=False, entry=True, strata=True)
    risk = x[:, 0]
    total = 0.0
    for i in np.flatnonzero(outcome.event):
        at_risk = (outcome.time >= outcome.time[i]) & (outcome.entry < outcome.time[i])
        at_risk &= outcome.strata == outcome.strata[i]
        total += risk[i] - np.log(np.exp(risk[at_risk]).sum())
    found = sum(part.log_likelihood for part in moments(outcome, risk, x))
    assert found == pytest.approx(total, abs=1e-9)


def test_a_patient_of_extreme_risk_who_has_left_costs_no_digits() -> None:
    """A difference of sums would be round-off here."""
    rng = np.random.default_rng(0)
    risk = np.r_[np.zeros(1), np.full(40, -45.0)]
    for entry in (None, np.zeros(41)):
        outcome = Outcome(np.ones(41, dtype=bool), np.arange(1.0, 42.0), entry)
        (part,) = moments(outcome, risk, rng.normal(size=(41, 2)))
        expected = -np.log(np.arange(1, 41)).sum()
        assert part.log_likelihood == pytest.approx(expected, abs=1e-9)


# -- its maximum


@pytest.mark.parametrize(("times", "entry", "strata"), COMBINATIONS)
def test_maximum_as_lifelines(
    lifelines: dict[str, np.ndarray], times: str, entry: bool, strata: bool
) -> None:
    """With and without ties, delayed entry and strata."""
    outcome = Outcome(
        lifelines["event"],
        lifelines[f"{times}_time"],
        lifelines[f"{times}_entry"] if entry else None,
        None,
        lifelines["stratum"] if strata else None,
    )
    found = maximum(outcome, lifelines["x"])
    name = f"cox_{times}_{entry}_{strata}"
    assert found.converged
    np.testing.assert_allclose(found.coef, lifelines[f"{name}_coef"], atol=1e-9)
    np.testing.assert_allclose(found.se, lifelines[f"{name}_se"], atol=1e-9)
    heights = [found.log_likelihood, found.log_likelihood_null]
    np.testing.assert_allclose(heights, lifelines[f"{name}_height"], atol=1e-9)
    fit = models.fit(outcome, pd.DataFrame(lifelines["x"], columns=["a", "b", "c"]))
    np.testing.assert_allclose([fit.coef, fit.se], [found.coef, found.se], rtol=1e-12)
    assert (fit.log_likelihood, fit.log_likelihood_null) == pytest.approx(heights, rel=1e-12)


@pytest.mark.parametrize(("times", "entry", "strata"), COMBINATIONS)
def test_at_the_maximum_the_slope_is_none(times: str, entry: bool, strata: bool) -> None:
    outcome, x = patients(1, 200, ties=times == "tied", entry=entry, strata=strata)
    found = maximum(outcome, x)
    parts = moments(outcome, x @ found.coef, x)
    np.testing.assert_allclose(sum(part.slope for part in parts), 0, atol=1e-7)
    variance = np.linalg.inv(sum(part.information() for part in parts))
    np.testing.assert_allclose(found.se, np.sqrt(np.diag(variance)), rtol=1e-9)


def test_units_and_places_do_not_matter() -> None:
    outcome, x = patients(2, 150, ties=True, entry=False, strata=True)
    found, scaled = maximum(outcome, x), maximum(outcome, x * [1, 1e6, 1e-6] + [0, 1e7, 5])
    np.testing.assert_allclose(scaled.coef * [1, 1e6, 1e-6], found.coef, rtol=1e-6)
    np.testing.assert_allclose(scaled.se * [1, 1e6, 1e-6], found.se, rtol=1e-6)


def test_logistic_regression_as_statsmodels() -> None:
    statsmodels = pytest.importorskip("statsmodels.api", reason="statsmodels is not installed")
    _, x = patients(3, 300, ties=False, entry=False, strata=False)
    event = np.random.default_rng(3).random(300) < 1 / (1 + np.exp(0.5 - x @ [1.0, -0.5, 0]))
    found = maximum(Outcome(event), x)
    theirs = statsmodels.Logit(event.astype(float), statsmodels.add_constant(x)).fit(disp=0)
    np.testing.assert_allclose(found.coef, theirs.params[1:], rtol=1e-8)
    np.testing.assert_allclose(found.se, theirs.bse[1:], rtol=1e-8)
    heights = [found.log_likelihood, found.log_likelihood_null]
    np.testing.assert_allclose(heights, [theirs.llf, theirs.llnull], rtol=1e-9)


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize(
    "columns",
    [np.zeros((160, 1)), np.ones((160, 2)) * np.arange(160)[:, None]],
    ids=["constant", "twice the same"],
)
def test_no_maximum_is_said(columns: np.ndarray, timed: bool) -> None:
    outcome, _ = patients(4, 160, ties=False, entry=False, strata=False)
    assert not maximum(outcome if timed else Outcome(outcome.event), columns).converged


@pytest.mark.parametrize("kind", ["plain", "tied", "entry", "strata", "untimed"])
def test_what_separates_has_no_maximum_and_is_named(kind: str) -> None:
    """An effect that grows without end, beside one that is finite."""
    outcome, x = patients(
        5, 160, ties=kind == "tied", entry=kind == "entry", strata=kind == "strata"
    )
    outcome = Outcome(outcome.event) if kind == "untimed" else outcome
    columns = pd.DataFrame({"known": outcome.event.astype(float), "a": x[:, 0]})
    assert not maximum(outcome, columns.to_numpy()).converged
    # without times no patient tells anything more of the other effect
    named = "'known', 'a'" if kind == "untimed" else "'known'"
    with pytest.raises(ValueError, match=f"^{named} tells .almost. exactly who has the event"):
        models.fit(outcome, columns)


def test_a_column_that_differs_among_nobody_at_risk_is_refused() -> None:
    """Its only other value is of a patient who is gone before the first event."""
    time, event = np.arange(1.0, 41.0), np.arange(40) > 0
    columns = pd.DataFrame({"early": (time == 1).astype(float)})
    with pytest.raises(ValueError, match=r"'early' tells .almost. exactly"):
        models.fit(Outcome(event, time), columns)


def test_strata_without_events_weigh_nothing() -> None:
    outcome, x = patients(6, 90, ties=True, entry=True, strata=True)
    event = outcome.event & (outcome.strata != 1)
    with_all = Outcome(event, outcome.time, outcome.entry, None, outcome.strata)
    rest = np.flatnonzero(outcome.strata != 1)
    found, without = maximum(with_all, x), maximum(with_all.take(rest), x[rest])
    np.testing.assert_allclose(found.coef, without.coef, atol=1e-9)
    assert found.log_likelihood == pytest.approx(without.log_likelihood)
