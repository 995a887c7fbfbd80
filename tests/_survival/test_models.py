"""Models of outcome: effects, concordance, the score test, proportional hazards, and what
discrimination gains.
"""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from scbert_cll._survival import added_value, models
from scbert_cll._survival.likelihood import proportional, score_test
from scbert_cll._survival.outcome import Outcome


def simulated(
    n: int = 160, *, seed: int = 0, ties: bool = False, effect: float = 0.6
) -> tuple[Outcome, pd.DataFrame]:
    """Exponential times with an effect of the first of two columns; half are censored."""
    rng = np.random.default_rng(seed)
    x = pd.DataFrame({"a": rng.normal(size=n), "b": rng.integers(0, 2, n).astype(float)})
    event = rng.exponential(np.exp(-effect * x["a"].to_numpy()))
    censored = rng.exponential(1.0, n)
    time = np.minimum(event, censored)
    return Outcome(event <= censored, np.ceil(time * 5) / 5 if ties else time), x


def delayed(outcome: Outcome, seed: int = 1) -> Outcome:
    """The same with entry after the start, before each end."""
    rng = np.random.default_rng(seed)
    time = np.asarray(outcome.time)
    return Outcome(outcome.event, time, entry=time * rng.uniform(0, 0.8, len(time)))


def log_likelihood(outcome: Outcome, predictor: np.ndarray) -> float:
    """Partial log-likelihood of a linear predictor (events × patients), event by event; no ties."""
    total = 0.0
    for e, i in enumerate(np.flatnonzero(outcome.event)):
        at = outcome.time[i]
        risk = outcome.time >= at
        if outcome.entry is not None:
            risk &= outcome.entry < at
        if outcome.strata is not None:
            risk &= outcome.strata == outcome.strata[i]
        total += predictor[e, i] - np.log(np.exp(predictor[e, risk]).sum())
    return total


# -- effects
# --------------------------------------------------------------------------------------------------


def test_categories_are_held_against_the_first() -> None:
    frame = pd.DataFrame(
        {
            "stage": pd.Categorical(["B", "A", "C", "A"], categories=["A", "B", "C", "D"]),
            "male": [True, False, True, False],
            "age": [60, 70, 80, 90],
        }
    )
    found = models.design(frame)
    assert list(found) == ["stage: B", "stage: C", "male", "age"]
    np.testing.assert_array_equal(found["stage: B"], [1, 0, 0, 0])
    assert (found.dtypes == np.float64).all()


def test_a_covariate_that_knows_the_outcome_is_refused() -> None:
    outcome, x = simulated()
    with pytest.raises(
        ValueError,
        match=r"'known' tells .almost. exactly who has the event.*recorded after the outcome",
    ):
        models.fit(outcome, x.assign(known=outcome.event.astype(float)))


def test_redraws_of_one_answer_are_left_out() -> None:
    _, x = simulated(22, effect=0.0)
    rare = Outcome(np.arange(22) < 2)
    found = added_value.gains(
        rare,
        x[[]],
        x[["a"]],
        {"C": models.concordance},
        n_bootstrap=60,
        rng=np.random.default_rng(0),
        progress=False,
    )["C"]
    assert 20 < found.n_bootstrap < 60


def test_logistic_regression_without_times() -> None:
    outcome, x = simulated(400)
    found = models.fit(Outcome(outcome.event), x)
    logit = stats.norm.sf  # of the Wald test
    table = found.table()
    np.testing.assert_allclose(table["p"], 2 * logit(np.abs(table["coef"] / table["se"])))
    share = outcome.event.mean()
    alone = 400 * (share * np.log(share) + (1 - share) * np.log(1 - share))
    assert found.log_likelihood_null == pytest.approx(alone)
    assert models.concordance(Outcome(outcome.event), found.risk) == pytest.approx(
        roc_auc_score(outcome.event, found.risk)
    )


# -- concordance
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", ["plain", "tied"])
def test_concordance_is_that_of_lifelines(lifelines: dict[str, np.ndarray], times: str) -> None:
    """Of a risk with ties."""
    risk = np.round(lifelines["x"][:, 0], 1)
    outcome = Outcome(lifelines["event"], lifelines[f"{times}_time"])
    found = models.concordance(outcome, risk)
    assert found == pytest.approx(lifelines[f"concordance_{times}"][0], abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.booleans())
