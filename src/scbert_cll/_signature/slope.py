"""Numbers that a signature is a slope over: read, and grouped within donors to be summed."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from anndata import AnnData
from pandas.api import types

from scbert_cll._checks import adata as checks
from scbert_cll._checks.words import listed
from scbert_cll._signature.design import Design

ALL: Final = "all"  # cells of a donor, where donors are compared
MOST_CODES: Final = 10  # whole numbers that are classes
_MOST_GROUPS: Final = 5  # of a donor's cells: a slope over the means of fifths loses a tenth
_FEWEST_GROUPS: Final = 2
_NARROW: Final = 0.5  # share of the median donor's spread, from which a slope is told


def is_number(adata: AnnData, groupby: str) -> bool:
    """Whether a column holds numbers rather than codes of classes."""
    column = checks.obs_column(adata, groupby)
    if not types.is_numeric_dtype(column) or types.is_bool_dtype(column):
        return False
    values = column.dropna()
    # also codes that a missing one, or R, made floats
    is_whole = types.is_integer_dtype(column) or bool((values % 1 == 0).all())
    return not is_whole or values.nunique() > MOST_CODES


def numbers(adata: AnnData, groupby: str, donors: pd.Series, design: str) -> np.ndarray:
    """The number of each cell, NaN where missing; refused where it has no slope."""
    column, where = checks.obs_column(adata, groupby), f"adata.obs[{groupby!r}]"
    values = column.astype("Float64").to_numpy(np.float64, na_value=np.nan)
    if len(infinite := adata.obs_names[np.isinf(values)]):
        raise ValueError(f"{where} is infinite in {listed(infinite)}; make it missing (NaN).")
    present = pd.Series(values, donors.index)[donors.notna().to_numpy() & np.isfinite(values)]
    if present.nunique() < 2:
        which = f"the same ({present.iloc[0]:g})" if len(present) else "missing"
        raise ValueError(f"{where} is {which} in all cells with a donor; a slope needs two values.")
    of_donor = present.groupby(donors[present.index])
    varies = of_donor.nunique() > 1
    if design == "within" and not varies.any():
        raise ValueError(
            f"{where} is the same in all cells of each donor, so it has no slope within donors. "
            "Compare donors with each other: design='between'."
        )
    if design == "between" and not varies.any() and of_donor.first().nunique() < 2:
        raise ValueError(f"{where} is the same in all donors.")
    return np.asarray(values)


def groups(values: np.ndarray, donors: np.ndarray, samples: np.ndarray, least: int) -> np.ndarray:
    """Group of each cell among like cells of its donor and sample, -1 for none.

    Groups are quantiles, as many as have `least` cells, with ties together; all samples of a donor
    have as many. A donor whose groups differ by less than half of what the median donor's do has
    none: its slope would be noise, and counts as much as others.
    """
    codes, spread = np.full(len(values), -1), dict[str, float]()
    for donor in pd.unique(donors):
        rows = np.flatnonzero(donors == donor)
        codes[rows] = _of_donor(values[rows], samples[rows], least)
        used = rows[codes[rows] >= 0]
        if len(used):
            means = pd.Series(values[used]).groupby(codes[used]).mean()
            spread[donor] = float(means.std(ddof=0))
    least_spread = _NARROW * np.median(list(spread.values())) if spread else 0.0
    narrow = [donor for donor, size in spread.items() if size < least_spread]
    codes[np.isin(donors, narrow)] = -1
    return codes


def _of_donor(values: np.ndarray, samples: np.ndarray, least: int) -> np.ndarray:
    codes = np.full(len(values), -1)
    rows = [np.flatnonzero(samples == name) for name in pd.unique(samples)]
    rows = [part for part in rows if _quantiles(values[part], _FEWEST_GROUPS, least) is not None]
    for n in range(_MOST_GROUPS, _FEWEST_GROUPS - 1, -1):
        parts = [_quantiles(values[part], n, least) for part in rows]
        whole = [part for part in parts if part is not None]
        if len(whole) == len(rows) and len({part.max() for part in whole}) == 1:
            for row, part in zip(rows, whole, strict=True):
                codes[row] = part
            break
    return codes


def _quantiles(values: np.ndarray, n: int, least: int) -> np.ndarray | None:
    """Group of each value, at most `n`; None where one is too small or there is one only."""
    _, place, size = np.unique(values, return_inverse=True, return_counts=True)
    middle = (np.cumsum(size) - size / 2) / len(values)
    group = np.unique((n * middle).astype(np.int64), return_inverse=True)[1][place]
    enough = group.max() > 0 and np.bincount(group).min() >= least
    return np.asarray(group) if enough else None


def outer(codes: np.ndarray, donors: np.ndarray, design: Design) -> np.ndarray:
    """1 for high cells, 0 for low ones, -1 for those between.

    Within donors of their outer groups; between them of donors whose number is above and below what
    their covariates say, by rank, so that these do not tell them apart.
    """
    if design.within:
        last = pd.Series(codes).groupby(donors).transform("max").to_numpy()
        return np.where(codes < 0, -1, np.where(codes == 0, 0, np.where(codes == last, 1, -1)))
    beside = design.fit.weights / np.abs(design.fit.weights).max()
    rank = pd.Series(beside.round(9), design.names).rank()  # ties are ties whatever the rounding
    of_cell = (rank - rank.mean()).reindex(donors).to_numpy()
    return np.where(of_cell > 0, 1, np.where(of_cell < 0, 0, -1))


def facts(design: Design, groupby: str) -> dict[str, str | float]:
    """The unit of a slope, and over which numbers it is."""
    by_donor = pd.Series(design.level).groupby(design.names) if design.within else None
    sd = by_donor.std(ddof=0).median() if by_donor is not None else design.level.std(ddof=1)
    unit = f"log2 fold change per 1 of {groupby}"
    low, high = float(design.level.min()), float(design.level.max())
    return {"unit": unit, "sd": float(sd), "low": low, "high": high}
