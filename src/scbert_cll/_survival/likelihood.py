"""The likelihood of Cox's model (Efron's ties) and of a logistic one, its maximum, score tests."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import expit

from scbert_cll._survival.outcome import Outcome

_STEPS, _HALVINGS = 30, 12
_CLOSE = 1e-9  # change of the linear predictor
_LEVEL = 1e-9  # share of the log-likelihood that is round-off
_SINGULAR = 1e-9  # of the information of one event
_ALL = slice(None)
_FAR = 15.0  # standard deviations times coefficient: the effect diverges


class RiskSets:
    """The events of one stratum, latest first, with sums over the patients at risk at each.

    These sums are cumulative sums from the last patient to the first. Delayed entry takes
    patients out of them again; a matrix of who is at risk then avoids the loss of digits of a
    difference of cumulative sums.
    """

    def __init__(self, outcome: Outcome, rows: np.ndarray) -> None:
        time = np.asarray(outcome.time)[rows]
        latest = np.argsort(-time, kind="stable")
        self.rows, before = rows[latest], -time[latest]
        self.events = np.flatnonzero(outcome.event[self.rows])  # positions in `rows`
        times, self._first, self.tie, n_tied = np.unique_all(before[self.events])
        # Of d events at one time, the k-th counts those of the d with weight 1 − k/d (Efron)
        rank = np.arange(len(self.events)) - self._first[self.tie]
        self.tied_fraction = rank / n_tied[self.tie]
        self._n_at_risk = np.searchsorted(before, times, side="right")
        # the first of the times that a patient is at risk for
        self._first_tie = np.searchsorted(times, before)
        self._matrix: np.ndarray | None = None
        if outcome.entry is not None:
            entry = outcome.entry[self.rows]
            at_risk = (before <= times[:, None]) & (entry < -times[:, None])
            self._matrix = at_risk.astype(np.float64)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Events × columns: sums of `values` (patients × columns) over those at risk."""
        if not len(self.events):
            return np.zeros((0, values.shape[1]))
        if self._matrix is None:
            at_risk = np.cumsum(values, axis=0)[self._n_at_risk[self.tie] - 1]
        else:
            at_risk = (self._matrix @ values)[self.tie]
        if self.tied_fraction.any():
            tied = np.add.reduceat(values[self.events], self._first, axis=0)
            at_risk -= self.tied_fraction[:, None] * tied[self.tie]
        return np.asarray(at_risk)

    def shared_out(self, values: np.ndarray) -> np.ndarray:
        """Patients: sums of `values` (one per event) over the events a patient is at risk for."""
        n = len(self._first)
        per_time = np.bincount(self.tie, values, n)
        if self._matrix is None:
            total = np.append(np.cumsum(per_time[::-1])[::-1], 0.0)[self._first_tie]
        else:
            total = per_time @ self._matrix
        tied = np.bincount(self.tie, values * self.tied_fraction, n)
        total[self.events] -= tied[self.tie]
        return np.asarray(total)

    @classmethod
    def of(cls, outcome: Outcome) -> list[RiskSets]:
        """One for each stratum."""
        return [cls(outcome, rows) for rows in outcome.strata_rows()]


class Moments(NamedTuple):
    """A log-likelihood, and how it changes with some columns, at one linear predictor."""

    log_likelihood: float
    slope: np.ndarray  # (columns,) observed minus expected, summed over events
    columns: np.ndarray  # (patients, columns)
    weight: np.ndarray  # (patients,) sum over events of the probability to be the one
    mean: np.ndarray  # (events, columns) of those at risk
    event_weight: np.ndarray  # (events,)

    def information(self, one: slice = _ALL, other: slice = _ALL) -> np.ndarray:
        """Minus the second derivative, for some columns × some columns."""
        weighted = self.columns[:, one] * self.weight[:, None]
        weighted_mean = self.mean[:, one] * self.event_weight[:, None]
        of_means = weighted_mean.T @ self.mean[:, other]
        return np.asarray(weighted.T @ self.columns[:, other] - of_means)

    def curvature(self, which: slice) -> np.ndarray:
        """The diagonal of the information."""
        of_means = self.event_weight @ self.mean[:, which] ** 2
        return np.asarray(self.weight @ self.columns[:, which] ** 2 - of_means)


def moments(
    outcome: Outcome, risk: np.ndarray, columns: np.ndarray, *sets: RiskSets
) -> list[Moments]:
    """The likelihood at the linear predictor `risk`, in parts (strata) that add up.

    `sets` are those of the outcome, where they are at hand.
    """
    if outcome.time is None:
        return [_logistic(outcome.event, risk, columns)]
    return [
        of_stratum(s, risk[s.rows], columns[s.rows], np.ones(len(s.events)))
        for s in sets or RiskSets.of(outcome)
    ]


