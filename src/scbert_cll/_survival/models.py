"""Cox models, logistic regression where no times are known, and their concordance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pandas as pd
from scipy import stats

from scbert_cll._checks.words import listed
from scbert_cll._survival import likelihood
from scbert_cll._survival.outcome import Outcome

_Z: Final = float(stats.norm.ppf(0.975))
# standard deviations times coefficient, from which an effect diverges
_WIDE: Final = 7.0
_VAGUE: Final = 20.0  # the same times its standard error


@dataclass(frozen=True)
class Fit:
    """A fitted model of an outcome, and the columns that explain it."""

    outcome: Outcome
    columns: pd.DataFrame
    coef: pd.Series
    se: pd.Series
    log_likelihood: float
    log_likelihood_null: float  # without any column, same patients

    @cached_property
    def risk(self) -> np.ndarray:
        """The linear predictor of each patient, higher = earlier event."""
        x = self.columns.to_numpy(dtype=np.float64)
        return np.asarray(x @ self.coef.to_numpy())

    def table(self) -> pd.DataFrame:
        """One row per coefficient; ``ph_p`` is that of proportional hazards."""
        coef, se = self.coef, self.se
        table = pd.DataFrame({"coef": coef, "se": se, "ratio": np.exp(coef)})
        table["ci_low"] = np.exp(coef - _Z * se)
        table["ci_high"] = np.exp(coef + _Z * se)
        table["z"] = coef / se
        table["p"] = 2 * stats.norm.sf(table["z"].abs())
        table["ph_p"] = np.nan
        if self.outcome.time is not None:
            x = self.columns.to_numpy(dtype=np.float64)
            table["ph_p"] = likelihood.proportional(self.outcome, x, self.risk)
        table = table.rename_axis("variable").reset_index()
        return table.assign(n=len(self.columns), n_events=self.outcome.n_events)


def stacked(tables: Mapping[str, pd.DataFrame], column: str) -> pd.DataFrame:
    """One table, with the names of its parts in a column in front."""
    table = pd.concat(tables, names=[column]).reset_index(level=0)
    return table.reset_index(drop=True).rename(index=str)


def design(frame: pd.DataFrame) -> pd.DataFrame:
    """One column of numbers per coefficient: categories against the first of those that occur."""
    parts: list[pd.Series | pd.DataFrame] = []
    for name, values in frame.items():
        if pd.api.types.is_bool_dtype(values) or pd.api.types.is_numeric_dtype(values):
            parts.append(values.astype(np.float64).rename(str(name)))
            continue
        categories = values.astype("category").cat.remove_unused_categories()
        levels = pd.get_dummies(categories, dtype=np.float64)
        if levels.shape[1] > 1:  # a single category stays, a constant that a fit refuses
            levels = levels.iloc[:, 1:]
        parts.append(levels.add_prefix(f"{name}: "))
    return pd.concat(parts, axis=1) if parts else pd.DataFrame(index=frame.index)


def fit(outcome: Outcome, columns: pd.DataFrame) -> Fit:
    """Cox's model with Efron's ties, or a logistic regression.

    Raises
    ------
    ValueError
        A column is constant, collinear with others, or tells exactly who has the event.
    """
    _check_design(columns)
    best = likelihood.maximum(outcome, columns.to_numpy(dtype=np.float64))
    coef, se = (pd.Series(values, columns.columns) for values in (best.coef, best.se))
    scale = columns.std()
    unbounded = ((coef * scale).abs() > _WIDE) | ~(se * scale <= _VAGUE)
    if unbounded.any() or not best.converged:
        names = coef.index[unbounded] if unbounded.any() else coef.index
        raise ValueError(
            f"{listed(names)} tells (almost) exactly who has the event, so its effect has no "
            "finite size. Was it recorded after the outcome, or is it the outcome under another "
            "name (ever treated, for time to treatment)? Take it out; if a rare group has no "
            "events, merge it."
        )
    heights = best.log_likelihood, best.log_likelihood_null
    return Fit(outcome, columns, coef, se, *heights)


def _check_design(columns: pd.DataFrame) -> None:
    n = len(columns)
    constant = columns.columns[columns.nunique() < 2]
    if len(constant):
        raise ValueError(
            f"{listed(constant)} is the same in all {n} patients that are left. Take it out of "
            "covariates, or merge its categories."
        )
    x = np.column_stack([np.ones(n), columns.to_numpy(dtype=np.float64)])
    rank = np.linalg.matrix_rank(x)
    if rank <= columns.shape[1]:
        raise ValueError(
            f"The covariates are collinear: {listed(columns.columns, 12)} have "
            f"{columns.shape[1]} columns, but only {rank - 1} differ. Take one out."
        )


def concordance(outcome: Outcome, risk: np.ndarray) -> float:
    """Harrell's C: share of comparable pairs in which the higher risk has the earlier event.

    Two patients can be compared at an event if both were under observation then, in one stratum:
    other packages know neither entry nor strata, and agree with this otherwise. Without times it
    is the AUROC.
    """
    event = outcome.event
    if outcome.time is None:
        observed = np.tile(~event, (outcome.n_events, 1))
    else:  # beyond the event: events × patients
        at = outcome.time[event][:, None]
        observed = (outcome.time > at) | ((outcome.time == at) & ~event)
        if outcome.entry is not None:
            observed &= outcome.entry < at
        if outcome.strata is not None:
            observed &= outcome.strata == outcome.strata[event][:, None]
    difference = risk[event][:, None] - risk[None, :]
    difference = np.where(np.abs(difference) < 1e-12, 0.0, difference)
    n = observed.sum()
    tied = ((difference == 0) & observed).sum()
    agree = ((difference > 0) & observed).sum() + 0.5 * tied
    return float(agree) / n if n else np.nan
