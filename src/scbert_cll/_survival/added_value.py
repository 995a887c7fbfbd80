"""What a score adds to known columns, and how large an effect so many events can show."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from scbert_cll import _optional
from scbert_cll._process import Bar
from scbert_cll._survival.likelihood import maximum
from scbert_cll._survival.models import Fit, concordance, fit
from scbert_cll._survival.outcome import Outcome

type Measure = Callable[[Outcome, np.ndarray], float]
type Measures = dict[str, Measure]
# by measure, of the model without the score and of that with it
type _Values = dict[str, tuple[float, float]]

_UNO = "Scoring by Uno's C and AUC(t) with scikit-survival"
_FEWEST = 20  # draws: the outer 2.5 % of fewer are no percentiles
_ALPHA, _POWER = 0.05, 0.8
_KNOTS = (0.1, 0.5, 0.9)  # quantiles, Harrell's for three


@dataclass(frozen=True)
class Gain:
    """One measure of the two models, and of their difference: a row of the table."""

    base_value: float
    full_value: float
    delta: float  # apparent
    optimism: float
    delta_corrected: float
    ci_low: float
    ci_high: float
    n_bootstrap: int


def likelihood_ratio(base: Fit | None, full: Fit) -> dict[str, float]:
    """Twice the gain in log-likelihood against chi², same patients."""
    before = full.log_likelihood_null if base is None else base.log_likelihood
    df = len(full.coef) - (0 if base is None else len(base.coef))
    chi2 = max(2 * (full.log_likelihood - before), 0.0)
    return {"lr_chi2": chi2, "lr_df": df, "lr_p": float(stats.chi2.sf(chi2, df))}


def gains(
    outcome: Outcome,
    base: pd.DataFrame,
    full: pd.DataFrame,
    measures: Measures,
    *,
    n_bootstrap: int,
    rng: np.random.Generator,
    progress: bool = True,
) -> dict[str, Gain]:
    """Gain in each measure, with the optimism of having fitted and judged on the same patients.

    Both models are refitted on patients drawn with replacement, and judged on those drawn and on
    all: the mean difference is the optimism (Harrell). The interval are percentiles of the gain
    among those drawn, moved by the optimism (Noma et al. 2021, doi:10.1002/sim.9148).
    """
    models, n = (base, full), len(base)
    x = [frame.to_numpy(dtype=np.float64) for frame in models]

    def judged(coefs: list[np.ndarray], rows: np.ndarray) -> _Values:
        some = outcome.take(rows)
        one, both = (values[rows] @ coef for values, coef in zip(x, coefs, strict=True))
        return {name: (of(some, one), of(some, both)) for name, of in measures.items()}

    def learned(rows: np.ndarray) -> list[np.ndarray]:
        return [_coefficients(outcome.take(rows), frame.iloc[rows]) for frame in models]

    everyone = np.arange(n)
    apparent = judged(learned(everyone), everyone)
    draws = []
    hidden = not progress or n_bootstrap < 2
    streams = Bar(rng.spawn(n_bootstrap), desc="bootstrap", leave=False, disable=hidden)
    for stream in streams:
        rows = stream.integers(0, n, n)
        try:
            coefs = learned(rows)
            draws.append((judged(coefs, rows), judged(coefs, everyone)))
        except ValueError:  # not to be learned, as where a rare category was not drawn
            continue
    return {name: _gain(name, apparent, draws) for name in measures}


def _coefficients(outcome: Outcome, columns: pd.DataFrame) -> np.ndarray:
    if columns.empty:
        return np.empty(0)
    if outcome.time is None:
        return fit(outcome, columns).coef.to_numpy()
    best = maximum(outcome, columns.to_numpy(dtype=np.float64))
    if not best.converged:
        raise ValueError("no maximum was found")
    return best.coef


def _gain(name: str, apparent: _Values, draws: list[tuple[_Values, _Values]]) -> Gain:
    base, full = apparent[name]
    pairs = [(drawn[name], everyone[name]) for drawn, everyone in draws]
    among_drawn, among_all = np.array(pairs).reshape(-1, 2, 2).transpose(1, 2, 0)
    gain = among_drawn[1] - among_drawn[0]
    optimism = gain - (among_all[1] - among_all[0])
    finite = np.isfinite(optimism)
    n = int(finite.sum())
    mean = low = high = np.nan
    if n >= _FEWEST:
        mean = float(optimism[finite].mean())
        low, high = np.percentile(gain[finite] - mean, [2.5, 97.5])
    delta = full - base
    corrected = delta - mean  # percentiles of a skewed gain can leave it out
    low, high = float(min(low, corrected)), float(max(high, corrected))
    return Gain(base, full, delta, mean, corrected, low, high, n)


def measures(outcome: Outcome, horizon: float | None) -> tuple[Measures, list[str]]:
    """What can be measured of this outcome with what is installed, and why not more."""
    if outcome.time is None:
        return {"AUROC": concordance}, []
    harrell: Measures = {"Harrell C": concordance}
    if outcome.entry is not None or outcome.strata is not None:
        why = "Uno's C and AUC(t) know neither delayed entry nor strata and were left out."
        return harrell, [why]
    try:
        _optional.optional("sksurv.metrics", _UNO)
    except ImportError as error:
        return harrell, [f"{error}."]
    return harrell | {"Uno C": lambda some, risk: uno(outcome, some, risk, horizon)}, []


def uno(everyone: Outcome, some: Outcome, risk: np.ndarray, tau: float | None) -> float:
    """Harrell's C without its dependence on censoring (Uno et al. 2011).

    Censoring as of everyone, up to the time `tau`.
    """
    metrics = _optional.optional("sksurv.metrics", _UNO)
    ends = _surv(everyone), _surv(some)
    try:
        return float(metrics.concordance_index_ipcw(*ends, risk, tau=tau)[0])
    except ValueError:  # nobody is left at risk where somebody is needed
        return np.nan


def auc(outcome: Outcome, risk: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Cumulative/dynamic AUC at each time, of events until then; NaN where it has none."""
    metrics = _optional.optional("sksurv.metrics", _UNO)
    values = np.full(len(times), np.nan)
    ends = _surv(outcome)
    for i, time in enumerate(times):
        with suppress(ValueError):
            values[i] = metrics.cumulative_dynamic_auc(ends, ends, risk, [time])[0][0]
    return values


def _surv(outcome: Outcome) -> np.ndarray:
    surv = _optional.optional("sksurv.util", _UNO).Surv
    return np.asarray(surv.from_arrays(outcome.event, outcome.time))


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
