"""What explains an outcome: Cox models (lifelines), and logistic regression (statsmodels) where no times are known."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import xlogy

from scbert_cll._survival import checks as survival_checks
from scbert_cll._survival import score_test
from scbert_cll._survival.outcome import Outcome

_TIME, _EVENT, _ENTRY, _STRATA = (
    "__time",
    "__event",
    "__entry",
    "__strata",
)  # no column of a user's has these names
_Z: Final = float(stats.norm.ppf(0.975))


@dataclass(frozen=True)
class Fit:
    """A fitted model; `coef` and `risk` hold for the columns and rows it was given."""

    coef: pd.Series
    se: pd.Series
    ph_p: pd.Series  # of proportional hazards
    log_likelihood: float
    log_likelihood_null: float  # without any column, same patients
    risk: np.ndarray  # (n,) linear predictor, higher = earlier event
    n: int
    n_events: int
    n_informative: int

    def table(self) -> pd.DataFrame:
        """One row per coefficient."""
        z = self.coef / self.se
        low, high = np.exp(self.coef - _Z * self.se), np.exp(self.coef + _Z * self.se)
        values = {
            "coef": self.coef,
            "se": self.se,
            "ratio": np.exp(self.coef),
            "ci_low": low,
            "ci_high": high,
        }
        values |= {"z": z, "p": 2 * stats.norm.sf(z.abs()), "ph_p": self.ph_p}
        frame = pd.DataFrame(values).rename_axis("variable").reset_index()
        return frame.assign(n=self.n, n_events=self.n_events)


def design(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers, one column per coefficient: categories are held against the first of those that occur."""
    parts: list[Any] = []
    for name, values in frame.items():
        if pd.api.types.is_bool_dtype(values) or pd.api.types.is_numeric_dtype(values):
            parts.append(values.astype(np.float64).rename(str(name)))
            continue
        kept = values.astype("category").cat.remove_unused_categories()
        levels = pd.get_dummies(kept, dtype=np.float64).iloc[:, 1:]
        parts.append(levels.rename(columns={level: f"{name}: {level}" for level in levels}))
    return pd.concat(parts, axis=1) if parts else pd.DataFrame(index=frame.index)


def fit(outcome: Outcome, columns: pd.DataFrame, *, proportional: bool = False) -> Fit:
    """Cox's model with Efron's ties, or a logistic regression.

    `proportional` tests the hazards' proportionality.
    """
    survival_checks.they_vary(columns, len(columns))
    found = (
        _logistic(outcome, columns)
        if outcome.time is None
        else _cox(outcome, columns, proportional)
    )
    survival_checks.no_separation(found.coef, found.se, columns.std())
    return found


def lifelines() -> Any:
    """The library, or how to get it."""
    try:
        import lifelines
    except ImportError as error:
        raise ImportError(
            "Survival analysis needs lifelines, which is not installed: pip install "
            "'scbert-cll[prognosis]'"
        ) from error
    return lifelines


def _cox(outcome: Outcome, columns: pd.DataFrame, proportional: bool) -> Fit:
    package = lifelines()
    frame = columns.reset_index(drop=True).assign(**{_TIME: outcome.time, _EVENT: outcome.event})
    options: dict[str, Any] = {"duration_col": _TIME, "event_col": _EVENT}
    if outcome.entry is not None:
        frame, options = frame.assign(**{_ENTRY: outcome.entry}), options | {"entry_col": _ENTRY}
    if outcome.strata is not None:
        frame, options = frame.assign(**{_STRATA: outcome.strata}), options | {"strata": [_STRATA]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of near separation, which no_separation says in full
        try:
            cox = package.CoxPHFitter().fit(frame, **options)
        except package.exceptions.ConvergenceError:
            wild = pd.Series(np.nan, columns.columns)
            survival_checks.no_separation(wild, wild, columns.std())
            raise
    half = cox.log_likelihood_ratio_test().test_statistic / 2
    risk = columns.to_numpy() @ cox.params_.to_numpy()
    tested = score_test.proportional(outcome, columns.to_numpy(), risk) if proportional else np.nan
    ph, n_events = pd.Series(tested, cox.params_.index), outcome.n_events
    return Fit(
        cox.params_.rename(None),
        cox.standard_errors_.rename(None),
        ph,
        cox.log_likelihood_,
        cox.log_likelihood_ - half,
        risk,
        len(columns),
        n_events,
        n_events,
    )


def _logistic(outcome: Outcome, columns: pd.DataFrame) -> Fit:
    import statsmodels.api as sm  # a second to import, and needed only here

    x = np.column_stack([np.ones(len(columns)), columns.to_numpy(dtype=np.float64)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of separation, which no_separation says in full
        found = sm.Logit(outcome.event.astype(np.float64), x).fit(
            disp=0, maxiter=100, method="newton"
        )
    names = columns.columns
    coef, se = pd.Series(found.params[1:], names), pd.Series(found.bse[1:], names)
    risk = columns.to_numpy() @ coef.to_numpy()
    return Fit(
        coef,
        se,
        pd.Series(np.nan, names),
        float(found.llf),
        _without_columns(outcome.event),
        risk,
        len(columns),
        outcome.n_events,
        outcome.n_informative,
    )


def _without_columns(event: np.ndarray) -> float:
    """Log-likelihood of a logistic regression with nothing but an intercept."""
    n, n_events = len(event), int(event.sum())
    return float(xlogy(n_events, n_events / n) + xlogy(n - n_events, 1 - n_events / n))


def concordance(outcome: Outcome, risk: np.ndarray) -> float:
    """Share of comparable pairs in which the higher risk has the earlier event (Harrell's C.

    Without times the AUROC).

    Two patients can be compared at an event if both were under observation then, in one stratum:
    lifelines and scikit-survival know neither entry nor strata, and agree with this otherwise.
    """
    before, event = _comparable(outcome), outcome.event
    difference = risk[event][:, None] - risk[None, :]
    difference = np.where(np.abs(difference) < 1e-12, 0.0, difference)
    n = before.sum()
    return (
        float(((difference > 0) & before).sum() + 0.5 * ((difference == 0) & before).sum()) / n
        if n
        else np.nan
    )


def _comparable(outcome: Outcome) -> np.ndarray:
    """Events × patients: who was observed beyond the event, in the same stratum."""
    event = outcome.event
    if outcome.time is None:
        return np.broadcast_to(~event, (int(event.sum()), len(event)))
    at = outcome.time[event][:, None]
    found = (outcome.time > at) | ((outcome.time == at) & ~event)
    if outcome.entry is not None:
        found &= outcome.entry < at
    if outcome.strata is not None:
        found &= outcome.strata == outcome.strata[event][:, None]
    return np.asarray(found)
