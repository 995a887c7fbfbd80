"""Checks of outcomes and of what is to explain them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll._checks.adata import in_memory
from scbert_cll._checks.cohorts import in_order, one_end, times
from scbert_cll._checks.counts import slot, stored
from scbert_cll._checks.words import key_in, listed, number_in, unique

_REMEDY = "Put the outcome into obs, one row per patient."
_MOST = 10  # categories


def patients(adata: Any) -> AnnData:
    """An AnnData with one row per patient; genes are not needed for what is in `obs`."""
    found = in_memory(adata)
    twice = adata.obs_names[adata.obs_names.duplicated()].unique()
    if len(twice):
        raise ValueError(
            f"{len(twice)} samples are in adata more than once: {listed(twice)}. A patient "
            f"counts once: keep one sample of each, "
            "or rename samples of different patients (obs_names_make_unique would only hide it)."
        )
    if not adata.n_obs:
        raise ValueError("Expected at least one patient; adata has none.")
    return found


def outcome_columns(
    obs: pd.DataFrame,
    time_key: str | None,
    event_key: str,
    entry_key: str | None,
    competing_key: str | None,
    strata: Sequence[str],
) -> pd.DataFrame:
    """Numbers of the outcome, NaN where there is none.

    Nothing is below zero, no event is half an event.
    """
    keys = [key for key in (time_key, event_key, entry_key, competing_key, *strata) if key]
    for key in keys:
        key_in(key, obs, "adata.obs", _REMEDY)
    if time_key is None and (entry_key or competing_key or strata):
        raise ValueError(
            "Without time_key the outcome is yes or no; entry_key, competing_key and strata "
            "need times."
        )
    unique(
        pd.Index(keys, dtype=object),
        "The columns of the outcome and strata",
        "name a column of its own for each",
    )
    columns = {key: obs[key] for key in strata}
    columns |= {key: times(obs[key], key) for key in (time_key, entry_key) if key}
    columns |= {key: _yes_or_no(obs, key) for key in (event_key, competing_key) if key}
    found = pd.DataFrame(columns, index=obs.index)
    if time_key and entry_key:
        in_order(found[entry_key], found[time_key], entry_key, time_key)
    if competing_key:
        one_end(found[event_key], found[competing_key], event_key, competing_key)
    return found


def _numbers(obs: pd.DataFrame, key: str, expected: str, remedy: str = "") -> pd.Series:
    values = obs[key]
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(object)
    numbers = pd.to_numeric(values, errors="coerce").astype(np.float64)
    bad = values.index[numbers.isna() & values.notna()]
    if len(bad):
        raise ValueError(
            f"adata.obs[{key!r}] must hold {expected}; found {listed(values[bad].unique())} "
            f"in {listed(bad, 3)}.{remedy}"
        )
    return numbers


def _yes_or_no(obs: pd.DataFrame, key: str) -> pd.Series:
    """0 and 1, or False and True."""
    remedy = f" Say what the words mean, e.g. adata.obs[{key!r}].map({{'yes': 1, 'no': 0}})."
    values = _numbers(obs, key, "0 (no event, censored) and 1 (event)", remedy)
    bad = sorted(set(values.dropna()) - {0.0, 1.0})
    if bad:
        hint = " 1 and 2 are R's words: subtract 1." if set(values.dropna()) <= {1.0, 2.0} else ""
        raise ValueError(
            f"adata.obs[{key!r}] must be 0 (no event, censored) or 1 (event); found "
            f"{listed(f'{v:g}' for v in bad)}.{hint}"
        )
    return values


def enough_events(event: np.ndarray, kept: np.ndarray, event_key: str, *, timed: bool) -> None:
    """Somebody who has an outcome, and somebody who has the event."""
    if not kept.any():
        raise ValueError(
            f"No patient has an outcome (adata.obs[{event_key!r}] with its time); see that "
            f"samples and clinical data match."
        )
    if not event.any():
        raise ValueError(
            f"All {int(kept.sum())} patients are censored: nobody has the event "
            f"{event_key!r}, and nothing can be learned of it. If events are "
            "coded the other way round, turn the column."
        )
    if not timed and event.sum() == kept.sum():
        raise ValueError(
            f"All {int(kept.sum())} patients have the event {event_key!r}; without times "
            f"there is nothing to compare."
        )


def covariates(adata: AnnData, keys: Sequence[str], taken: Sequence[str]) -> pd.DataFrame:
    """Columns that can explain an outcome, and are no part of it, nor of another one that a loader has marked as such."""
    obs: Any = adata.obs
    for key in names(keys, "covariates"):
        key_in(key, obs, "adata.obs", "Covariates are columns of obs.")
        no_outcome(adata, key, taken, "take it out of covariates")
        _explains(obs[key], key)
    if len(set(keys)) < len(keys):
        twice = [key for key in dict.fromkeys(keys) if list(keys).count(key) > 1]
        raise ValueError(f"Covariates are named twice: {listed(twice)}.")
    return pd.DataFrame({key: obs[key] for key in keys}, index=obs.index)


def no_outcome(adata: AnnData, key: str, taken: Sequence[str], remedy: str) -> None:
    """A column that is no part of the outcome, nor of another one that a loader has marked as such."""
    if key in {*taken, *adata.uns.get("cohort", {}).get("outcomes", [])}:
        raise ValueError(f"{key!r} is an outcome, so it cannot explain one; {remedy}.")


def not_named(keys: Sequence[str], taken: Sequence[str]) -> None:
    """Columns whose names are free in the tables of results."""
    if clash := [key for key in keys if key in taken]:
        raise ValueError(
            f"Covariates cannot be called {listed(clash)}, as columns of the models are: "
            f"rename the column, adata.obs.rename(columns=...)."
        )


def _explains(values: pd.Series, key: str) -> None:
    """Finite numbers, or a few categories."""
    if pd.api.types.is_numeric_dtype(values):
        if len(bad := values.index[np.isinf(values.astype(np.float64))]):
            raise ValueError(
                f"The covariate {key!r} is infinite in {listed(bad)}; make it missing (NaN)."
            )
    elif (n := values.nunique()) > _MOST:
        raise ValueError(
            f"The covariate {key!r} has {n} different words "
            f"({listed(values.dropna().unique(), 3)}), and each would get an effect of its "
            f"own; at most "
            f"{_MOST} are taken. If they are numbers, make them so: "
            f"pd.to_numeric(adata.obs[{key!r}]); of dates take years; merge categories."
        )


def complete_cases(
    event: np.ndarray, kept: np.ndarray, lacking: Mapping[Any, int], *, timed: bool
) -> None:
    """Patients who have all covariates, and somebody of them who has the event."""
    both = kept & event
    if both.any() and (timed or both.sum() < kept.sum()):
        return
    missing = ", ".join(f"{key!r} in {n}" for key, n in lacking.items() if n) or "none"
    raise ValueError(
        f"{int(kept.sum())} patients have all covariates, {int(both.sum())} of them with the "
        f"event, so there is nothing to compare. Missing: {missing}. "
        "Leave out the covariates that few patients have."
    )


def they_vary(design: pd.DataFrame, n: int) -> None:
    """Columns of numbers that differ between patients, and not all in the same way."""
    flat = design.columns[design.nunique() < 2]
    if len(flat):
        raise ValueError(
            f"{listed(flat)} is the same in all {n} patients that are left; take it out of "
            f"covariates, or merge its categories."
        )
    rank = np.linalg.matrix_rank(np.column_stack([np.ones(n), design.to_numpy(dtype=np.float64)]))
    if rank <= design.shape[1]:
        raise ValueError(
            f"The covariates say the same thing twice: {listed(design.columns, 12)} have "
            f"{design.shape[1]} columns, but only {rank - 1} differ. "
            "Take one out."
        )


def events_per_variable(
    n_events: int, n_variables: int, least: float, names: Sequence[str], *, timed: bool
) -> None:
    """Enough events for what is to be learned from them."""
    if n_events < least * n_variables:
        what = "events" if timed else "patients in the rarer group"
        own = (
            "One coefficient needs"
            if n_variables == 1
            else f"{n_variables} coefficients ({listed(names, 12)}) need"
        )
        each = "" if n_variables == 1 else f" each, that is {least * n_variables:g}"
        n_left = int(n_events // least) - 1  # beside the score
        advice = {
            -1: "There are too few for the score alone. Wait for more",
            0: "Leave the covariates out",
        }
        raise ValueError(
            f"{own} {least:g} {what}{each}; there are {n_events}. "
            f"{advice.get(n_left, f'Name at most {n_left} covariates beside the score')}, or "
            "lower min_events_per_variable and mistrust the result."
        )


def no_separation(coef: pd.Series, se: pd.Series, scale: pd.Series) -> None:
    """A covariate that knows the outcome has no finite effect."""
    wild = coef.index[
        ~np.isfinite(coef) | ~np.isfinite(se) | ((coef * scale).abs() > 7) | (se * scale > 20)
    ]
    if len(wild):
        raise ValueError(
            f"{listed(wild)} tells (almost) exactly who has the event, so its effect has no "
            f"finite size. Was it recorded after the outcome, or "
            "is it the outcome under another name (ever treated, for time to treatment)? Take "
            "it out; if a rare group has no events, merge it."
        )


def score_column(obs: pd.DataFrame, key: str) -> pd.Series:
    """A column of numbers that can be a score."""
    key_in(key, obs, "adata.obs", "Name the column that holds the score.")
    return _numbers(obs, key, "numbers (for groups there is tl.survival)")


def moments(times: Any) -> None:
    """Times at which something is asked."""
    if isinstance(times, str) or not isinstance(times, Iterable):
        raise TypeError(f"times must be a list of times, e.g. [2, 5]; found {times!r}.")
    for time in times:
        number_in(time, "Each of times", 0, np.inf)


def one_gene(marker: Any) -> None:
    """The name of a gene, or none."""
    if marker is not None and not isinstance(marker, str):
        raise TypeError(f"marker must be the name of one gene, or None; found {marker!r}.")


def genes(names: Any, what: str) -> None:
    """A list of genes."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(f"{what} must be a list of genes (or empty: ()); found {names!r}.")