def test_concordance_is_that_of_pairs(seed: int, ties: bool, coarse: bool) -> None:
    """Pair by pair: the one with the event is the earlier one."""
    outcome, x = simulated(40, seed=seed, ties=ties)
    time, event = np.asarray(outcome.time), outcome.event
    risk = np.round(x["a"].to_numpy(), 0 if coarse else 6)
    pairs = [
        (risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j])
        for i in np.flatnonzero(event)
        for j in range(40)
        if time[i] < time[j] or (time[i] == time[j] and not event[j])
    ]
    expected = np.mean(pairs) if pairs else np.nan
    assert models.concordance(outcome, risk) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_concordance_compares_within_strata_and_after_entry() -> None:
    outcome, x = simulated(60)
    time, event, risk = outcome.time, outcome.event, x["a"].to_numpy()
    entry, strata = delayed(outcome).entry, np.arange(60) % 2
    pairs = [
        (risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j])
        for i in np.flatnonzero(event)
        for j in range(60)
        if strata[i] == strata[j] and entry[j] < time[i] < time[j]
    ]
    assert models.concordance(Outcome(event, time, entry, None, strata), risk) == pytest.approx(
        np.mean(pairs)
    )


# -- the score test
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "entry", "strata"])
def test_score_test_is_slope_and_curvature_of_the_likelihood(kind: str) -> None:
    outcome, x = simulated(80)
    if kind == "entry":
        outcome = delayed(outcome)
    if kind == "strata":
        outcome = Outcome(outcome.event, outcome.time, strata=np.arange(80) % 2)
    base = models.fit(outcome, x[["b"]])
    z = score_test(outcome, x[["a"]].to_numpy(), x[["b"]].to_numpy(), base.risk)[0]
    n_events = outcome.n_events

    def at(a: float, b: float) -> float:
        predictor = base.risk + a * x["a"].to_numpy() + b * x["b"].to_numpy()
        return log_likelihood(outcome, np.tile(predictor, (n_events, 1)))

    h = 1e-4
    slope = (at(h, 0) - at(-h, 0)) / (2 * h)
    aa, bb = (
        (at(*p) - 2 * at(0, 0) + at(*m)) / h**2 for p, m in (((h, 0), (-h, 0)), ((0, h), (0, -h)))
    )
    ab = (at(h, h) - at(h, -h) - at(-h, h) + at(-h, -h)) / (4 * h**2)
    assert z == pytest.approx(slope / np.sqrt(-(aa - ab**2 / bb)), rel=1e-3)


def test_score_test_of_many_is_that_of_each_and_close_to_the_fitted_one() -> None:
    outcome, x = simulated(300, effect=0.2)
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(300, 5))
    base = models.fit(outcome, x)
    many = score_test(outcome, scores, x.to_numpy(), base.risk)
    for k in range(5):
        one = score_test(outcome, scores[:, [k]], x.to_numpy(), base.risk)
        assert one[0] == pytest.approx(many[k])
        fitted = models.fit(outcome, x.assign(score=scores[:, k])).table().iloc[-1]
        assert fitted["z"] == pytest.approx(many[k], abs=0.1)


def test_score_test_does_not_mind_the_scale_and_is_zero_for_what_is_known() -> None:
    outcome, x = simulated()
    base = models.fit(outcome, x[["b"]])
    columns = np.column_stack([x["a"], 100 * x["a"] + 7, 3 * x["b"], np.zeros(len(x))])
    z = score_test(outcome, columns, x[["b"]].to_numpy(), base.risk)
    assert z[0] == pytest.approx(z[1])
    np.testing.assert_array_equal(z[2:], 0)


def test_score_test_without_times_is_close_to_the_likelihood_ratio() -> None:
    outcome, x = simulated(500, effect=0.2)
    binary = Outcome(outcome.event)
    base, full = models.fit(binary, x[["b"]]), models.fit(binary, x)
    z = score_test(binary, x[["a"]].to_numpy(), x[["b"]].to_numpy(), base.risk)[0]
    assert z**2 == pytest.approx(added_value.likelihood_ratio(base, full)["lr_chi2"], rel=0.03)


def test_random_scores_have_a_standard_normal_z() -> None:
    outcome, x = simulated(200)
    base = models.fit(outcome, x)
    z = score_test(
        outcome, np.random.default_rng(5).normal(size=(200, 2000)), x.to_numpy(), base.risk
    )
    assert abs(z.mean()) < 0.08
    assert z.std() == pytest.approx(1, abs=0.06)
    assert (np.abs(z) > 1.96).mean() == pytest.approx(0.05, abs=0.02)


