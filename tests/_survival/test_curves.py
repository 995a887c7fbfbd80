"""Curves, tests and ratios of groups give the numbers of lifelines, scikit-survival, and of a slow
and obvious way.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from scbert_cll._survival import curves
from scbert_cll._survival.outcome import Outcome

pytest.importorskip("sksurv", reason="needs the extra uno")

from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.nonparametric import cumulative_incidence_competing_risks, kaplan_meier_estimator
from sksurv.util import Surv

LIMITS = ["ci_low", "ci_high"]


def simulated(
    n: int = 150,
    k: int = 2,
    *,
    seed: int = 0,
    ties: bool = True,
    entry: bool = False,
    competing: bool = False,
    strata: bool = False,
) -> tuple[Outcome, pd.Categorical]:
    """Patients of `k` groups, each with half as much hazard again as the one before; times rounded
    so that many are tied.
    """
    rng = np.random.default_rng(seed)
    group, stratum = rng.integers(0, k, n), rng.integers(0, 3, n)
    own, other, stop = (
        rng.exponential(1.5 ** -(group + stratum)),
        rng.exponential(2, n),
        rng.uniform(0.2, 3, n),
    )
    ends = np.stack([own, np.where(competing, other, np.inf), stop])
    start = rng.uniform(0, 1, n) * entry
    time = np.round(start + ends.min(axis=0), 1 if ties else 12)
    start = np.round(start, 1 if ties else 12)
    time = np.where(time > start, time, start + 0.1)
    outcome = Outcome(
        ends.argmin(axis=0) == 0,
        time,
        start if entry else None,
        ends.argmin(axis=0) == 1 if competing else None,
        stratum if strata else None,
    )
    return outcome, pd.Categorical.from_codes(group, [f"g{i}" for i in range(k)])


def part(table: pd.DataFrame, **where: str) -> pd.DataFrame:
    for column, value in where.items():
        table = table[table[column] == value]
    return table.reset_index(drop=True)


def of(outcome: Outcome, group: pd.Categorical, label: str) -> Outcome:
    return outcome.take(np.flatnonzero(group == label))


def ends_in_censoring(outcome: Outcome, group: pd.Categorical) -> tuple[Outcome, pd.Categorical]:
    """In each group the last patient is censored: neither of the other libraries has limits where
    nobody is left.
    """
    last = np.array([np.where(group == g, outcome.time, 0).argmax() for g in group.categories])
    more = outcome.take(np.r_[np.arange(len(group)), last])
    late = np.r_[outcome.time, outcome.time[last] + 1]
    kept = np.arange(len(late)) < len(group)
    return Outcome(more.event & kept, late, more.entry, more.competing & kept), group[
        [*range(len(group)), *last]
    ]


# -- Kaplan–Meier
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", ["plain", "tied"])
def test_kaplan_meier_as_lifelines(lifelines: dict[str, np.ndarray], times: str) -> None:
    group = pd.Categorical.from_codes(lifelines["group"], list("0123"))
    outcome = Outcome(lifelines["event"], lifelines[f"{times}_time"])
    found = curves.survival(outcome, group)
    for label in group.categories:
        own, curve = of(outcome, group, label), part(found["curves"], group=label)
        columns = ["time", "survival", *LIMITS, "at_risk", "n_events", "n_censored"]
        theirs = pd.DataFrame(lifelines[f"km_{times}_{label}_curve"], columns=columns)
        exact = ["time", "at_risk", "n_events", "n_censored"]
        np.testing.assert_array_equal(curve[exact], theirs[exact])
        np.testing.assert_allclose(curve["survival"], theirs["survival"], atol=1e-12)
        inside = curve["survival"].between(1e-9, 1 - 1e-9)
        np.testing.assert_allclose(curve.loc[inside, LIMITS], theirs.loc[inside, LIMITS], rtol=1e-9)
        row = part(found["groups"], group=label).iloc[0]
        assert (row["n"], row["n_events"]) == (len(own.event), own.event.sum())
        medians = row[["median", "median_low", "median_high", "follow_up"]].astype(float)
        expected = lifelines[f"km_{times}_{label}_medians"]
        np.testing.assert_array_equal(medians, np.where(np.isinf(expected), np.nan, expected))


def test_kaplan_meier_with_delayed_entry_as_scikit_survival() -> None:
    outcome, group = simulated(ties=False, entry=True)
    found = curves.survival(outcome, group)["curves"]
    for label in group.categories:
        own, curve = of(outcome, group, label), part(found, group=label)
        time, left, limits = kaplan_meier_estimator(
            own.event, own.time, own.entry, conf_type="log-log"
        )
        places = np.searchsorted(curve["time"], time)
        np.testing.assert_allclose(curve["survival"].iloc[places], left, atol=1e-12)
        inside = (left > 1e-9) & (left < 1 - 1e-9)
        np.testing.assert_allclose(
            curve[LIMITS].to_numpy().T[:, places][:, inside], limits[:, inside], rtol=1e-8
        )
        assert curve["time"].iloc[0] == own.entry.min()
        assert curve[["survival", "at_risk"]].iloc[0].tolist() == [1, 1]


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 60), st.booleans(), st.integers(0, 10**6))
def test_at_risk_is_who_is_there(n: int, entry: bool, seed: int) -> None:
    """Just before any time, whatever lies between the rows."""
    outcome, _ = simulated(n, 2, seed=seed, entry=entry)
    table = curves.kaplan_meier(curves._counts(outcome))
    start = np.zeros(n) if outcome.entry is None else outcome.entry
    for i, t in enumerate(table["time"]):
        there = (start < t) & (outcome.time >= t) if i else start == t
        assert table["at_risk"].iloc[i] == there.sum()
    between = (table["time"].to_numpy()[:-1] + table["time"].to_numpy()[1:]) / 2
    there = ((start < between[:, None]) & (outcome.time >= between[:, None])).sum(axis=1)
    np.testing.assert_array_equal(table["at_risk"].iloc[1:], there)


def test_where_nobody_is_left_the_limits_are_unknown() -> None:
    """Limits of 0 and 0 would say that the event is certain, on the word of one patient."""
    outcome = Outcome(np.array([True, True, False, True]), np.array([1.0, 2, 2, 3]))
    curve = curves.survival(outcome, pd.Categorical(["a", "b", "a", "a"]))["curves"]
    last = part(curve, group="a").iloc[-1]
    assert last["survival"] == 0
    assert last[LIMITS].isna().all()
    assert part(curve, group="a")[LIMITS].iloc[0].tolist() == [1, 1]


# -- Aalen–Johansen
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [True, False])
def test_incidence_as_scikit_survival(ties: bool) -> None:
    """Tied events of both causes, too, which lifelines moves apart at random."""
    outcome, group = ends_in_censoring(*simulated(ties=ties, competing=True))
    found = curves.survival(outcome, group)["incidence"]
    for label in group.categories:
        own = of(outcome, group, label)
        cause = own.event + 2 * own.competing
        time, value, limits = cumulative_incidence_competing_risks(
            cause, own.time, conf_type="log-log", var_type="Dinse_Approx"
        )
        for i, name in enumerate(["event", "competing"], start=1):
            table = part(found, group=label, cause=name)
            assert table[["time", "incidence", *LIMITS]].iloc[0].tolist() == [0, 0, 0, 0]
            places = np.searchsorted(time, table["time"].iloc[1:])
            np.testing.assert_allclose(table["incidence"].iloc[1:], value[i, places], atol=1e-12)
            known = (table["incidence"] > 0).to_numpy()[1:]
            np.testing.assert_allclose(
                table[LIMITS].to_numpy()[1:][known].T, limits[i][:, places[known]], rtol=1e-8
            )


def test_incidence_with_delayed_entry_as_lifelines(lifelines: dict[str, np.ndarray]) -> None:
    group = pd.Categorical.from_codes(lifelines["group"], list("0123"))
    outcome = Outcome(
        lifelines["event"],
        lifelines["plain_time"],
        lifelines["plain_entry"],
        lifelines["cause"] == 2,
    )
    found = curves.survival(outcome, group)["incidence"]
    for label in group.categories:
        table = part(found, group=label, cause="event")
        theirs = pd.DataFrame(
            lifelines[f"incidence_{label}"], columns=["time", "incidence", *LIMITS]
        ).set_index("time")
        expected = theirs.loc[table["time"].iloc[1:], "incidence"]
        np.testing.assert_allclose(table["incidence"].iloc[1:], expected, atol=1e-12)
        known = table[table["incidence"] > 0]
        limits = theirs.loc[known["time"], LIMITS]
        np.testing.assert_allclose(known[LIMITS], limits, rtol=1e-8)


# -- log-rank test
# --------------------------------------------------------------------------------------------------


def slowly(outcome: Outcome, group: pd.Categorical) -> tuple[float, int]:
    """Stratum by stratum, time by time, one table each; the last group is left out of the quadratic
    form.
    """
    codes, k = group.codes, len(group.categories)
    strata = np.zeros(len(codes), int) if outcome.strata is None else outcome.strata
    entry = np.full(len(codes), -1.0) if outcome.entry is None else outcome.entry
    u, v = np.zeros(k), np.zeros((k, k))
    for s in set(strata):
        for t in set(outcome.time[outcome.event & (strata == s)]):
            there = (strata == s) & (entry < t) & (outcome.time >= t)
            hit = there & outcome.event & (outcome.time == t)
            n, d = there.sum(), hit.sum()
            at = [(there & (codes == g)).sum() for g in range(k)]
            for g in range(k):
                u[g] += (hit & (codes == g)).sum() - d * at[g] / n
                for h in range(k):
                    if n > 1:
                        v[g, h] += d * (n - d) / (n - 1) * at[g] / n * ((g == h) - at[h] / n)
    return float(u[:-1] @ np.linalg.solve(v[:-1, :-1], u[:-1])), k - 1


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("times", ["plain", "tied"])
def test_logrank_as_lifelines(lifelines: dict[str, np.ndarray], k: int, times: str) -> None:
    outcome = Outcome(lifelines["event"], lifelines[f"{times}_time"])
    found = curves.logrank(outcome, pd.Categorical(lifelines["group"] % k))
    expected = lifelines[f"logrank_{times}_{k}"]
    np.testing.assert_allclose([found["chi2"], found["p"]], expected, rtol=1e-9)
    assert found["df"] == k - 1


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize(
    ("entry", "strata"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_logrank_as_done_slowly(k: int, entry: bool, strata: bool) -> None:
    outcome, group = simulated(k=k, entry=entry, strata=strata, seed=3)
    chi2, df = slowly(outcome, group)
    found = curves.logrank(outcome, group)
    assert found == {
        "chi2": pytest.approx(chi2),
        "df": df,
        "p": pytest.approx(stats.chi2.sf(chi2, df)),
    }


def test_logrank_keeps_its_level() -> None:
    """Groups drawn at random, with strata and delayed entry: p is uniform."""
    outcome, _ = simulated(90, entry=True, strata=True)
    rng = np.random.default_rng(1)
    p = [curves.logrank(outcome, pd.Categorical(rng.integers(0, 3, 90)))["p"] for _ in range(400)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_a_group_that_is_gone_before_the_first_event_takes_no_part() -> None:
    time, event = np.array([1.0, 1, 1, 2, 3, 4, 5, 6]), np.array([0, 0, 0, 1, 1, 1, 1, 1], bool)
    group = pd.Categorical(list("aaabcbcb"))
    found, rest = curves.logrank(Outcome(event, time), group), group[3:].remove_unused_categories()
    assert found == curves.logrank(Outcome(event[3:], time[3:]), rest)
    assert found["df"] == 1
    never = curves.logrank(Outcome(event, time, strata=group.codes), group)
    assert (never["df"], np.isnan(never["chi2"]), np.isnan(never["p"])) == (0, True, True)


# -- hazard ratios
# --------------------------------------------------------------------------------------------------


def test_ratios_as_scikit_survival() -> None:
    outcome, group = simulated(300, 3)
    table = curves.survival(outcome, group)["groups"]
    dummies = np.eye(3)[group.codes][:, 1:]
    theirs = CoxPHSurvivalAnalysis(ties="efron", tol=1e-12).fit(
        dummies, Surv.from_arrays(outcome.event, outcome.time)
    )
    assert table["group"].tolist() == ["g0", "g1", "g2"]
    np.testing.assert_allclose(table["ratio"], [1, *np.exp(theirs.coef_)], rtol=1e-5)
    assert table.loc["0", ["ci_low", "ci_high", "p", "ph_p"]].isna().all()
    width = np.log(table["ci_high"] / table["ci_low"]).iloc[1:]
    z = np.log(table["ratio"]).iloc[1:] / (width / 2 / stats.norm.ppf(0.975))
    np.testing.assert_allclose(table["p"].iloc[1:], 2 * stats.norm.sf(np.abs(z)))


def test_covariates_stand_beside_the_groups() -> None:
    """Of a confounder that makes the groups differ: alone they do, beside it they do not."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=600)
    group = pd.Categorical(np.where(x + rng.normal(size=600) > 0, "high", "low"), ["low", "high"])
    outcome = Outcome(rng.random(600) < 0.9, rng.exponential(np.exp(-x)) + 0.01)
    frame = pd.DataFrame({"x": x, "stage": pd.Categorical(rng.choice(list("ABC"), 600))})
    found = curves.survival(outcome, group, name="CD49d", covariates=frame)
    cox = found["cox"]
    assert cox["model"].unique().tolist() == ["group", "group + covariates"]
    assert part(cox, model="group + covariates")["variable"].tolist() == [
        "CD49d: high",
        "x",
        "stage: B",
        "stage: C",
    ]
    alone, beside = (
        part(cox, model=m, variable="CD49d: high").iloc[0] for m in cox["model"].unique()
    )
    assert alone["ratio"] == found["groups"]["ratio"].iloc[1] > 2
    assert beside["ci_low"] < 1 < beside["ci_high"]
    assert part(cox, variable="x")["ratio"].iloc[0] == pytest.approx(np.e, rel=0.15)
    missing = frame.assign(x=np.where(np.arange(600) % 3 == 0, np.nan, x))
    found = curves.survival(outcome, group, name="CD49d", covariates=missing)
    n = found["cox"].groupby("model", sort=False)["n"].first()
    assert n.to_dict() == {"group": 600, "group (complete cases)": 400, "group + covariates": 400}
    assert found["groups"]["n"].sum() == 600


