"""How large an effect so many events can show, and whether its form is linear."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from scbert_cll._survival.added_value import likelihood_ratio
from scbert_cll._survival.models import fit
from scbert_cll._survival.outcome import Outcome

_ALPHA, _POWER = 0.05, 0.8
_KNOTS = (0.1, 0.5, 0.9)  # quantiles, Harrell's for three


def power(
    outcome: Outcome, score: np.ndarray, covariates: np.ndarray, ratio: float
) -> dict[str, float]:
    """Power for a ratio per standard deviation, two-sided at 5 %.

    Schoenfeld 1983; Hsieh and Lavori 2000. What covariates already say of the score is lost for
    it: events count by 1 − R². Without times, patients count by p (1 − p) (Hsieh et al. 1998).
    """
    r2 = _r2(score, covariates) if covariates.shape[1] else 0.0
    n_events, n_others = outcome.n_events, (~outcome.event).sum()
    weight = n_events if outcome.time is not None else outcome.event.mean() * n_others
    effective, size = float(weight * (1 - r2)), abs(np.log(ratio))
    z, z_power = stats.norm.ppf(1 - _ALPHA / 2), stats.norm.ppf(_POWER)
    per_event = n_events / max(effective, 1e-12)
    needed = ((z + z_power) / size) ** 2 * per_event if size else np.inf
    reached = float(stats.norm.cdf(size * np.sqrt(effective) - z))
    with np.errstate(over="ignore"):  # nothing is detectable if the covariates say all
        detectable = float(np.exp((z + z_power) / np.sqrt(max(effective, 1e-12))))
    return {
        "n_events": n_events,
        "ratio": float(ratio),
        "power": reached,
        "n_events_needed": float(np.ceil(needed)),
        "detectable_ratio": detectable,
        "r2_covariates": r2,
        "underpowered": reached < _POWER,
    }


def _r2(score: np.ndarray, covariates: np.ndarray) -> float:
    x = np.column_stack([np.ones(len(score)), covariates])
    rest = score - x @ np.linalg.lstsq(x, score, rcond=None)[0]
    return float(1 - rest.var() / score.var())


def linearity(outcome: Outcome, score: pd.Series, covariates: pd.DataFrame) -> dict[str, float]:
    """Likelihood ratio of a cubic spline (three knots) against a line, given the covariates."""
    line = pd.concat([score, covariates], axis=1)
    bend = restricted_cubic(score.to_numpy())
    curve = pd.DataFrame({"spline": bend}, index=score.index)
    least = 10 * (line.shape[1] + 1)  # events
    if curve["spline"].std() < 1e-9 or outcome.n_informative < least:
        return {"chi2": np.nan, "p": np.nan}
    curve /= curve.std()
    both = pd.concat([line, curve], axis=1)
    test = likelihood_ratio(fit(outcome, line), fit(outcome, both))
    return {"chi2": test["lr_chi2"], "p": test["lr_p"]}


def restricted_cubic(x: np.ndarray) -> np.ndarray:
    """The bend of a spline: cubic between three knots, straight outside.

    Harrell, Regression Modeling Strategies, 2.4.5.
    """
    low, middle, high = np.quantile(x, _KNOTS)
    if len(np.unique(x)) < 3 or not low < middle < high:
        return np.zeros_like(x)
    cubes = [np.maximum(x - knot, 0) ** 3 for knot in (low, middle, high)]
    outer = high - middle
    bend = cubes[0] - cubes[1] * (high - low) / outer
    bend += cubes[2] * (middle - low) / outer
    return np.asarray(bend / (high - low) ** 2)
