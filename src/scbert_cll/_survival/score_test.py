"""Score tests: of many scores at once, and of effects that change with time."""

from __future__ import annotations

import numpy as np
from scipy import stats

from scbert_cll._survival.likelihood import RiskSets, moments, of_stratum
from scbert_cll._survival.outcome import Outcome


def score_test(
    outcome: Outcome, scores: np.ndarray, covariates: np.ndarray, risk: np.ndarray
) -> np.ndarray:
    """Z of each column of `scores` (n × k), given `covariates` (n × p) with a fitted `risk` (n).

    Rao's test: slope and curvature of the log-likelihood in the score's direction, where it has no
    effect. One fit serves all scores. For a group and no covariates it is the log-rank test where
    no times are tied. Ties as Efron's.
    """
    p = covariates.shape[1]
    given, tested = slice(p), slice(p, None)
    parts = moments(outcome, risk, np.column_stack([covariates, scores]))
    slope = np.sum([part.slope[tested] for part in parts], axis=0)
    curvature = np.sum([part.curvature(tested) for part in parts], axis=0)
    if p:
        mixed = np.sum([part.information(given, tested) for part in parts], axis=0)
        of_given = np.sum([part.information(given, given) for part in parts], axis=0)
        curvature = curvature - (mixed * np.linalg.solve(of_given, mixed)).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = slope / np.sqrt(curvature)
    return np.where(curvature > 1e-9, z, 0.0)  # a combination of the covariates has no z


def proportional(outcome: Outcome, columns: np.ndarray, risk: np.ndarray) -> np.ndarray:
    """P, for each column, that its effect is constant: the score test of column × g(time).

    g is 1 − Kaplan–Meier just before the event, as in Grambsch and Therneau 1994
    (doi:10.1093/biomet/81.3.515); the exact form of R's cox.zph since survival 3.0, which needs no
    residuals and so holds with delayed entry and strata.
    """
    g = np.zeros(len(columns))
    g[outcome.event] = _before_event(outcome)
    g -= g[outcome.event].mean()
    p = columns.shape[1]
    slope, powers = np.zeros(p), np.zeros((3, p, p))  # information by powers of g
    for stratum in RiskSets.of(outcome):
        rows = stratum.rows
        each = g[rows][stratum.events]
        parts = [of_stratum(stratum, risk[rows], columns[rows], each**power) for power in range(3)]
        slope += parts[1].slope
        powers += [part.information() for part in parts]
    variance = np.diag(powers[2] - powers[1] @ np.linalg.solve(powers[0], powers[1]))
    return np.asarray(stats.chi2.sf(slope**2 / np.maximum(variance, 1e-12), 1))


def _before_event(outcome: Outcome) -> np.ndarray:
    """1 − Kaplan–Meier of all patients, just before each event."""
    time = np.asarray(outcome.time)
    entry = np.zeros_like(time) if outcome.entry is None else outcome.entry
    times, n_events = np.unique(time[outcome.event], return_counts=True)
    at_risk = np.searchsorted(np.sort(entry), times) - np.searchsorted(np.sort(time), times)
    survival = np.cumprod(np.concatenate([[1.0], 1 - n_events / at_risk]))[:-1]
    return np.asarray(1 - survival[np.searchsorted(times, time[outcome.event])])
