"""The score test of many scores at once, and the quick maximum of one partial likelihood."""

from __future__ import annotations

import numpy as np
from scipy import stats

from scbert_cll._survival.outcome import Outcome

_STEPS = 30
_CLOSE = 1e-9  # change of the linear predictor
_FAR = 15.0  # standard deviations times coefficient, where an effect has no end


def score_test(
    outcome: Outcome, scores: np.ndarray, covariates: np.ndarray, risk: np.ndarray
) -> np.ndarray:
    """Z of each column of `scores` (n × k), beside `covariates` (n × p) whose fitted linear predictor is `risk` (n).

    Rao's test: slope and curvature of the log-likelihood in the score's direction, where it has no
    effect. One fit serves all scores. For a group and no covariates it is the log-rank test where
    no times are tied. Ties as Efron's.
    """
    slope, curvature, mixed, own = (
        _logistic(outcome, scores, covariates, risk)
        if outcome.time is None
        else _cox(outcome, scores, covariates, risk)
    )
    if covariates.shape[1]:
        curvature = curvature - (mixed * np.linalg.solve(own, mixed)).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = slope / np.sqrt(curvature)
    return np.where(
        curvature > 1e-9, z, 0.0
    )  # a score that is no more than its covariates says nothing


def proportional(outcome: Outcome, columns: np.ndarray, risk: np.ndarray) -> np.ndarray:
    """P, for each column, that its effect does not change with time: the score test of column × g(time) beside all columns.

    g is 1 − Kaplan–Meier just before the event, as in Grambsch and Therneau 1994
    (doi:10.1093/biomet/81.3.515); the exact form of R's cox.zph since survival 3.0, which needs no
    residuals and so holds with delayed entry and strata.
    """
    weight, event = risk_weights(outcome, risk), outcome.event
    g = _before_event(outcome)
    g = g - g.mean()
    mean = weight @ columns
    slope = g @ (columns[event] - mean)

    plain, mixed, own = (_information(columns, weight, mean, g**power) for power in range(3))
    variance = np.diag(own - mixed @ np.linalg.solve(plain, mixed))
    return np.asarray(stats.chi2.sf(slope**2 / np.maximum(variance, 1e-12), 1))


def _information(
    columns: np.ndarray, weight: np.ndarray, mean: np.ndarray, each: np.ndarray
) -> np.ndarray:
    """Sum over events of each event's variance among those at risk."""
    everywhere = weight.T @ each
    return np.asarray((columns * everywhere[:, None]).T @ columns - (mean * each[:, None]).T @ mean)


def _before_event(outcome: Outcome) -> np.ndarray:
    """1 − Kaplan–Meier of all patients, just before each event."""
    time, at = np.asarray(outcome.time), np.asarray(outcome.time)[outcome.event]
    times, n_events = np.unique(at, return_counts=True)
    entered = (
        np.ones((len(times), len(time)), dtype=bool)
        if outcome.entry is None
        else outcome.entry < times[:, None]
    )
    at_risk = (entered & (time >= times[:, None])).sum(axis=1)
    survival = np.cumprod(np.concatenate([[1.0], 1 - n_events / at_risk]))[:-1]
    return np.asarray(1 - survival[np.searchsorted(times, at)])


def maximize(outcome: Outcome, columns: np.ndarray) -> np.ndarray:
    """Coefficients of Cox's model by Newton's steps, for the many fits of a bootstrap.

    Lifelines gives the same, and all that is reported.

    Raises
    ------
    ValueError
        There is no maximum.
    """
    spread = columns.std(axis=0)
    if (spread < 1e-12).any():
        raise ValueError("a column is constant")
    x, coef = (columns - columns.mean(axis=0)) / spread, np.zeros(columns.shape[1])
    for _ in range(_STEPS):
        slope, _, _, own = _cox(outcome, x, x, x @ coef)
        try:
            step = np.linalg.solve(own, slope)
        except np.linalg.LinAlgError as error:
            raise ValueError("columns are redundant") from error
        coef = coef + step
        if np.abs(coef).max() > _FAR:
            raise ValueError("an effect has no end")
        if np.abs(step).max() < _CLOSE:
            return np.asarray(coef / spread)
    raise ValueError("no maximum was found")


type _Parts = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _cox(outcome: Outcome, scores: np.ndarray, covariates: np.ndarray, risk: np.ndarray) -> _Parts:
    """Observed minus expected at each event, and variances among those at risk."""
    weight, event = risk_weights(outcome, risk), outcome.event
    mean_s, mean_x = weight @ scores, weight @ covariates
    slope = (scores[event] - mean_s).sum(axis=0)
    everywhere = weight.sum(axis=0)  # each patient's share of all events
    curvature = everywhere @ scores**2 - (mean_s**2).sum(axis=0)
    mixed = (covariates * everywhere[:, None]).T @ scores - mean_x.T @ mean_s
    own = _information(covariates, weight, mean_x, np.ones(len(weight)))
    return slope, curvature, mixed, own


def risk_weights(outcome: Outcome, risk: np.ndarray) -> np.ndarray:
    """Events × patients: how likely each patient was the one who had the event (rows add up to 1).

    Of d events at one time, the k-th counts those of the d with weight 1 − k/d (Efron).
    """
    time, event = np.asarray(outcome.time), outcome.event
    at = time[event][:, None]
    at_risk = time >= at
    if outcome.entry is not None:
        at_risk &= outcome.entry < at
    stratum = np.zeros(len(time), dtype=np.int64) if outcome.strata is None else outcome.strata
    at_risk &= stratum == stratum[event][:, None]
    tied = at_risk & event & (time == at)
    order = np.arange(len(at))
    earlier = tied[:, event] & (
        order[None, :] < order[:, None]
    )  # those of the tie that come before it in the list
    fraction = earlier.sum(axis=1) / tied.sum(axis=1)
    weight = np.exp(risk - risk.max()) * at_risk * (1 - fraction[:, None] * tied)
    return np.asarray(weight / weight.sum(axis=1, keepdims=True))


def _logistic(
    outcome: Outcome, scores: np.ndarray, covariates: np.ndarray, risk: np.ndarray
) -> _Parts:
    """Observed minus expected, with the intercept among the covariates."""
    expected = _with_intercept(outcome.event, risk)
    weight = expected * (1 - expected)
    centred = scores - weight @ scores / weight.sum()
    x = covariates - weight @ covariates / weight.sum()
    slope = (outcome.event - expected) @ scores
    wx = (x * weight[:, None]).T
    return slope, weight @ centred**2, wx @ centred, wx @ x


def _with_intercept(event: np.ndarray, risk: np.ndarray) -> np.ndarray:
    """Probabilities whose sum is the number of events."""
    from scipy.optimize import brentq
    from scipy.special import expit

    return np.asarray(
        expit(
            risk
            + brentq(
                lambda a: expit(risk + a).sum() - event.sum(), -50 - risk.max(), 50 - risk.min()
            )
        )
    )
