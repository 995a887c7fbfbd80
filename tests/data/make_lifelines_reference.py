"""Makes lifelines_reference.npz: what lifelines says, for tests/_survival and benchmarks/prognosis.

Run once with lifelines 0.30.3, which needs pandas 2:
``python tests/data/make_lifelines_reference.py``
in an environment of its own. It is under the MIT licence: nothing of it is copied here.

``rossi`` (432 men released from prison) and ``lung`` (228 patients) are the tables that R's numbers
in survival_reference.npz are about, with their columns in ``rossi_columns`` and ``lung_columns``.
All else is of simulated patients (seed 0), who are stored, too: ``x``, ``event``, ``cause``, and
for ``plain`` and ``tied`` times ``*_time`` and ``*_entry``.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from lifelines import AalenJohansenFitter, CoxPHFitter, KaplanMeierFitter
from lifelines.datasets import load_lung, load_rossi
from lifelines.statistics import multivariate_logrank_test
from lifelines.utils import concordance_index, median_survival_times

N = 240
PRECISE = {"precision": 1e-12}  # by default it stops where coefficients have five digits


def patients() -> dict[str, np.ndarray]:
    """Four groups in three strata, an event and a competing one, late entry, times with and without
    ties. In each group the last patient is censored, since lifelines gives no limits where nobody
    is left.
    """
    rng = np.random.default_rng(0)
    group, stratum = rng.integers(0, 4, N), rng.integers(0, 3, N)
    x = np.column_stack([rng.normal(size=N), rng.integers(0, 2, N), rng.normal(size=N) * 10])
    hazard = np.exp(0.6 * x[:, 0] - 0.4 * x[:, 1] + 0.02 * x[:, 2] + 0.3 * stratum)
    ends = np.stack([rng.exponential(1 / hazard), rng.exponential(2, N), rng.uniform(0.2, 3, N)])
    entry = rng.uniform(0, 1, N)
    time, cause = entry + ends.min(axis=0), np.array([1, 2, 0])[ends.argmin(axis=0)]
    for one in range(4):
        last = np.where(group == one, time, 0).argmax()
        cause[last], time[last] = 0, time[last] + 1
    tied_entry = np.round(entry, 1)
    return {
        "group": group,
        "stratum": stratum,
        "x": x,
        "cause": cause,
        "event": cause == 1,
        "plain_time": time,
        "plain_entry": entry,
        "tied_time": np.maximum(np.round(time, 1), np.round(tied_entry + 0.1, 1)),
        "tied_entry": tied_entry,
    }


def cox(known: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Coefficients, standard errors, log-likelihoods of all combinations of ties, entry, strata."""
    found = {}
    for times, entry, strata in product(("plain", "tied"), (False, True), (False, True)):
        frame = pd.DataFrame(known["x"], columns=["a", "b", "c"])
        frame = frame.assign(time=known[f"{times}_time"], event=known["event"])
        options = {}
        if entry:
            frame, options["entry_col"] = frame.assign(entry=known[f"{times}_entry"]), "entry"
        if strata:
            frame, options["strata"] = frame.assign(stratum=known["stratum"]), ["stratum"]
        fit = CoxPHFitter().fit(frame, "time", "event", fit_options=PRECISE, **options)
        half = fit.log_likelihood_ratio_test().test_statistic / 2
        name = f"cox_{times}_{entry}_{strata}"
        found[f"{name}_coef"] = fit.params_.to_numpy()
        found[f"{name}_se"] = fit.standard_errors_.to_numpy()
        found[f"{name}_height"] = np.array([fit.log_likelihood_, fit.log_likelihood_ - half])
    return found


def kaplan_meier(name: str, time: np.ndarray, event: np.ndarray) -> dict[str, np.ndarray]:
    fit = KaplanMeierFitter().fit(time, event)
    medians = median_survival_times(fit.confidence_interval_).to_numpy().ravel()
    censored = KaplanMeierFitter().fit(time, ~event).median_survival_time_
    curve = [fit.survival_function_.index, fit.survival_function_.iloc[:, 0]]
    counts = fit.event_table[["at_risk", "observed", "censored"]]
    return {
        f"{name}_curve": np.column_stack([*curve, fit.confidence_interval_, counts]),
        f"{name}_medians": np.array([fit.median_survival_time_, *medians, censored]),
    }


def incidence(known: dict[str, np.ndarray], one: int) -> np.ndarray:
    """Of the event with late entry: time, value, lower and upper limit."""
    rows = known["group"] == one
    fit = AalenJohansenFitter().fit(
        known["plain_time"][rows], known["cause"][rows], 1, entry=known["plain_entry"][rows]
    )
    limits = np.sort(fit.confidence_interval_, axis=1)
    return np.column_stack([fit.cumulative_density_.index, fit.cumulative_density_, limits])


def recorded_patients() -> dict[str, np.ndarray]:
    """Of the patients in survival_reference.npz: curves, log-rank test, concordance of a risk."""
    with np.load(Path(__file__).with_name("survival_reference.npz")) as file:
        known = dict(file)
    time, event = known["time"], known["cause"] == 1
    test = multivariate_logrank_test(time, known["group"], event)
    found = {"other_logrank": np.array([test.test_statistic, test.p_value])}
    found["other_concordance"] = np.array([concordance_index(time, -known["risk"], event)])
    for name, entry in (("other_km", None), ("other_km_delayed", known["entry"])):
        fit = KaplanMeierFitter().fit(time, event, entry=entry)
        times = np.unique(time)
        parts = (fit.survival_function_.loc[times], fit.confidence_interval_.loc[times])
        found[name] = np.column_stack([times, *parts])
    return found


def main() -> None:
    known = patients()
    found = known | cox(known) | recorded_patients()
    for times, one in product(("plain", "tied"), range(4)):
        rows = known["group"] == one
        time, event = known[f"{times}_time"][rows], known["event"][rows]
        found |= kaplan_meier(f"km_{times}_{one}", time, event)
    for one in range(4):
        found[f"incidence_{one}"] = incidence(known, one)
    for times, k in product(("plain", "tied"), (2, 3, 4)):
        test = multivariate_logrank_test(known[f"{times}_time"], known["group"] % k, known["event"])
        found[f"logrank_{times}_{k}"] = np.array([test.test_statistic, test.p_value])
    for times in ("plain", "tied"):
        risk = np.round(known["x"][:, 0], 1)
        index = concordance_index(known[f"{times}_time"], -risk, known["event"])
        found[f"concordance_{times}"] = np.array([index])
    for name, table in (("rossi", load_rossi()), ("lung", load_lung())):
        found[name] = table.to_numpy(dtype=np.float64)
        found[f"{name}_columns"] = np.array(list(table), dtype=str)
    np.savez_compressed(Path(__file__).with_name("lifelines_reference.npz"), **found)


if __name__ == "__main__":
    main()
