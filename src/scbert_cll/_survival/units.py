"""In which unit times are, and results brought from one to another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks
from scbert_cll._checks.words import choice
from scbert_cll._survival.outcome import Flow, Outcome

Unit = Literal["years", "months", "days"]

_USUAL: Final = (2.0, 5.0)  # years
_TIMES: Final = {
    "curves": ["time"],
    "incidence": ["time"],
    "groups": ["median", "median_low", "median_high", "follow_up"],
}


def check(adata: AnnData, outcome: Outcome, flow: Flow, time_key: str, unit: Unit) -> None:
    """Times of the patients that are kept can be in this unit."""
    time, entry = (
        None if v is None else pd.Series(v[flow.kept]) for v in (outcome.time, outcome.entry)
    )
    _checks.cohorts.plausible_times(
        pd.Series(time, dtype=np.float64), time_key, unit, parameter="time_unit", entry=entry
    )
    _checks.cohorts.own_unit(adata, time_key, unit)


def usual_times(unit: Unit) -> tuple[float, ...]:
    """Two and five years."""
    choice(unit, list(_checks.cohorts.PER_YEAR), "time_unit")
    return tuple(years * _checks.cohorts.PER_YEAR[unit] for years in _USUAL)


def in_unit(held: Mapping[str, Any], unit: Unit | None) -> Mapping[str, Any]:
    """Curves and medians of tl.survival with their times in another unit; None: as they are."""
    params = dict(held["params"])
    if unit is None or unit == params.get("time_unit", "years"):
        return held
    now = choice(
        str(params.get("time_unit", "years")),
        list(_checks.cohorts.PER_YEAR),
        "The time_unit of the result",
    )
    factor = (
        _checks.cohorts.PER_YEAR[choice(unit, list(_checks.cohorts.PER_YEAR), "time_unit")]
        / _checks.cohorts.PER_YEAR[now]
    )
    tables = {
        name: held[name].assign(
            **{column: held[name][column] * factor for column in columns if column in held[name]}
        )
        for name, columns in _TIMES.items()
        if name in held
    }
    return {**held, **tables, "params": params | {"time_unit": unit}}