# -- proportional hazards
# -----------------------------------------------------------------------------------------------


def test_proportional_hazards_as_r_prints_them(lung: pd.DataFrame) -> None:
    """R's cox.zph since survival 3.0, lung data, age + sex + wt.loss: chi² .508, 2.549, .014, as
    tutorials print them; no page could be opened to cite.

    lifelines' own test differs from R's (its issue 997).
    """
    known = lung[["time", "status", "age", "sex", "wt.loss"]].dropna()
    outcome = Outcome(known["status"].to_numpy(dtype=bool), known["time"].to_numpy())
    found = models.fit(outcome, known[["age", "sex", "wt.loss"]].astype(float))
    np.testing.assert_allclose(
        stats.chi2.isf(found.table()["ph_p"], 1), [0.508, 2.549, 0.014], atol=6e-4
    )


def test_proportional_hazards_is_slope_and_curvature_with_entry() -> None:
    outcome, x = simulated(70)
    outcome = delayed(outcome)
    fitted = models.fit(outcome, x[["a"]])
    events = np.flatnonzero(outcome.event)
    km = []
    for i in events:  # Kaplan–Meier just before the event, one event at a time
        s = 1.0
        for t in np.sort(outcome.time[outcome.event]):
            if t < outcome.time[i]:
                s *= 1 - 1 / ((outcome.time >= t) & (outcome.entry < t)).sum()
        km.append(1 - s)
    g = np.array(km) - np.mean(km)
    a = x["a"].to_numpy()

    def at(gamma: float, beta: float) -> float:
        return log_likelihood(outcome, fitted.risk + beta * a + gamma * g[:, None] * a)

    h = 1e-4
    slope = (at(h, 0) - at(-h, 0)) / (2 * h)
    gg, bb = (
        (at(*p) - 2 * at(0, 0) + at(*m)) / h**2 for p, m in (((h, 0), (-h, 0)), ((0, h), (0, -h)))
    )
    gb = (at(h, h) - at(h, -h) - at(-h, h) + at(-h, -h)) / (4 * h**2)
    chi2 = slope**2 / -(gg - gb**2 / bb)
    found = proportional(outcome, x[["a"]].to_numpy(), fitted.risk)
    assert stats.chi2.isf(found, 1)[0] == pytest.approx(chi2, rel=1e-3)


def test_an_effect_that_turns_is_seen() -> None:
    rng = np.random.default_rng(2)
    group = np.repeat([0.0, 1.0], 150)
    time = np.where(
        group == 0, rng.exponential(1.0, 300), 0.5 + 0.3 * rng.exponential(1.0, 300)
    )  # none early, all late
    outcome = Outcome(np.ones(300, dtype=bool), time)
    found = models.fit(outcome, pd.DataFrame({"group": group}))
    assert found.table()["ph_p"].item() < 1e-3


# -- what discrimination gains
# ------------------------------------------------------------------------------------------


def gain(n: int, *, effect: float, seed: int, n_bootstrap: int = 60) -> added_value.Gain:
    outcome, x = simulated(n, seed=seed, effect=effect)
    measures = {"Harrell C": models.concordance}
    return added_value.gains(
        outcome,
        x[["b"]],
        x[["b", "a"]],
        measures,
        n_bootstrap=n_bootstrap,
        rng=np.random.default_rng(seed),
        progress=False,
    )["Harrell C"]


def test_optimism_is_taken_off_a_gain_of_nothing() -> None:
    """A score of noise gains by being fitted; the corrected gain is about none, and its interval
    holds 0 as often as it says.
    """
    found = [gain(70, effect=0.0, seed=seed, n_bootstrap=40) for seed in range(30)]
    apparent = np.mean([one.delta for one in found])
    corrected = np.mean([one.delta - one.optimism for one in found])
    assert apparent > 0.01
    assert abs(corrected) < 0.6 * apparent
    assert np.mean([one.ci_low <= 0 <= one.ci_high for one in found]) > 0.85


def test_a_real_gain_stays() -> None:
    found = gain(250, effect=0.8, seed=1)
    assert found.ci_low > 0.05
    assert found.ci_low < found.delta - found.optimism < found.ci_high