def test_too_few_events_for_the_covariates_are_told() -> None:
    outcome, group = simulated(30)
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 3)), columns=list("xyz"))
    n_events = outcome.n_events
    [note] = curves.survival(outcome, group, covariates=frame)["notes"]
    assert (
        note
        == f"The model with covariates has 4 coefficients and {n_events} events, fewer than 10 "
        f"each: its ratios are unstable."
    )


def test_a_ratio_that_changes_with_time_is_told() -> None:
    """One group has its events early, the other late."""
    rng = np.random.default_rng(0)
    time = np.concatenate([rng.exponential(1, 100), 2 * rng.weibull(6, 100)])
    found = curves.survival(
        Outcome(np.ones(200, bool), time), pd.Categorical(["early"] * 100 + ["late"] * 100)
    )
    [note] = found["notes"]
    assert note.startswith("The hazard ratio of 'late' changes with time (p = ")
    assert found["groups"]["ph_p"].iloc[1] < 1e-6


def test_groups_without_events() -> None:
    outcome, group = simulated(200, 3)
    without = Outcome(outcome.event & (group != "g1"), outcome.time)
    found = curves.survival(without, group)
    assert found["notes"] == ["'g1' has no events, so it has no hazard ratio."]
    others = np.flatnonzero(group != "g1")
    alone = curves.survival(without.take(others), group[others].remove_unused_categories())[
        "groups"
    ]
    np.testing.assert_allclose(found["groups"]["ratio"], [1, np.nan, alone["ratio"].iloc[1]])
    assert found["groups"]["median"].isna().tolist() == [False, True, False]
    assert found["logrank"]["df"] == 2
    for events, sentence in (
        (
            group != "g0",
            r"The reference 'g0' has no events, .* name a group with events first in groups=",
        ),
        (group == "g0", r"'g1', 'g2' has no events; only 'g0' has."),
    ):
        found = curves.survival(Outcome(outcome.event & events, outcome.time), group)
        [note] = found["notes"]
        assert note.startswith(
            "The groups have no hazard ratios; the curves and the log-rank test stand. "
        )
        assert found["groups"]["ratio"].isna().tolist() == [False, True, True]
        assert found["logrank"]["p"] < 1e-6
        with pytest.raises(ValueError, match=sentence):
            curves.survival(
                Outcome(outcome.event & events, outcome.time),
                group,
                covariates=pd.DataFrame({"x": outcome.time}),
            )


