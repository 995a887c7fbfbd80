"""Groups of patients: curves, the log-rank test, hazard ratios."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
from scipy import stats

from scbert_cll._checks.words import listed
from scbert_cll._survival import models
from scbert_cll._survival.outcome import Outcome

_Z: Final = float(stats.norm.ppf(0.975))
_FEW: Final = 5  # at risk
_PER_COEFFICIENT: Final = 10  # events
_LIMITS: Final = ["ci_low", "ci_high"]
_RATIO: Final = ["ratio", *_LIMITS, "p", "ph_p"]


def survival(
    outcome: Outcome,
    group: pd.Categorical,
    *,
    name: str = "group",
    covariates: pd.DataFrame | None = None,
) -> dict[str, Any]:
    """Tables of groups of patients, every patient in one of them; the first group is the reference.

    ``curves``, ``groups``, ``logrank``, ``notes`` (what to be careful about); ``incidence`` with
    competing events; ``cox`` with covariates, on the patients who have all of them.
    """
    counts = {
        str(label): _counts(outcome.take(np.flatnonzero(group == label)))
        for label in group.categories
    }
    ratios, notes = _ratios(outcome, group)
    estimates = {label: kaplan_meier(table) for label, table in counts.items()}
    tables = {"curves": models.stacked(estimates, "group")}
    summaries = [_summary(label, table) for label, table in counts.items()]
    tables["groups"] = pd.DataFrame(summaries).join(ratios).rename(index=str)
    if outcome.competing is not None:
        incidences = {label: aalen_johansen(table) for label, table in counts.items()}
        tables["incidence"] = models.stacked(incidences, "group")
    if covariates is not None and covariates.shape[1]:
        tables["cox"], doubts = _adjusted(outcome, group, name, covariates)
        notes += doubts
    if outcome.entry is not None:
        for label, table in counts.items():
            notes += _early(label, table)
    return tables | {"logrank": logrank(outcome, group), "notes": notes}


def _counts(outcome: Outcome) -> pd.DataFrame:
    """How many are at risk just before each time, and what happens at it.

    A patient is at risk after entry up to and including the end. The first row is the start of
    observation, when those who enter then are at risk.
    """
    time = np.sort(np.asarray(outcome.time))
    entry = np.zeros(len(time)) if outcome.entry is None else np.sort(outcome.entry)
    times = np.unique(np.concatenate([entry, time]))
    at_risk = np.searchsorted(entry, times) - np.searchsorted(time, times)
    at_risk[0] = (entry == times[0]).sum()
    event = outcome.event
    competing = np.zeros_like(event) if outcome.competing is None else outcome.competing
    ends = {"n_events": event, "n_competing": competing}
    ends["n_censored"] = ~event & ~competing
    place, n = np.searchsorted(times, np.asarray(outcome.time)), len(times)
    counts = {name: np.bincount(place[who], minlength=n) for name, who in ends.items()}
    return pd.DataFrame({"time": times, "at_risk": at_risk} | counts)


# -- curves


def kaplan_meier(counts: pd.DataFrame) -> pd.DataFrame:
    """Share without the event, with Greenwood's error on the log(−log) scale.

    A competing event is censored.
    """
    n, d = (counts[name].to_numpy(dtype=np.float64) for name in ("at_risk", "n_events"))
    left = _product_limit(n, d)
    n_censored = counts["n_censored"] + counts["n_competing"]
    table = counts.assign(survival=left, n_censored=n_censored)
    error = left * np.sqrt(np.cumsum(_greenwood(n, d)))
    table[_LIMITS] = _limits(left, error, start=1.0)
    columns = ["time", "survival", *_LIMITS, "at_risk", "n_events", "n_censored"]
    return table.filter(columns)


def _product_limit(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Share that is left after each time, with `d` of `n` lost at it."""
    return np.cumprod(1 - d / np.maximum(n, 1))


