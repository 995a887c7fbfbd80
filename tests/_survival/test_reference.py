"""Survival analysis gives the numbers of R's survival and of scikit-survival; where they come from
is said in tests/data/make_survival_reference.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scbert_cll._survival import curves, models
from scbert_cll._survival.likelihood import score_test
from scbert_cll._survival.outcome import Outcome

ROSSI = ["fin", "age", "race", "wexp", "mar", "paro", "prio"]
LUNG = ["ph.ecog", "ph.karno", "pat.karno", "wt.loss", "sex", "age", "meal.cal"]

type Likelihood = Callable[[Outcome, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def likelihood(risk_weights: Callable[[Outcome, np.ndarray], np.ndarray]) -> Likelihood:
    """Slope and information of Cox's partial likelihood, event by event."""

    def at(outcome: Outcome, x: np.ndarray, risk: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weight, event = risk_weights(outcome, risk), outcome.event
        slope, information = np.zeros(x.shape[1]), np.zeros((x.shape[1], x.shape[1]))
        for row, own in zip(weight, x[event], strict=True):
            mean = row @ x
            slope += own - mean
            information += (x - mean).T @ ((x - mean) * row[:, None])
        return slope, information

    return at


@pytest.fixture(scope="module")
def simulated(recorded: dict[str, np.ndarray]) -> Outcome:
    """240 patients with a competing event and tied times."""
    cause = recorded["cause"]
    return Outcome(cause == 1, recorded["time"], competing=cause == 2)


def outcome_of(frame: pd.DataFrame, time: str, event: str, strata: str | None = None) -> Outcome:
    codes = None if strata is None else frame[strata].to_numpy(dtype=np.int64)
    return Outcome(
        frame[event].to_numpy(dtype=bool), frame[time].to_numpy(dtype=np.float64), strata=codes
    )


def complete(lung: pd.DataFrame) -> pd.DataFrame:
    return lung.dropna(subset=[*LUNG, "inst"])


def three_tests(likelihood: Likelihood, outcome: Outcome, columns: pd.DataFrame) -> list[float]:
    """Likelihood ratio, Wald and score test of all columns, from the pieces the package has."""
    fit, x = models.fit(outcome, columns), columns.to_numpy(dtype=np.float64)
    ratio = 2 * (fit.log_likelihood - fit.log_likelihood_null)
    slope, information = likelihood(outcome, x, np.zeros(len(x)))
    _, at_estimate = likelihood(outcome, x, fit.risk)
    coef = fit.coef.to_numpy()
    return [ratio, coef @ at_estimate @ coef, slope @ np.linalg.solve(information, slope)]


def printed(values: np.ndarray, expected: np.ndarray, digits: int) -> None:
    """Equal in all digits that R printed."""
    np.testing.assert_allclose(values, expected, rtol=0, atol=0.51 * 10.0**-digits)


# -- Cox's model
# --------------------------------------------------------------------------------------------------


def test_cox_as_r(rossi: pd.DataFrame, recorded: dict[str, np.ndarray]) -> None:
    table = models.fit(outcome_of(rossi, "week", "arrest"), rossi[ROSSI].astype(float)).table()
    assert table["variable"].tolist() == ROSSI
    for column in ("coef", "se", "p"):
        printed(table[column], recorded[f"r_rossi_{column}"], 5)
    printed(table["z"], recorded["r_rossi_z"], 3)
    np.testing.assert_allclose(table["ratio"], recorded["r_rossi_ratio"], atol=2e-5)
    assert table["n"].eq(432).all()
    assert table["n_events"].eq(114).all()


def test_three_tests_as_r(
    likelihood: Likelihood, rossi: pd.DataFrame, lung: pd.DataFrame, recorded: dict[str, np.ndarray]
) -> None:
    found = three_tests(likelihood, outcome_of(rossi, "week", "arrest"), rossi[ROSSI].astype(float))
    printed(found, recorded["r_rossi_tests"], 2)
    found = three_tests(likelihood, outcome_of(lung, "time", "status"), lung[["sex"]].astype(float))
    printed(found, recorded["r_lung_sex_tests"], 2)


def test_one_covariate_and_its_interval_as_r(
    lung: pd.DataFrame, recorded: dict[str, np.ndarray]
) -> None:
    row = (
        models.fit(outcome_of(lung, "time", "status"), lung[["sex"]].astype(float)).table().iloc[0]
    )
    printed(row[["coef", "se", "ci_low"]].astype(float), recorded["r_lung_sex"][:3], 4)
    printed(row["ci_high"], recorded["r_lung_sex"][3], 3)


def test_strata_as_r(
    likelihood: Likelihood, lung: pd.DataFrame, recorded: dict[str, np.ndarray]
) -> None:
    """18 institutions, each with a baseline of its own."""
    patients = complete(lung)
    outcome, columns = outcome_of(patients, "time", "status", "inst"), patients[LUNG].astype(float)
    fit = models.fit(outcome, columns)
    printed(fit.coef, recorded["r_strata_coef"], 7)
    printed(fit.se, recorded["r_strata_se"], 7)
    ratio, wald, score = three_tests(likelihood, outcome, columns)
    printed(ratio, recorded["r_strata_tests"][0], 1)
    printed([wald, score], recorded["r_strata_tests"][1:], 2)


def test_many_ties_as_r(recorded: dict[str, np.ndarray]) -> None:
    outcome = Outcome(recorded["aml_event"].astype(bool), recorded["aml_time"])
    fit = models.fit(outcome, pd.DataFrame({"x": recorded["aml_not_maintained"]}))
    coef, se, ratio = recorded["r_aml_cox"]
    printed([fit.coef["x"], fit.se["x"]], [coef, se], 3)
    printed(2 * (fit.log_likelihood - fit.log_likelihood_null), ratio, 2)


def test_cox_as_scikit_survival(simulated: Outcome, recorded: dict[str, np.ndarray]) -> None:
    fit = models.fit(simulated, pd.DataFrame(recorded["x"], columns=["a", "b", "c"]))
    np.testing.assert_allclose(fit.coef, recorded["cox_coef"], atol=1e-5)


# -- the score test
# --------------------------------------------------------------------------------------------------


def by_hand(
    recorded: dict[str, np.ndarray], name: str, copies: int = 1
) -> tuple[Outcome, np.ndarray]:
    """Data of Therneau and Grambsch's appendix E; copies are strata, on clocks that differ."""
    offset = np.repeat(np.arange(copies, dtype=np.float64), len(recorded[f"{name}_x"]))
    parts = {key: np.tile(recorded[f"{name}_{key}"], copies) for key in ("time", "event", "x")}
    entry = np.tile(recorded["second_entry"], copies) + offset if name == "second" else None
    strata = offset.astype(np.int64) if copies > 1 else None
    return Outcome(
        parts["event"].astype(bool), parts["time"] + offset, entry=entry, strata=strata
    ), parts["x"]


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("name", ["first", "second"])
def test_score_test_as_by_hand(recorded: dict[str, np.ndarray], name: str, copies: int) -> None:
    """Ties; in the second delayed entry, too; three copies in strata have three times the slope and
    the information.
    """
    outcome, x = by_hand(recorded, name, copies)
    n = len(x)
    z = score_test(outcome, x[:, None], np.zeros((n, 0)), np.zeros(n))
    slope, information = recorded[f"{name}_slope"][0], recorded[f"{name}_information"][0]
    np.testing.assert_allclose(z, np.sqrt(copies) * slope / np.sqrt(information), rtol=1e-12)


@pytest.mark.parametrize("name", ["first", "second"])
def test_estimate_as_r_where_the_likelihood_is_by_hand(
    likelihood: Likelihood, recorded: dict[str, np.ndarray], name: str
) -> None:
    outcome, x = by_hand(recorded, name)
    fit = models.fit(outcome, pd.DataFrame({"x": x}))
    expected = recorded[f"r_{name}_coef"][0]
    printed(fit.coef["x"], expected, 6)
    slope, _ = likelihood(outcome, x[:, None], expected * x)
    assert slope[0] == pytest.approx(0, abs=1e-6)


def test_score_test_beside_covariates_is_r_s_by_another_way(
    likelihood: Likelihood, rossi: pd.DataFrame
) -> None:
    """With the covariates' fit held, the score test of one more is that of all at this point: their
    slopes are zero there.
    """
    outcome, columns = outcome_of(rossi, "week", "arrest"), rossi[ROSSI].astype(float)
    base = models.fit(outcome, columns[ROSSI[1:]])
    found = score_test(
        outcome, columns[["fin"]].to_numpy(), columns[ROSSI[1:]].to_numpy(), base.risk
    )
    slope, information = likelihood(outcome, columns.to_numpy(), base.risk)
    np.testing.assert_allclose(slope[1:], 0, atol=1e-4)
    assert found[0] ** 2 == pytest.approx(slope @ np.linalg.solve(information, slope), rel=1e-5)
    wald = models.fit(outcome, columns).table().set_index("variable").loc["fin", "z"]
    assert found[0] == pytest.approx(wald, abs=0.03)
    assert found[0] < 0, "aid lowers the hazard"


# -- the log-rank test
# ------------------------------------------------------------------------------------------------


def test_logrank_as_r(lung: pd.DataFrame, recorded: dict[str, np.ndarray]) -> None:
    found = curves.logrank(outcome_of(lung, "time", "status"), pd.Categorical(lung["sex"]))
    chi2, p = recorded["r_lung_logrank"]
    assert found["df"] == 1
    printed(found["chi2"], chi2, 4)
    printed(found["p"], p, 8)


def test_logrank_of_many_ties_as_r(recorded: dict[str, np.ndarray]) -> None:
    outcome = Outcome(recorded["aml_event"].astype(bool), recorded["aml_time"])
    found = curves.logrank(outcome, pd.Categorical(recorded["aml_not_maintained"]))
    printed(found["chi2"], recorded["r_aml_logrank"][0], 2)
    printed(found["p"], recorded["r_aml_logrank"][1], 4)


def test_logrank_of_three_groups_as_scikit_survival_and_lifelines(
    simulated: Outcome, recorded: dict[str, np.ndarray], lifelines: dict[str, np.ndarray]
) -> None:
    found = curves.logrank(simulated, pd.Categorical(recorded["group"]))
    np.testing.assert_allclose([found["chi2"], found["p"]], recorded["logrank"], rtol=1e-9)
    np.testing.assert_allclose([found["chi2"], found["p"]], lifelines["other_logrank"], rtol=1e-9)


def test_score_test_of_a_group_is_the_logrank_test_without_ties() -> None:
    """With ties they differ: Efron's likelihood is not the hypergeometric one."""
    rng = np.random.default_rng(1)
    group, time, event = rng.integers(0, 2, 80), rng.permutation(80) + 1.0, rng.random(80) < 0.7
    outcome = Outcome(
        event, time, entry=time * rng.uniform(0, 0.5, 80), strata=rng.integers(0, 3, 80)
    )
    z = score_test(outcome, group[:, None].astype(float), np.zeros((80, 0)), np.zeros(80))
    assert z[0] ** 2 == pytest.approx(
        curves.logrank(outcome, pd.Categorical(group))["chi2"], rel=1e-9
    )


def test_stratified_logrank_is_the_stratified_cox_score_without_ties(
    likelihood: Likelihood, lung: pd.DataFrame
) -> None:
    """R's own test of its stratified log-rank test: no two deaths of an institution fall on one
    day.
    """
    patients = lung.dropna(subset=["pat.karno", "inst"])
    outcome = outcome_of(patients, "time", "status", "inst")
    group = pd.Categorical(patients["pat.karno"])
    columns = np.eye(len(group.categories))[group.codes][:, 1:]
    slope, information = likelihood(outcome, columns, np.zeros(len(columns)))
    found = curves.logrank(outcome, group)
    assert found["df"] == columns.shape[1]
    assert found["chi2"] == pytest.approx(slope @ np.linalg.solve(information, slope), rel=1e-9)


# -- curves
# --------------------------------------------------------------------------------------------------


def stepped(curve: pd.DataFrame, times: np.ndarray, column: str) -> np.ndarray:
    """Values of a right-continuous step function."""
    return curve[column].to_numpy()[np.searchsorted(curve["time"], times, side="right") - 1]


def curve_of(outcome: Outcome) -> pd.DataFrame:
    table = curves.survival(outcome, pd.Categorical(["all"] * len(outcome.event)))["curves"]
    return table[table["group"] == "all"]


def test_kaplan_meier_as_r(lung: pd.DataFrame, recorded: dict[str, np.ndarray]) -> None:
    """R printed log intervals; the log(−log) ones follow from its standard error."""
    patients = lung[lung["ph.ecog"] == 1]
    curve = curve_of(outcome_of(patients, "time", "status"))
    days, at_risk, survival, se = recorded["r_lung_curve"].T
    printed(stepped(curve, days, "survival"), survival, 3)
    own = [int((patients["time"] >= day).sum()) for day in days]
    assert own == at_risk.astype(int).tolist()
    z = stats.norm.ppf(0.975)
    for sign, column in ((1, "ci_low"), (-1, "ci_high")):
        expected = survival ** np.exp(sign * z * se / (survival * -np.log(survival)))
        np.testing.assert_allclose(stepped(curve, days, column), expected, atol=2e-3)


def test_medians_as_r(lung: pd.DataFrame, recorded: dict[str, np.ndarray]) -> None:
    known = lung[lung["ph.ecog"].isin([1, 2])]
    group = pd.Categorical(known["ph.ecog"].astype(int).astype(str))
    found = curves.survival(outcome_of(known, "time", "status"), group)["groups"]
    assert found["median"].tolist() == recorded["r_lung_medians"].tolist()
    outcome = Outcome(recorded["aml_event"].astype(bool), recorded["aml_time"])
    labels = np.where(recorded["aml_not_maintained"] == 1, "not", "maintained")
    found = curves.survival(outcome, pd.Categorical(labels, ["maintained", "not"]))["groups"]
    assert found["median"].tolist() == recorded["r_aml_medians"].tolist()
    assert found["ratio"].iloc[1] == pytest.approx(np.exp(recorded["r_aml_cox"][0]), abs=2e-3)


@pytest.mark.parametrize("delayed", [False, True])
def test_kaplan_meier_as_scikit_survival(recorded: dict[str, np.ndarray], delayed: bool) -> None:
    outcome = Outcome(
        recorded["cause"] == 1, recorded["time"], entry=recorded["entry"] if delayed else None
    )
    name = "km_delayed" if delayed else "km"
    curve, times = curve_of(outcome), recorded[f"{name}_time"]
    np.testing.assert_allclose(
        stepped(curve, times, "survival"), recorded[f"{name}_survival"], atol=1e-12
    )
    inside = (recorded[f"{name}_survival"] > 0) & (recorded[f"{name}_survival"] < 1)
    for values, column in zip(recorded[f"{name}_interval"], ("ci_low", "ci_high"), strict=True):
        np.testing.assert_allclose(
            stepped(curve, times, column)[inside], values[inside], atol=1e-10
        )


@pytest.mark.parametrize("delayed", [False, True])
def test_kaplan_meier_as_lifelines(
    recorded: dict[str, np.ndarray], lifelines: dict[str, np.ndarray], delayed: bool
) -> None:
    time, event, entry = recorded["time"], recorded["cause"] == 1, recorded["entry"]
    curve = curve_of(Outcome(event, time, entry=entry if delayed else None))
    times, expected, low, high = lifelines["other_km_delayed" if delayed else "other_km"].T
    np.testing.assert_array_equal(times, np.unique(time))
    np.testing.assert_allclose(stepped(curve, times, "survival"), expected, atol=1e-12)
    inside = expected > 0
    np.testing.assert_allclose(stepped(curve, times, "ci_low")[inside], low[inside], atol=1e-9)
    np.testing.assert_allclose(stepped(curve, times, "ci_high")[inside], high[inside], atol=1e-9)


def test_cumulative_incidence_as_scikit_survival(
    simulated: Outcome, recorded: dict[str, np.ndarray]
) -> None:
    """Equal, with an interval close to those from two of its estimates of the variance."""
    table = curves.survival(simulated, pd.Categorical(["all"] * len(simulated.event)))["incidence"]
    times = recorded["cif_time"]
    for row, cause in ((1, "event"), (2, "competing")):
        own = table[table["cause"] == cause]
        np.testing.assert_allclose(
            stepped(own, times, "incidence"), recorded["cif"][row], atol=1e-12
        )
        inside = recorded["cif"][row] > 0
        for side, column in enumerate(("ci_low", "ci_high")):
            found = stepped(own, times, column)[inside]
            np.testing.assert_allclose(found, recorded["cif_dinse"][row, side][inside], atol=2e-3)
            np.testing.assert_allclose(found, recorded["cif_aalen"][row, side][inside], atol=5e-3)


# -- discrimination: which way round
# ----------------------------------------------------------------------------------


def test_concordance_as_r(
    lung: pd.DataFrame, rossi: pd.DataFrame, recorded: dict[str, np.ndarray]
) -> None:
    """R counts pairs: a worse performance status means an earlier death."""
    known = lung.dropna(subset=["ph.ecog"])
    agree, disagree, tied = recorded["r_lung_pairs"]
    found = models.concordance(
        outcome_of(known, "time", "status"), known["ph.ecog"].to_numpy(dtype=np.float64)
    )
    assert found == pytest.approx((agree + tied / 2) / (agree + disagree + tied), abs=1e-12)
    assert found > 0.5
    for frame, time, event, columns, name in (
        (rossi, "week", "arrest", ROSSI, "r_rossi_concordance"),
        (lung, "time", "status", ["sex"], "r_lung_sex_concordance"),
    ):
        outcome = outcome_of(frame, time, event)
        risk = models.fit(outcome, frame[columns].astype(float)).risk
        printed(
            models.concordance(outcome, risk),
            recorded[name][0],
            2 if name == "r_rossi_concordance" else 3,
        )


def test_concordance_as_the_two_libraries_which_differ_in_direction(
    simulated: Outcome, recorded: dict[str, np.ndarray], lifelines: dict[str, np.ndarray]
) -> None:
    """lifelines asks for a predicted time, scikit-survival for a risk, so minus the time."""
    risk, expected = recorded["risk"], recorded["harrell"][0]
    assert expected > 0.6, "a higher risk has the earlier event"
    assert models.concordance(simulated, risk) == pytest.approx(expected, abs=1e-12)
    assert models.concordance(simulated, -risk) == pytest.approx(1 - expected, abs=1e-12)
    assert lifelines["other_concordance"][0] == pytest.approx(expected, abs=1e-12)


def test_scikit_survival_gives_what_it_gave(
    simulated: Outcome, recorded: dict[str, np.ndarray]
) -> None:
    """Uno's C and the AUC are its own: the direction, and a release that changes them, must be
    seen.
    """
    metrics = pytest.importorskip("sksurv.metrics", reason="needs the extra uno")
    y = np.array(
        list(zip(simulated.event, simulated.time, strict=True)),
        dtype=[("event", bool), ("time", float)],
    )
    risk, (tau,) = recorded["risk"], recorded["tau"]
    assert (
        metrics.concordance_index_censored(simulated.event, simulated.time, risk)[0]
        == recorded["harrell"][0]
    )
    uno = metrics.concordance_index_ipcw(y, y, risk, tau=tau)[0]
    assert uno == pytest.approx(recorded["uno"][0], abs=1e-10)
    assert metrics.concordance_index_ipcw(y, y, -risk, tau=tau)[0] == pytest.approx(
        1 - uno, abs=1e-10
    )
    auc, mean = metrics.cumulative_dynamic_auc(y, y, risk, recorded["auc_times"])
    np.testing.assert_allclose([*auc, mean], [*recorded["auc"], *recorded["auc_mean"]], atol=1e-10)
    assert (auc > 0.5).all()