def test_groups_that_do_not_overlap_have_no_finite_ratio() -> None:
    time = np.arange(1.0, 41)
    found = curves.survival(
        Outcome(np.ones(40, bool), time), pd.Categorical(np.where(time <= 20, "a", "b"))
    )
    [note] = found["notes"]
    assert "'b' tells (almost) exactly who has the event" in note
    assert found["groups"]["ratio"].isna().iloc[1]
    assert found["logrank"]["p"] < 1e-6


# -- delayed entry
# --------------------------------------------------------------------------------------------------


def test_few_at_risk_early_are_told() -> None:
    time, entry = np.array([1.0, *np.arange(5, 25)]), np.array([0.0, *np.linspace(0.5, 4, 20)])
    time, entry, group = np.tile(time, 2), np.tile(entry, 2), np.repeat(["a", "b"], 21)
    outcome = Outcome(np.ones(42, bool), np.where(group == "b", time + 4, time), entry)
    found = curves.survival(outcome, pd.Categorical(group))
    [note] = found["notes"]
    assert note.startswith(
        "'a' has events while fewer than 5 patients are at risk (4 at time 1, when others "
        "have not entered yet): its curve is unstable"
    )
    assert (
        curves.survival(Outcome(outcome.event, outcome.time), pd.Categorical(group))["notes"] == []
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(30, 80), st.booleans(), st.integers(0, 10**6))
def test_entry_at_zero_is_no_delay(n: int, competing: bool, seed: int) -> None:
    outcome, group = simulated(n, seed=seed, competing=competing)
    delayed = Outcome(outcome.event, outcome.time, np.zeros(n), outcome.competing)
    _same(curves.survival(outcome, group), curves.survival(delayed, group))