def cut(value: Any) -> None:
    """The median, or the share of patients above the cut."""
    if value == "median" or (
        isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1
    ):
        return
    raise ValueError(
        f"cut must be 'median' or the share of patients in the high group (above 0, below 1); "
        f"found {value!r}. A cut that is chosen to make "
        "p small is not offered."
    )


def log_expression(adata: AnnData, layer: str | None) -> np.ndarray:
    """Dense log-expression of bulk samples; what was not measured (NaN) stays so."""
    asked = slot(adata, layer)
    found, where = asked.values, asked.where
    if found is None or not adata.n_vars:
        raise ValueError(
            f"{where} has no expression, and a signature needs some; score_key= takes a "
            f"column of obs instead."
        )
    values = np.asarray(stored(adata, asked).toarray(), dtype=np.float64)
    if np.isinf(values).any():
        raise ValueError(
            f"{where} holds {int(np.isinf(values).sum())} infinite values (log of 0?); add 1 "
            f"before taking logs."
        )
    known = values[np.isfinite(values)]
    if not known.size:
        raise ValueError(f"{where} holds no value that is not NaN.")
    if known.max() > 50:
        raise ValueError(
            f"{where} must be log-expression; its largest value is {known.max():g}. For "
            f"counts or intensities take logs first: "
            "sc.pp.normalize_total(adata) and sc.pp.log1p(adata) for counts, np.log2 for "
            "intensities."
        )
    return values