def _greenwood(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Its terms; where nobody is left there is none, and no curve that it could belong to."""
    return np.asarray(np.divide(d, n * (n - d), out=np.zeros_like(n), where=n > d))


def _limits(value: np.ndarray, error: np.ndarray, *, start: float) -> np.ndarray:
    """95 % on the log(−log) scale: certain where the curve starts, unknown at its other end."""
    inside = (value > 1e-12) & (value < 1 - 1e-12)
    safe = np.where(inside, value, 0.5)
    reach = np.exp(_Z * error / (safe * np.log(safe)))  # < 1
    edge = np.where(value == start, value, np.nan)
    ends = [np.where(inside, safe**power, edge) for power in (1 / reach, reach)]
    return np.column_stack(ends)


def aalen_johansen(counts: pd.DataFrame) -> pd.DataFrame:
    """Share that has had the event, and the competing one, by each time.

    Its error is that of the delta method, Greenwood's where no event competes.
    """
    names = ("at_risk", "n_events", "n_competing")
    n, of_event, of_other = (counts[name].to_numpy(dtype=np.float64) for name in names)
    ends = of_event + of_other
    before = np.concatenate([[1.0], _product_limit(n, ends)[:-1]])
    total, at_risk = _greenwood(n, ends), np.maximum(n, 1)
    parts: list[pd.DataFrame] = []
    for cause, d in (("event", of_event), ("competing", of_other)):
        value = np.cumsum(before * d / at_risk)
        single, mixed = before**2 * d * (n - d) / at_risk**3, before * d / at_risk**2
        variance = (
            value**2 * np.cumsum(total)
            - 2 * value * np.cumsum(total * value)
            + np.cumsum(total * value**2)
            + np.cumsum(single)
            - 2 * (value * np.cumsum(mixed) - np.cumsum(mixed * value))
        )
        table = counts[["time"]].assign(incidence=value)
        table[_LIMITS] = _limits(value, np.sqrt(np.maximum(variance, 0)), start=0.0)
        table.insert(0, "cause", cause)
        parts.append(table[(ends > 0) | (np.arange(len(n)) == 0)])
    return pd.concat(parts, ignore_index=True)


# -- groups


def _summary(label: str, counts: pd.DataFrame) -> dict[str, object]:
    """Size, median time to the event and median follow-up (Kaplan–Meier of being censored)."""
    curve = kaplan_meier(counts)
    events, censored = counts["n_events"], counts["n_censored"]
    swapped = counts.assign(n_events=censored, n_censored=events)
    n = counts[["n_events", "n_competing", "n_censored"]].sum()
    return {
        "group": label,
        "n": int(n.sum()),
        "n_events": int(n["n_events"]),
        "median": _half(curve, "survival"),
        "median_low": _half(curve, "ci_low"),
        "median_high": _half(curve, "ci_high"),
        "follow_up": _half(kaplan_meier(swapped), "survival"),
    }


def _half(curve: pd.DataFrame, column: str) -> float:
    """When a curve has come down to a half."""
    reached = curve.loc[curve[column] <= 0.5 + 1e-12, "time"]
    return float(reached.iloc[0]) if len(reached) else np.nan


def logrank(outcome: Outcome, group: pd.Categorical) -> dict[str, float]:
    """Observed minus expected events of all groups, summed over strata (Mantel; Peto and Peto).

    With the hypergeometric variance.
    """
    k = len(group.categories)
    excess, variance = np.zeros(k), np.zeros((k, k))
    for rows in outcome.strata_rows():
        member, some = np.eye(k)[group.codes[rows]], outcome.take(rows)
        time, event = np.asarray(some.time), some.event
        at = np.unique(time[event])[:, None]
        at_risk = time >= at
        if some.entry is not None:
            at_risk &= some.entry < at
        happened, share = ((time == at) & event) @ member, at_risk @ member
        n, d = share.sum(axis=1), happened.sum(axis=1)
        share = share / n[:, None]
        weight = d * (n - d) / np.maximum(n - 1, 1)
        excess += happened.sum(axis=0) - d @ share
        variance += np.diag(weight @ share) - (share * weight[:, None]).T @ share
    df = int(np.linalg.matrix_rank(variance, tol=1e-9))
    if not df:
        return {"chi2": np.nan, "df": df, "p": np.nan}
    chi2 = float(excess @ np.linalg.pinv(variance, rcond=1e-9) @ excess)
    return {"chi2": chi2, "df": df, "p": float(stats.chi2.sf(chi2, df))}


# -- hazard ratios


def _ratios(outcome: Outcome, group: pd.Categorical) -> tuple[pd.DataFrame, list[str]]:
    """Cox's model of the groups alone: a row per group, and what could not be had or trusted."""
    names = [str(label) for label in group.categories]
    table = pd.DataFrame(np.nan, range(len(names)), _RATIO)
    table.loc[0, "ratio"] = 1.0
    try:
        columns, rows = _coding(outcome, group)
        cox = models.fit(outcome.take(rows), columns).table()
    except ValueError as error:
        return table, [
            f"The groups have no hazard ratios; the curves and the log-rank test stand. {error}"
        ]
    table.loc[[label in columns for label in names], _RATIO] = cox[_RATIO].to_numpy()
    without = [label for label in names[1:] if label not in columns]
    notes = [f"{name!r} has no events, so it has no hazard ratio." for name in without]
    notes += [
        f"The hazard ratio of {label!r} changes with time (p = {p:.2g}): it is an average over the "
        "follow-up, and the curves say more."
        for label, p in zip(columns, cox["ph_p"], strict=True)
        if p < 0.05
    ]
    return table, notes


def _coding(outcome: Outcome, group: pd.Categorical) -> tuple[pd.DataFrame, np.ndarray]:
    """One column per group but the first, and its rows: of the groups that have events.

    Without events a hazard ratio is 0, and such a group weighs nothing in the others' risk sets:
    they are the same without it.
    """
    names, codes = [str(label) for label in group.categories], group.codes
    events = np.bincount(codes[outcome.event], minlength=len(names))
    if not events[0]:
        raise ValueError(
            f"The reference {names[0]!r} has no events, so nothing has a ratio to it; name a "
            "group with events first in groups=[...]."
        )
    if not events[1:].any():
        raise ValueError(f"{listed(names[1:])} has no events; only {names[0]!r} has.")
    rows = np.flatnonzero(events[codes] > 0)
    with_events = [i for i in range(1, len(names)) if events[i]]
    return pd.DataFrame({names[i]: (codes[rows] == i) * 1.0 for i in with_events}), rows


def _adjusted(
    outcome: Outcome, group: pd.Categorical, name: str, covariates: pd.DataFrame
) -> tuple[pd.DataFrame, list[str]]:
    """The groups alone and given the covariates, on the same patients.

    Alone on all patients if that is more.
    """
    everyone = np.arange(len(covariates))
    complete = np.flatnonzero(covariates.notna().all(axis=1))
    patients = {"group": everyone, "group (complete cases)": complete}
    if len(complete) == len(everyone):
        patients = {"group": everyone}
    fits = {}
    for model, chosen in (patients | {"group + covariates": complete}).items():
        columns, rows = _coding(outcome.take(chosen), group[chosen])
        columns = columns.rename(columns=lambda label: f"{name}: {label}")
        if model not in patients:
            clinical = models.design(covariates.iloc[chosen[rows]])
            columns = pd.concat([columns, clinical.reset_index(drop=True)], axis=1)
        fits[model] = models.fit(outcome.take(chosen[rows]), columns)
    table = models.stacked({model: fit.table() for model, fit in fits.items()}, "model")
    full = fits["group + covariates"]
    n, n_events = len(full.coef), full.outcome.n_events
    if n_events >= _PER_COEFFICIENT * n:
        return table, []
    note = (
        f"The model with covariates has {n} coefficients and {n_events} events, fewer than "
        f"{_PER_COEFFICIENT} each: its ratios are unstable."
    )
    return table, [note]


def _early(label: str, counts: pd.DataFrame) -> list[str]:
    """Events while patients still come in, and few are there."""
    coming = counts.iloc[: int(counts["at_risk"].to_numpy().argmax())]
    weak = coming[(coming["n_events"] > 0) & (coming["at_risk"] < _FEW)]
    return [
        f"{label!r} has events while fewer than {_FEW} patients are at risk ({row.at_risk} at time "
        f"{row.time:.3g}, when others have not entered yet): its curve is unstable there, and so "
        "is all that follows. The log-rank test and the ratios compare patients at the same time "
        "and stand; for a curve, count time from entry."
        for row in weak.head(1).itertuples()
    ]