def of_stratum(
    stratum: RiskSets, risk: np.ndarray, columns: np.ndarray, event_weight: np.ndarray
) -> Moments:
    """The partial likelihood of a stratum, whose events count by `event_weight`."""
    highest = risk.max(initial=-np.inf)
    hazard = np.exp(risk - highest)[:, None]
    sums = stratum.sums(np.column_stack([hazard, hazard * columns]))
    total, mean = sums[:, 0], sums[:, 1:] / sums[:, :1]
    height = float(event_weight @ (risk[stratum.events] - highest - np.log(total)))
    slope = event_weight @ (columns[stratum.events] - mean)
    weight = hazard[:, 0] * stratum.shared_out(event_weight / total)
    return Moments(height, slope, columns, weight, mean, event_weight)


def _logistic(event: np.ndarray, risk: np.ndarray, columns: np.ndarray) -> Moments:
    """With the best intercept, at which the probabilities add up to the number of events."""
    ends = -50 - risk.max(), 50 - risk.min()
    logit = risk + brentq(lambda a: expit(risk + a).sum() - event.sum(), *ends)
    expected = expit(logit)
    height = float((event * logit - np.logaddexp(0, logit)).sum())
    slope, weight = (event - expected) @ columns, expected * (1 - expected)
    total, mean = np.array([weight.sum()]), (weight @ columns / weight.sum())[None]
    return Moments(height, slope, columns, weight, mean, total)


class Maximum(NamedTuple):
    """Where the likelihood is highest; without convergence NaN, or how far it was followed."""

    coef: np.ndarray
    se: np.ndarray
    log_likelihood: float
    log_likelihood_null: float  # without any column
    converged: bool


def maximum(outcome: Outcome, columns: np.ndarray) -> Maximum:
    """The maximum by Newton's steps, halved while they lead down."""
    spread = columns.std(axis=0)
    unknown = np.full(columns.shape[1], np.nan)
    if (spread < 1e-12).any():
        return Maximum(unknown, unknown, np.nan, np.nan, converged=False)
    x, coef = (columns - columns.mean(axis=0)) / spread, np.zeros(columns.shape[1])
    sets = [] if outcome.time is None else RiskSets.of(outcome)

    def at(coef: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        parts = moments(outcome, x @ coef, x, *sets)
        height = sum(part.log_likelihood for part in parts)
        slope = np.sum([part.slope for part in parts], axis=0)
        return height, slope, np.sum([part.information() for part in parts], axis=0)

    height, slope, information = at(coef)
    null, converged = height, False
    if np.linalg.eigvalsh(information)[0] < _SINGULAR * outcome.n_events:
        return Maximum(unknown, unknown, height, null, converged=False)
    for _ in range(_STEPS):
        try:
            step = np.linalg.solve(information, slope)
        except np.linalg.LinAlgError:
            return Maximum(unknown, unknown, height, null, converged=False)
        for _ in range(_HALVINGS):
            higher, slope, information = at(coef + step)
            if higher >= height - _LEVEL * abs(height):
                break
            step = step / 2
        coef, height = coef + step, higher
        converged = bool(np.abs(step).max() < _CLOSE)
        if converged or np.abs(coef).max() > _FAR:
            break
    with np.errstate(invalid="ignore"):  # round-off, where an effect diverges
        se = np.sqrt(np.diag(np.linalg.pinv(information, hermitian=True)))
    return Maximum(coef / spread, se / spread, height, null, converged)


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
    # a combination of the covariates has no z
    return np.where(curvature > 1e-9, z, 0.0)


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
        each, ends = g[rows][stratum.events], (risk[rows], columns[rows])
        parts = [of_stratum(stratum, *ends, each**power) for power in range(3)]
        slope += parts[1].slope
        powers += [part.information() for part in parts]
    variance = np.diag(powers[2] - powers[1] @ np.linalg.solve(powers[0], powers[1]))
    return np.asarray(stats.chi2.sf(slope**2 / np.maximum(variance, 1e-12), 1))


def _before_event(outcome: Outcome) -> np.ndarray:
    """1 − Kaplan–Meier of all patients, just before each event."""
    time = np.asarray(outcome.time)
    entry = np.zeros_like(time) if outcome.entry is None else outcome.entry
    times, n_events = np.unique(time[outcome.event], return_counts=True)
    n_left = np.searchsorted(np.sort(time), times)
    at_risk = np.searchsorted(np.sort(entry), times) - n_left
    survival = np.cumprod(np.concatenate([[1.0], 1 - n_events / at_risk]))[:-1]
    return np.asarray(1 - survival[np.searchsorted(times, time[outcome.event])])