# -- properties
# --------------------------------------------------------------------------------------------------


def _same(first: dict, second: dict, rtol: float = 1e-9) -> None:
    assert list(first) == list(second)
    for name, value in first.items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(value, second[name], rtol=rtol, atol=1e-12)
        else:
            assert (
                value == second[name]
                if name == "notes"
                else value == pytest.approx(second[name], nan_ok=True)
            )


@settings(deadline=None, max_examples=40)
@given(st.integers(20, 100), st.booleans(), st.booleans(), st.integers(0, 10**6))
def test_curves_are_probabilities(n: int, entry: bool, ties: bool, seed: int) -> None:
    outcome, group = simulated(n, 3, seed=seed, entry=entry, ties=ties, competing=True)
    own = of(outcome, group, "g1")
    counts = curves._counts(own)
    curve, shares = curves.kaplan_meier(counts), curves.aalen_johansen(counts)
    for table, value, turn in (
        (curve, "survival", -1),
        *((part(shares, cause=c), "incidence", 1) for c in ("event", "competing")),
    ):
        assert (turn * table[value].diff().iloc[1:] >= -1e-12).all()
        assert (
            table[[value, *LIMITS]].isna() | ((table[[value, *LIMITS]] - 0.5).abs() <= 0.5 + 1e-12)
        ).all(axis=None)
        known = table.dropna()
        assert (known["ci_low"] <= known[value] + 1e-12).all()
        assert (known["ci_high"] >= known[value] - 1e-12).all()
    assert counts[["n_events", "n_competing", "n_censored"]].to_numpy().sum() == len(own.event)
    both = Outcome(own.event | own.competing, own.time, own.entry)
    free = curves.kaplan_meier(curves._counts(both)).set_index("time")["survival"]
    total = shares.groupby("time")["incidence"].sum()
    np.testing.assert_allclose(total, 1 - free.loc[total.index], atol=1e-9)
    event = part(shares, cause="event").set_index("time")["incidence"]
    km = 1 - curve.set_index("time")["survival"].loc[event.index]
    assert (event <= km + 1e-12).all(), "Kaplan–Meier overestimates where events compete"


@settings(deadline=None, max_examples=20)
@given(st.integers(40, 80), st.booleans(), st.booleans(), st.integers(0, 10**6))
def test_the_order_of_patients_is_nothing(n: int, entry: bool, strata: bool, seed: int) -> None:
    outcome, group = simulated(n, seed=seed, entry=entry, strata=strata, competing=True)
    order = np.random.default_rng(seed).permutation(n)
    _same(
        curves.survival(outcome, group),
        curves.survival(outcome.take(order), group[order]),
        rtol=1e-5,
    )


def test_without_a_competing_event_incidence_is_one_minus_kaplan_meier() -> None:
    outcome, group = simulated()
    found = curves.survival(
        Outcome(outcome.event, outcome.time, competing=np.zeros(150, bool)), group
    )
    event = part(found["incidence"], cause="event", group="g1").set_index("time")
    curve = part(found["curves"], group="g1").set_index("time").loc[event.index]
    np.testing.assert_allclose(event["incidence"], 1 - curve["survival"])
    assert (part(found["incidence"], cause="competing")["incidence"] == 0).all()
