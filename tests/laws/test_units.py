"""Times are what they are called: in tables, on axes and at horizons, through every door; what
cannot be so is refused with code that helps.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scbert_cll as sc_cll

PER_YEAR = {"years": 1.0, "months": 12.0, "days": 365.25}
N = 120


def patients(unit: str, *, born: bool = False) -> AnnData:
    """Followed for 9.8 years at most from diagnosis, or by age from 52 on; times in `unit`."""
    rng = np.random.default_rng(0)
    entry = rng.uniform(0, 2, N) + 52 * born
    time = entry + np.minimum(rng.exponential(5, N), rng.uniform(1, 7.8, N))
    obs = pd.DataFrame(
        {"t": time * PER_YEAR[unit], "seen": entry * PER_YEAR[unit]},
        index=[f"p{i}" for i in range(N)],
    )
    obs["died"] = rng.integers(0, 2, N)
    obs["IGHV"], obs["score"] = np.where(np.arange(N) % 2, "M", "U"), rng.normal(size=N)
    return AnnData(obs=obs)


def survival(adata: AnnData, unit: str | None = None, **keys: Any) -> AnnData:
    own = {} if unit is None else {"time_unit": unit}
    sc_cll.tl.survival(adata, "IGHV", time_key="t", event_key="died", **own, **keys)
    return adata


def prognosis(adata: AnnData, unit: str | None = None, **keys: Any) -> AnnData:
    own = {} if unit is None else {"time_unit": unit}
    sc_cll.tl.prognosis(
        adata,
        time_key="t",
        event_key="died",
        score_key="score",
        n_random=0,
        n_bootstrap=0,
        **own,
        **keys,
    )
    return adata


def read_cohort(adata: AnnData, unit: str | None = None, **keys: Any) -> AnnData:
    own = {} if unit is None else {"unit": unit}
    return sc_cll.datasets.read_cohort(
        None, adata.obs, time_key="t", event_key="died", **own, **keys
    )


DOORS: dict[str, Callable[..., AnnData]] = {
    "survival": survival,
    "prognosis": prognosis,
    "read_cohort": read_cohort,
}
doors = pytest.mark.parametrize("door", DOORS.values(), ids=list(DOORS))


@doors
@pytest.mark.parametrize("entry", [{}, {"entry_key": "seen"}], ids=["diagnosis", "entry"])
@pytest.mark.parametrize("unit", ["months", "days"])
def test_months_and_days_are_not_years_and_the_remedy_works(
    door: Callable[..., AnnData], entry: dict[str, str], unit: str
) -> None:
    with pytest.raises(ValueError, match="'t' does not look like years: median") as refused:
        door(patients(unit), **entry)
    offered = re.findall(r"unit='(\w+)'", str(refused.value))
    assert unit in offered
    door(patients(unit), unit, **entry)


@pytest.mark.parametrize("door", [survival, prognosis])
@pytest.mark.parametrize("unit", ["months", "days"])
def test_the_division_that_is_offered_works(door: Callable[..., AnnData], unit: str) -> None:
    adata = patients(unit)
    with pytest.raises(ValueError, match="does not look like years") as refused:
        door(adata)
    (code,) = re.findall(rf"of {unit} (adata\.obs\['t'\] / [\d.]+[\d])", str(refused.value))
    adata.obs["t"] = eval(code, {"adata": adata})  # noqa: S307
    door(adata)


@doors
def test_years_are_not_days(door: Callable[..., AnnData]) -> None:
    with pytest.raises(ValueError, match=r"'t' does not look like days: .*unit='years'"):
        door(patients("years"), "days")


@doors
def test_age_may_be_the_clock_where_there_is_an_entry(door: Callable[..., AnnData]) -> None:
    aged = patients("years", born=True)
    aged.obs["t"] += 5
    door(aged, entry_key="seen")
    with pytest.raises(ValueError, match="does not look like years"):
        door(aged)


@pytest.mark.parametrize("unit", ["weeks", "Months", "month", ""])
@pytest.mark.parametrize("door", [survival, prognosis])
def test_a_unit_that_is_not_known_is_refused(door: Callable[..., AnnData], unit: str) -> None:
    with pytest.raises(ValueError, match="time_unit must be one of 'years', 'months', 'days'"):
        door(patients("years"), unit)


@pytest.mark.parametrize("unit", list(PER_YEAR))
def test_medians_axes_and_horizons_are_in_the_unit(unit: str) -> None:
    factor = PER_YEAR[unit]
    years, other = survival(patients("years")), survival(patients(unit), unit)
    columns = ["median", "median_low", "median_high", "follow_up"]
    first, second = (a.uns["survival"]["groups"] for a in (years, other))
    np.testing.assert_allclose(first[columns] * factor, second[columns])
    np.testing.assert_allclose(first["ratio"], second["ratio"], rtol=1e-6)
    for adata, asked in ((other, None), (years, unit)):  # as it is, and drawn in another unit
        axes = sc_cll.pl.survival(adata, time_unit=asked, show=False)
        assert axes.get_xlabel() == f"t, {unit}"
        drawn = max(
            line.get_xdata().max() for line in axes.get_lines() if len(line.get_xdata()) > 5
        )
        assert drawn == pytest.approx(years.uns["survival"]["curves"]["time"].max() * factor)
        plt.close("all")


@pytest.mark.parametrize("unit", list(PER_YEAR))
def test_prognosis_looks_at_two_and_five_years_whatever_the_unit(unit: str) -> None:
    pytest.importorskip("sksurv", reason="needs the extra uno")
    years, other = (
        prognosis(patients("years")).uns["prognosis"],
        prognosis(patients(unit), unit).uns["prognosis"],
    )
    assert other["params"]["times"] == [2 * PER_YEAR[unit], 5 * PER_YEAR[unit]]
    np.testing.assert_allclose(years["auc"]["auc"], other["auc"]["auc"])
    np.testing.assert_array_equal(years["auc"]["n_events"], other["auc"]["n_events"])
    assert years["power"] == pytest.approx(other["power"])


def test_what_a_reader_made_years_is_not_called_months_again() -> None:
    adata = read_cohort(patients("months"), "months")
    survival(adata)
    with pytest.raises(
        ValueError, match=r"read_cohort has brought 't' from months to years.*leave time_unit= out"
    ) as refused:
        survival(adata, "months")
    column, code = re.findall(
        r"(adata\.obs\['t, months'\]) = (adata\.obs\['t'\] \* 12)", str(refused.value)
    )[0]
    assert column == "adata.obs['t, months']"
    adata.obs["t, months"] = eval(code, {"adata": adata})  # noqa: S307
    sc_cll.tl.survival(adata, "IGHV", time_key="t, months", event_key="died", time_unit="months")
