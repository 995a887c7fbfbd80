"""What a score adds to what is known: likelihood ratio, and the gain in discrimination without its optimism."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from scbert_cll._bar import Bar
from scbert_cll._survival.models import Fit, concordance, fit
from scbert_cll._survival.outcome import Outcome
from scbert_cll._survival.score_test import maximize

type Measure = Callable[[Outcome, np.ndarray], float]


@dataclass(frozen=True)
class Gain:
    """One measure of the two models, and of their difference."""

    base: float
    full: float
    optimism: float
    low: float
    high: float
    n_bootstrap: int

    @property
    def delta(self) -> float:
        return self.full - self.base


def likelihood_ratio(base: Fit | None, full: Fit) -> dict[str, float]:
    """Twice the gain in log-likelihood against chi², same patients."""
    before, df = (
        (full.log_likelihood_null, 0) if base is None else (base.log_likelihood, len(base.coef))
    )
    df = len(full.coef) - df
    chi2 = max(2 * (full.log_likelihood - before), 0.0)
    return {"lr_chi2": chi2, "lr_df": df, "lr_p": float(stats.chi2.sf(chi2, df))}


def gains(
    outcome: Outcome,
    base: pd.DataFrame,
    full: pd.DataFrame,
    measures: dict[str, Measure],
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
    apparent = _values(outcome, measures, *_risks(outcome, base, full, base, full))
    drawn, n = [], len(base)
    for stream in Bar(
        rng.spawn(n_bootstrap),
        desc="bootstrap",
        leave=False,
        disable=not progress or n_bootstrap < 2,
    ):
        one = _redraw(outcome, base, full, measures, stream.integers(0, n, n))
        drawn += [] if one is None else [one]
    return {name: _gain(apparent[name], [one[name] for one in drawn]) for name in measures}


type _Pair = tuple[float, float]


def _redraw(
    outcome: Outcome,
    base: pd.DataFrame,
    full: pd.DataFrame,
    measures: dict[str, Measure],
    rows: np.ndarray,
) -> dict[str, tuple[_Pair, _Pair]] | None:
    """Both models learned on these rows: judged on them, and on all.

    None where they cannot be learned (a rare category was not drawn).
    """
    here, base_here, full_here = outcome.take(rows), base.iloc[rows], full.iloc[rows]
    try:
        own = _values(here, measures, *_risks(here, base_here, full_here, base_here, full_here))
        everyone = _values(outcome, measures, *_risks(here, base_here, full_here, base, full))
    except ValueError:
        return None
    return {name: (own[name], everyone[name]) for name in measures}


def _risks(
    outcome: Outcome,
    base: pd.DataFrame,
    full: pd.DataFrame,
    base_of: pd.DataFrame,
    full_of: pd.DataFrame,
) -> tuple[np.ndarray, np.ndarray]:
    """Linear predictors of both models, learned on the first tables, for the rows of the second."""
    of_base = (
        np.zeros(len(base_of)) if base.empty else base_of.to_numpy() @ _coefficients(outcome, base)
    )
    return of_base, full_of.to_numpy() @ _coefficients(outcome, full)


def _coefficients(outcome: Outcome, columns: pd.DataFrame) -> np.ndarray:
    if outcome.time is None:
        return fit(outcome, columns).coef.to_numpy()
    return maximize(outcome, columns.to_numpy(dtype=np.float64))


def _values(
    outcome: Outcome, measures: dict[str, Measure], base: np.ndarray, full: np.ndarray
) -> dict[str, _Pair]:
    return {
        name: (measure(outcome, base), measure(outcome, full)) for name, measure in measures.items()
    }


def _gain(apparent: _Pair, drawn: list[tuple[_Pair, _Pair]]) -> Gain:
    base, full = apparent
    own = np.array([after - before for (before, after), _ in drawn])
    optimism = own - np.array([after - before for _, (before, after) in drawn])
    known = np.isfinite(optimism)
    if known.sum() < 20:  # the outer 2.5 % of fewer are no percentiles
        return Gain(base, full, np.nan, np.nan, np.nan, int(known.sum()))
    mean = float(optimism[known].mean())
    low, high = np.percentile(own[known] - mean, [2.5, 97.5])
    corrected = full - base - mean  # percentiles of a skewed gain can lie beside it
    return Gain(
        base, full, mean, float(min(low, corrected)), float(max(high, corrected)), int(known.sum())
    )


def measures(outcome: Outcome, horizon: float | None) -> tuple[dict[str, Measure], list[str]]:
    """What can be measured of this outcome with what is installed, and what cannot."""
    if outcome.time is None:
        return {"AUROC": concordance}, []
    found: dict[str, Measure] = {"Harrell C": concordance}
    if outcome.entry is not None or outcome.strata is not None:
        return found, [
            "Uno's C and AUC(t) know neither delayed entry nor strata and were left out."
        ]
    if scikit_survival() is None:
        return found, ["Uno's C and AUC(t) need scikit-survival: pip install 'scbert-cll[uno]'."]
    return found | {"Uno C": lambda some, risk: uno(outcome, some, risk, horizon)}, []


def scikit_survival() -> Any:
    """The library, None where it is not installed."""
    try:
        import sksurv.metrics
        import sksurv.util
    except ImportError:
        return None
    return sksurv


def uno(everyone: Outcome, some: Outcome, risk: np.ndarray, horizon: float | None) -> float:
    """Harrell's C without its dependence on censoring (Uno et al. 2011).

    Censoring as of everyone, up to `horizon`.
    """
    package = scikit_survival()
    try:
        return float(
            package.metrics.concordance_index_ipcw(_surv(everyone), _surv(some), risk, tau=horizon)[
                0
            ]
        )
    except ValueError:  # nobody is left at risk where somebody is needed
        return np.nan


def auc(outcome: Outcome, risk: np.ndarray, times: np.ndarray) -> np.ndarray:
    """How well those with an event until t are told from those without: cumulative/dynamic AUC at each time, NaN where it has none."""
    package, found = scikit_survival(), np.full(len(times), np.nan)
    for i, time in enumerate(times):
        try:
            found[i] = package.metrics.cumulative_dynamic_auc(
                _surv(outcome), _surv(outcome), risk, [time]
            )[0][0]
        except ValueError:
            continue
    return found


def _surv(outcome: Outcome) -> Any:
    return scikit_survival().util.Surv.from_arrays(outcome.event, outcome.time)
