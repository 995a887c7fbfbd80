"""Cox models, logistic regression where no times are known, and their concordance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from scipy import stats

from scbert_cll._checks.words import listed
from scbert_cll._survival import score_test
from scbert_cll._survival.likelihood import maximum
from scbert_cll._survival.outcome import Outcome

_Z: Final = float(stats.norm.ppf(0.975))
_WIDE: Final = (
    7.0  # standard deviations times coefficient, from which an effect is no longer finite
)
_VAGUE: Final = 20.0  # the same times its standard error


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
        values = {
            "coef": self.coef,
            "se": self.se,
            "ratio": np.exp(self.coef),
            "ci_low": np.exp(self.coef - _Z * self.se),
            "ci_high": np.exp(self.coef + _Z * self.se),
            "z": z,
            "p": 2 * stats.norm.sf(z.abs()),
            "ph_p": self.ph_p,
        }
        frame = pd.DataFrame(values).rename_axis("variable").reset_index()
        return frame.assign(n=self.n, n_events=self.n_events)


def design(frame: pd.DataFrame) -> pd.DataFrame:
    """One column of numbers per coefficient: categories against the first of those that occur."""
    parts: list[pd.Series | pd.DataFrame] = []
    for name, values in frame.items():
        if pd.api.types.is_bool_dtype(values) or pd.api.types.is_numeric_dtype(values):
            parts.append(values.astype(np.float64).rename(str(name)))
            continue
        categories = values.astype("category").cat.remove_unused_categories()
        levels = pd.get_dummies(categories, dtype=np.float64).iloc[:, 1:]
        parts.append(levels.rename(columns={level: f"{name}: {level}" for level in levels}))
    return pd.concat(parts, axis=1) if parts else pd.DataFrame(index=frame.index)


def fit(outcome: Outcome, columns: pd.DataFrame, *, proportional: bool = False) -> Fit:
    """Cox's model with Efron's ties, or a logistic regression.

    `proportional` tests the hazards' proportionality.

    Raises
    ------
    ValueError
        A column is constant, collinear with others, or tells exactly who has the event.
    """
    _check_design(columns)
    names, x = columns.columns, columns.to_numpy(dtype=np.float64)
    found = maximum(outcome, x)
    coef, se = pd.Series(found.coef, names), pd.Series(found.se, names)
    _check_separation(coef, se, columns.std(), converged=found.converged)
    risk = x @ found.coef
    timed = proportional and outcome.time is not None
    return Fit(
        coef,
        se,
        pd.Series(score_test.proportional(outcome, x, risk) if timed else np.nan, names),
        found.log_likelihood,
        found.log_likelihood_null,
        risk,
        len(columns),
        outcome.n_events,
        outcome.n_informative,
    )


def _check_design(columns: pd.DataFrame) -> None:
    n = len(columns)
    constant = columns.columns[columns.nunique() < 2]
    if len(constant):
        raise ValueError(
            f"{listed(constant)} is the same in all {n} patients that are left. Take it out of "
            "covariates, or merge its categories."
        )
    rank = np.linalg.matrix_rank(np.column_stack([np.ones(n), columns.to_numpy(dtype=np.float64)]))
    if rank <= columns.shape[1]:
        raise ValueError(
            f"The covariates are collinear: {listed(columns.columns, 12)} have "
            f"{columns.shape[1]} columns, but only {rank - 1} differ. Take one out."
        )


def _check_separation(coef: pd.Series, se: pd.Series, scale: pd.Series, *, converged: bool) -> None:
    unbounded = ((coef * scale).abs() > _WIDE) | ~(se * scale <= _VAGUE)
    if converged and not unbounded.any():
        return
    columns = coef.index[unbounded] if unbounded.any() else coef.index
    raise ValueError(
        f"{listed(columns)} tells (almost) exactly who has the event, so its effect has no finite "
        "size. Was it recorded after the outcome, or is it the outcome under another name (ever "
        "treated, for time to treatment)? Take it out; if a rare group has no events, merge it."
    )


def concordance(outcome: Outcome, risk: np.ndarray) -> float:
    """Harrell's C: share of comparable pairs in which the higher risk has the earlier event.

    Two patients can be compared at an event if both were under observation then, in one stratum:
    other packages know neither entry nor strata, and agree with this otherwise. Without times it
    is the AUROC.
    """
    comparable, event = _comparable(outcome), outcome.event
    difference = risk[event][:, None] - risk[None, :]
    difference = np.where(np.abs(difference) < 1e-12, 0.0, difference)
    n = comparable.sum()
    agree = ((difference > 0) & comparable).sum() + 0.5 * ((difference == 0) & comparable).sum()
    return float(agree) / n if n else np.nan


def _comparable(outcome: Outcome) -> np.ndarray:
    """Events × patients: who was observed beyond the event, in the same stratum."""
    event = outcome.event
    if outcome.time is None:
        return np.broadcast_to(~event, (int(event.sum()), len(event)))
    at = outcome.time[event][:, None]
    observed = (outcome.time > at) | ((outcome.time == at) & ~event)
    if outcome.entry is not None:
        observed &= outcome.entry < at
    if outcome.strata is not None:
        observed &= outcome.strata == outcome.strata[event][:, None]
    return np.asarray(observed)