def names(keys: Sequence[str], what: str) -> list[str]:
    """Several names, not the letters of one."""
    if isinstance(keys, str):
        raise TypeError(
            f"{what} must be a list of columns of adata.obs; found the text {keys!r}. Write "
            f"[{keys!r}]."
        )
    return list(keys)


def no_missing(values: np.ndarray, adata: AnnData, method: str) -> None:
    """What decoupler does not take."""
    bad = adata.obs_names[~np.isfinite(values).all(axis=1)]
    if len(bad):
        raise ValueError(
            f"method={method!r} needs every gene in every sample; NaN in {len(bad)} samples: "
            f"{listed(bad)}. method='weighted' does without."
        )


def two_groups(high: np.ndarray) -> None:
    """A cut that parts the patients."""
    if not high.any() or high.all():
        raise ValueError(
            f"The cut leaves all {len(high)} patients in one group, because many share one "
            f"value of the score; tl.survival compares such groups."
        )


def some_random_sets(n: int, key: str) -> None:
    """A test against random sets of genes that was made."""
    if not n:
        raise ValueError(
            f"adata.uns[{key!r}] holds no random sets of genes; adata.uns[{key!r}]['notes'] "
            f"says why. Run tl.prognosis with a signature and "
            "n_random above 0."
        )