def test_few_redraws_give_no_interval() -> None:
    found = gain(100, effect=0.5, seed=0, n_bootstrap=5)
    assert np.isnan([found.ci_low, found.ci_high, found.optimism]).all()
    assert found.delta > 0


def test_measures_without_scikit_survival_or_with_a_broken_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sksurv.metrics", None)
    named, notes = added_value.measures(simulated(50)[0], 1.0)
    assert list(named) == ["Harrell C"]
    assert "pip install 'scbert-cll[uno]'" in " ".join(notes)


def test_uno_is_that_of_scikit_survival_and_wants_risk() -> None:
    metrics = pytest.importorskip("sksurv.metrics", reason="needs the extra uno")
    from sksurv.util import Surv

    outcome, x = simulated(200)
    y = Surv.from_arrays(outcome.event, outcome.time)
    risk = x["a"].to_numpy()
    assert (
        added_value.uno(outcome, outcome, risk, 1.0)
        == metrics.concordance_index_ipcw(y, y, risk, tau=1.0)[0]
    )
    assert added_value.uno(outcome, outcome, risk, 1.0) > 0.55
    assert added_value.auc(outcome, risk, np.array([0.5]))[0] > 0.55
    assert np.isnan(added_value.auc(outcome, risk, np.array([1e6]))[0])


# -- power
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ratio", "events"), [(1.3, 115), (1.5, 48), (1.74, 26), (2.0, 17)])
def test_power_as_in_schoenfeld(ratio: float, events: int) -> None:
    """7.849 / log(ratio)² events for 80 % (Schoenfeld 1983; Hsieh and Lavori 2000)."""
    outcome, x = simulated(400)
    found = added_value.power(outcome, x["a"].to_numpy(), np.empty((400, 0)), ratio)
    assert found["n_events_needed"] == events
    few = added_value.power(
        Outcome(np.arange(400) < events, outcome.time), x["a"].to_numpy(), np.empty((400, 0)), ratio
    )
    assert few["power"] == pytest.approx(0.8, abs=0.02)
    assert few["detectable_ratio"] == pytest.approx(ratio, rel=0.02)


def test_covariates_that_say_the_same_cost_power() -> None:
    outcome, x = simulated(300)
    score = x["a"].to_numpy()
    alike = (score + np.random.default_rng(9).normal(size=300))[:, None]
    alone = added_value.power(outcome, score, np.empty((300, 0)), 1.5)
    beside = added_value.power(outcome, score, alike, 1.5)
    assert beside["power"] < alone["power"]
    assert beside["n_events_needed"] == pytest.approx(
        alone["n_events_needed"] / (1 - beside["r2_covariates"]), rel=0.05
    )


def test_power_is_what_simulation_finds() -> None:
    """Share of data sets with p < .05 at a ratio of 1.5, against the formula."""
    hits, told = [], []
    for seed in range(120):
        outcome, x = simulated(80, seed=seed, effect=np.log(1.5))
        z = score_test(outcome, x[["a"]].to_numpy(), np.empty((80, 0)), np.zeros(80))[0]
        hits.append(abs(z) > 1.96)
        told.append(added_value.power(outcome, x["a"].to_numpy(), np.empty((80, 0)), 1.5)["power"])
    assert np.mean(hits) == pytest.approx(np.mean(told), abs=0.12)


def test_a_bend_is_found_and_a_line_is_left_alone() -> None:
    rng = np.random.default_rng(4)
    score = pd.Series(rng.normal(size=400), name="score")
    none = pd.DataFrame(index=score.index)
    for hazard, bent in ((score, False), (score**2, True)):
        event, censored = (
            rng.exponential(np.exp(-0.8 * hazard.to_numpy())),
            rng.exponential(1.0, 400),
        )
        outcome = Outcome(event < censored, np.minimum(event, censored))
        assert (added_value.linearity(outcome, score, none)["p"] < 0.01) == bent


def test_the_spline_is_straight_outside_its_knots() -> None:
    x = np.linspace(-3, 3, 601)
    bend = added_value.restricted_cubic(x)
    low, high = np.quantile(x, [0.1, 0.9])
    for part in (bend[x < low], bend[x > high]):
        np.testing.assert_allclose(np.diff(part, 2), 0, atol=1e-10)
    assert np.abs(np.diff(bend[(x > low) & (x < high)], 2)).max() > 1e-6
    np.testing.assert_array_equal(added_value.restricted_cubic(np.repeat([0.0, 1.0], 50)), 0)
