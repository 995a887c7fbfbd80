"""Times of patients: read from columns, in a unit that they can have, brought to another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _keys
from scbert_cll._checks.words import choice, listed

Unit = Literal["years", "months", "days"]

PER_YEAR: Final[dict[str, float]] = {"years": 1.0, "months": 12.0, "days": 365.25}
_USUAL: Final = (2.0, 5.0)  # years
_LONGEST, _SHORTEST = 60.0, 0.1  # years, of the longest follow-up of a cohort
_OLDEST: Final = 120.0  # years, of a clock that is age
_IS_LIKELY: Final = 0.5  # years from which another unit is offered
_TIMES: Final = {
    "curves": ["time"],
    "incidence": ["time"],
    "groups": ["median", "median_low", "median_high", "follow_up"],
}


def numbers_of(obs: pd.DataFrame, key: str, expected: str, hint: str = "") -> pd.Series:
    """A column of `obs` as float64; what is no number is refused."""
    values: pd.Series = obs[key]
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(object)
    numbers = pd.to_numeric(values, errors="coerce").astype(np.float64)
    bad = values.index[numbers.isna() & values.notna()]
    if len(bad):
        raise ValueError(
            f"adata.obs[{key!r}] must hold {expected}; found {listed(values[bad].unique())} "
            f"in {listed(bad, 3)}.{hint}"
        )
    return numbers


def times(column: pd.Series, key: str) -> pd.Series:
    """Times as numbers from 0, NaN where there is none."""
    if pd.api.types.is_bool_dtype(column):
        raise ValueError(
            f"{key!r} must hold times as numbers, and holds True and False; is it the column "
            "of the event?"
        )
    numbers = pd.to_numeric(column.astype(object), errors="coerce").astype(np.float64)
    if len(text := column[numbers.isna() & column.notna()]):
        hint = "Dates become times by subtraction, in years: (end - start).dt.days / 365.25."
        if pd.api.types.is_timedelta64_dtype(column):
            hint = "These are differences of dates; in years they are .dt.days / 365.25."
        elif text.astype(str).str.fullmatch(r"-?\d+,\d+").all():
            hint = (
                "These look like decimal commas: pd.read_csv(path, decimal=','), or "
                "column.str.replace(',', '.').astype(float)."
            )
        raise ValueError(
            f"{key!r} must hold times as numbers; found {listed(text.unique(), 3)} in "
            f"{listed(text.index, 3)}. {hint}"
        )
    if len(bad := numbers.index[(numbers < 0) | np.isinf(numbers)]):
        raise ValueError(
            f"{key!r} has {len(bad)} times that are negative or infinite: {listed(bad)} "
            f"(first {numbers[bad].iloc[0]:g}). Check the dates they come from."
        )
    return numbers.rename(key)


def check_unit(
    time: pd.Series, unit: str, *, what: str = "unit", entry: pd.Series | None = None
) -> None:
    """Times can be in the unit: followed five weeks to sixty years, on a clock of at most 120.

    Without an entry the clock starts with the follow-up; with one it may be age.
    """
    choice(unit, list(PER_YEAR), what)
    longest = float((time if entry is None else time - entry).max())
    latest, years = float(time.max()), longest / PER_YEAR[unit]
    oldest = latest / PER_YEAR[unit]
    if np.isnan(years) or (_SHORTEST <= years <= _LONGEST and oldest <= _OLDEST):
        return
    in_years = {u: longest / n for u, n in reversed(PER_YEAR.items()) if u != unit}
    likely = {u: n for u, n in in_years.items() if _IS_LIKELY <= n <= _LONGEST}
    hint = " or ".join(
        f"{what}={u!r} (then the longest is {n:.1f} years)" for u, n in likely.items()
    )
    hint = f"{hint}?" if hint else "Check the dates it comes from."
    smaller = [u for u in likely if PER_YEAR[u] > PER_YEAR[unit]]
    if smaller and what == "time_unit":
        hint += f" Or make them {unit}: " + " or ".join(
            f"of {u} adata.obs[{time.name!r}] / {PER_YEAR[u] / PER_YEAR[unit]:g}" for u in smaller
        )
        hint += "."
    followed = "" if entry is None else f", followed for {longest:g} at most"
    raise ValueError(
        f"{time.name!r} does not look like {unit}: median {time.median():g}, maximum "
        f"{latest:g}{followed}, that is {years:.3g} years. {hint}"
    )


def check_not_brought_to_years(adata: AnnData, key: str, unit: str) -> None:
    """Times that a reader has brought to years are in no other unit, whatever the column's name."""
    params = adata.uns.get(_keys.COHORT, {}).get("params", {})
    keys = ("time_key", "entry_key")
    columns = [str(params[name]) for name in keys if name in params]
    if unit != "years" and key in [name.replace("/", "_") for name in columns]:
        raise ValueError(
            f"datasets.read_cohort has brought {key!r} from {params.get('unit', 'years')} to "
            f"years, so it holds no {unit}: leave time_unit= out. To have {unit}, multiply: "
            f"adata.obs['{key}, {unit}'] = adata.obs[{key!r}] * {PER_YEAR[unit]:g}, and name that "
            "column."
        )


def usual_times(unit: Unit) -> tuple[float, ...]:
    """Two and five years."""
    choice(unit, list(PER_YEAR), "time_unit")
    return tuple(years * PER_YEAR[unit] for years in _USUAL)


def in_unit(result: Mapping[str, Any], unit: Unit | None) -> Mapping[str, Any]:
    """Curves and medians of tl.survival with their times in another unit; None: as they are."""
    params = dict(result["params"])
    now = params.get("time_unit", "years")
    if unit is None or unit == now:
        return result
    choice(str(now), list(PER_YEAR), "The time_unit of the result")
    factor = PER_YEAR[choice(unit, list(PER_YEAR), "time_unit")] / PER_YEAR[now]
    tables = {name: result[name].copy() for name in _TIMES if name in result}
    for name, table in tables.items():
        table[table.columns.intersection(_TIMES[name])] *= factor
    return {**result, **tables, "params": params | {"time_unit": unit}}
