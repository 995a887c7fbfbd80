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
_RATIO: Final = ["ratio", "ci_low", "ci_high", "p", "ph_p"]


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
    tables = {"curves": _stacked({label: kaplan_meier(table) for label, table in counts.items()})}
    summaries = [_summary(label, table) for label, table in counts.items()]
    tables["groups"] = pd.DataFrame(summaries).join(ratios)
    if outcome.competing is not None:
        incidences = {label: aalen_johansen(table) for label, table in counts.items()}
        tables["incidence"] = _stacked(incidences)
    if covariates is not None and covariates.shape[1]:
        tables["cox"], doubts = _adjusted(outcome, group, name, covariates)
        notes += doubts
    if outcome.entry is not None:
        notes += [note for label, table in counts.items() for note in _early(label, table)]
    tables = {key: table.rename(index=str) for key, table in tables.items()}
    return tables | {"logrank": logrank(outcome, group), "notes": notes}


def _stacked(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """One table with the group in front."""
    parts = [table.assign(group=label)[["group", *table]] for label, table in tables.items()]
    return pd.concat(parts, ignore_index=True)


def _counts(outcome: Outcome) -> pd.DataFrame:
    """How many are at risk just before each time, and what happens at it.

    A patient is at risk after entry up to and including the end. The first row is the start of
    observation, when those who enter then are at risk.
    """
    time = np.sort(np.asarray(outcome.time))
    entry = np.zeros(len(time)) if outcome.entry is None else np.sort(outcome.entry)
    times = np.unique(np.concatenate([entry, time]))
    at_risk = np.searchsorted(entry, times, "left") - np.searchsorted(time, times, "left")
    at_risk[0] = (entry == times[0]).sum()
    event = outcome.event
    competing = np.zeros(len(time), dtype=bool) if outcome.competing is None else outcome.competing
    place = np.searchsorted(times, np.asarray(outcome.time))

    def ended(who: np.ndarray) -> np.ndarray:
        return np.bincount(place[who], minlength=len(times))

    return pd.DataFrame(
        {
            "time": times,
            "at_risk": at_risk,
            "n_events": ended(event),
            "n_competing": ended(competing),
            "n_censored": ended(~event & ~competing),
        }
    )


# -- curves


def kaplan_meier(counts: pd.DataFrame) -> pd.DataFrame:
    """Share without the event, with Greenwood's error on the log(−log) scale.

    A competing event is censored.
    """
    left, error = _product_limit(counts["at_risk"], counts["n_events"])
    low, high = _limits(left, left * error, start=1.0)
    return pd.DataFrame(
        {
            "time": counts["time"],
            "survival": left,
            "ci_low": low,
            "ci_high": high,
            "at_risk": counts["at_risk"],
            "n_events": counts["n_events"],
            "n_censored": counts["n_censored"] + counts["n_competing"],
        }
    )


def _product_limit(
    at_risk: pd.Series | np.ndarray, n_events: pd.Series | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Share that is left after each time, and Greenwood's standard error of its logarithm."""
    n, d = np.asarray(at_risk, dtype=np.float64), np.asarray(n_events, dtype=np.float64)
    return np.cumprod(1 - d / np.maximum(n, 1)), np.sqrt(np.cumsum(_greenwood(n, d)))


def _greenwood(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Its terms; where nobody is left there is none, and no curve that it could belong to."""
    return np.asarray(np.divide(d, n * (n - d), out=np.zeros_like(n), where=n > d))


def _limits(value: np.ndarray, error: np.ndarray, *, start: float) -> tuple[np.ndarray, np.ndarray]:
    """95 % on the log(−log) scale: certain where the curve starts, unknown at its other end."""
    inside = (value > 1e-12) & (value < 1 - 1e-12)
    safe = np.where(inside, value, 0.5)
    reach = np.exp(_Z * error / (safe * np.log(safe)))  # < 1
    edge = np.where(value == start, value, np.nan)
    return np.where(inside, safe ** (1 / reach), edge), np.where(inside, safe**reach, edge)


def aalen_johansen(counts: pd.DataFrame) -> pd.DataFrame:
    """Share that has had the event, and the competing one, by each time."""
    n = counts["at_risk"].to_numpy(dtype=np.float64)
    ends = (counts["n_events"] + counts["n_competing"]).to_numpy(dtype=np.float64)
    left, _ = _product_limit(n, ends)
    before = np.concatenate([[1.0], left[:-1]])
    shown = (ends > 0) | (np.arange(len(n)) == 0)
    parts: list[pd.DataFrame] = []
    for cause in ("event", "competing"):
        d = counts["n_events" if cause == "event" else "n_competing"].to_numpy(dtype=np.float64)
        value = np.cumsum(before * d / np.maximum(n, 1))
        low, high = _limits(value, _error(n, ends, d, before, value), start=0.0)
        columns = {"cause": cause, "time": counts["time"], "incidence": value}
        parts.append(pd.DataFrame(columns | {"ci_low": low, "ci_high": high})[shown])
    return pd.concat(parts, ignore_index=True)


def _error(
    n: np.ndarray, ends: np.ndarray, d: np.ndarray, before: np.ndarray, value: np.ndarray
) -> np.ndarray:
    """Standard error of a cumulative incidence by the delta method.

    Greenwood's where no event competes.
    """
    total, n = _greenwood(n, ends), np.maximum(n, 1)
    single = np.cumsum(before**2 * d * (n - d) / n**3)
    mixed = before * d / n**2
    spread = (
        value**2 * np.cumsum(total)
        - 2 * value * np.cumsum(total * value)
        + np.cumsum(total * value**2)
    )
    joint = value * np.cumsum(mixed) - np.cumsum(mixed * value)
    return np.asarray(np.sqrt(np.maximum(spread + single - 2 * joint, 0)))


# -- groups


def _summary(label: str, counts: pd.DataFrame) -> dict[str, Any]:
    """Size, median time to the event and median follow-up (Kaplan–Meier of being censored)."""
    curve = kaplan_meier(counts)
    swapped = counts.assign(n_events=counts["n_censored"], n_censored=counts["n_events"])
    return {
        "group": label,
        "n": int(counts[["n_events", "n_competing", "n_censored"]].to_numpy().sum()),
        "n_events": int(counts["n_events"].sum()),
        "median": _half(curve["time"], curve["survival"]),
        "median_low": _half(curve["time"], curve["ci_low"]),
        "median_high": _half(curve["time"], curve["ci_high"]),
        "follow_up": _half(counts["time"], kaplan_meier(swapped)["survival"]),
    }


def _half(time: pd.Series, left: pd.Series) -> float:
    """When a curve has come down to a half."""
    reached = time[left <= 0.5 + 1e-12]
    return float(reached.iloc[0]) if len(reached) else np.nan


def logrank(outcome: Outcome, group: pd.Categorical) -> dict[str, Any]:
    """Observed minus expected events of all groups, summed over strata (Mantel; Peto and Peto)."""
    k = len(group.categories)
    member = np.eye(k)[group.codes]
    stratum = np.zeros(len(member), dtype=np.int64) if outcome.strata is None else outcome.strata
    excess, variance = np.zeros(k), np.zeros((k, k))
    for value in np.unique(stratum):
        rows = np.flatnonzero(stratum == value)
        u, v = _excess(outcome.take(rows), member[rows])
        excess, variance = excess + u, variance + v
    df = int(np.linalg.matrix_rank(variance, tol=1e-9))
    chi2 = float(excess @ np.linalg.pinv(variance, rcond=1e-9) @ excess) if df else np.nan
    return {"chi2": chi2, "df": df, "p": float(stats.chi2.sf(chi2, df)) if df else np.nan}


def _excess(outcome: Outcome, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Observed minus expected in a stratum, with the hypergeometric variance.

    `member` is patients × groups, 0 or 1.
    """
    time, event = np.asarray(outcome.time), outcome.event
    at = np.unique(time[event])[:, None]
    at_risk = time >= at
    if outcome.entry is not None:
        at_risk &= outcome.entry < at
    happened, share = ((time == at) & event) @ member, at_risk @ member
    n, d = share.sum(axis=1), happened.sum(axis=1)
    share = share / n[:, None]
    weight = d * (n - d) / np.maximum(n - 1, 1)
    variance = np.diag(weight @ share) - (share * weight[:, None]).T @ share
    return happened.sum(axis=0) - d @ share, variance


# -- hazard ratios


def _ratios(outcome: Outcome, group: pd.Categorical) -> tuple[pd.DataFrame, list[str]]:
    """Cox's model of the groups alone: a row per group, and what could not be had or trusted."""
    names = [str(label) for label in group.categories]
    table = pd.DataFrame(np.nan, range(len(names)), _RATIO)
    table.loc[0, "ratio"] = 1.0
    try:
        columns, rows = _dummies(outcome, group)
        cox = models.fit(outcome.take(rows), columns, proportional=True).table()
    except ValueError as error:
        return table, [
            f"The groups have no hazard ratios; the curves and the log-rank test stand. {error}"
        ]
    with_ratio = [label in columns for label in names]
    table.loc[with_ratio, _RATIO] = cox[_RATIO].to_numpy()
    notes = [
        f"{label!r} has no events, so it has no hazard ratio."
        for label in names[1:]
        if label not in columns
    ]
    notes += [
        f"The hazard ratio of {label!r} changes with time (p = {p:.2g}): it is an average over the "
        "follow-up, and the curves say more."
        for label, p in zip(columns, cox["ph_p"], strict=True)
        if p < 0.05
    ]
    return table, notes


def _dummies(outcome: Outcome, group: pd.Categorical) -> tuple[pd.DataFrame, np.ndarray]:
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
    columns = {
        label: (codes[rows] == i).astype(np.float64)
        for i, label in enumerate(names)
        if i and events[i]
    }
    return pd.DataFrame(columns), rows


def _adjusted(
    outcome: Outcome, group: pd.Categorical, name: str, covariates: pd.DataFrame
) -> tuple[pd.DataFrame, list[str]]:
    """The groups alone and given the covariates, on the same patients.

    Alone on all patients if that is more.
    """
    complete = np.flatnonzero(covariates.notna().all(axis=1))
    tables = []

    def add(model: str, patients: np.ndarray, *, with_covariates: bool = False) -> models.Fit:
        columns, rows = _dummies(outcome.take(patients), group[patients])
        columns = columns.rename(columns=lambda label: f"{name}: {label}")
        if with_covariates:
            known = models.design(covariates.iloc[patients[rows]]).reset_index(drop=True)
            columns = pd.concat([columns, known], axis=1)
        fit = models.fit(outcome.take(patients[rows]), columns, proportional=True)
        table = fit.table()
        tables.append(table.assign(model=model)[["model", *table]])
        return fit

    add("group", np.arange(len(covariates)))
    if len(complete) < len(covariates):
        add("group (complete cases)", complete)
    fit = add("group + covariates", complete, with_covariates=True)
    n, notes = len(fit.coef), []
    if fit.n_events < _PER_COEFFICIENT * n:
        notes.append(
            f"The model with covariates has {n} coefficients and {fit.n_events} events, fewer "
            f"than {_PER_COEFFICIENT} each: its ratios are unstable."
        )
    return pd.concat(tables, ignore_index=True), notes


def _early(label: str, counts: pd.DataFrame) -> list[str]:
    """Events while patients still come in, and few are there."""
    coming = counts.iloc[: int(counts["at_risk"].to_numpy().argmax())]
    weak = coming[(coming["n_events"] > 0) & (coming["at_risk"] < _FEW)]
    if not len(weak):
        return []
    n, time = weak["at_risk"].iloc[0], weak["time"].iloc[0]
    note = (
        f"{label!r} has events while fewer than {_FEW} patients are at risk ({n} at time "
        f"{time:.3g}, when others have not entered yet): its curve is unstable there, and so is "
        "all that follows. The log-rank test and the ratios compare patients at the same time and "
        "stand; for a curve, count time from entry."
    )
    return [note]
