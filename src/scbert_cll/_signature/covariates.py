"""Covariates of a signature: read, written as columns, and refused where no model can have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from pandas.api import types
from scipy import stats

from scbert_cll._checks import adata as checks
from scbert_cll._checks.people import categories_of
from scbert_cll._checks.words import column_names, listed
from scbert_cll._signature.design import Design
from scbert_cll._signature.moderated import Fit

_INFLATED: Final = 10.0  # variance of the effect, times that without the covariates
_MOST_WORDS: Final = 10  # that are numbers and may still be levels
_SATURATED: Final = 1 - 1e-6  # leverage of a donor that is fitted exactly
_CLEAR: Final = 0.05  # p of an association that is named


class Covariates(NamedTuple):
    """Numbers and categoricals of cells, those that cancel, and donors without a value, by name."""

    values: pd.DataFrame
    cancelled: list[str]
    missing: dict[str, list[str]]


def read(
    adata: AnnData, keys: Sequence[str], donors: pd.Series, rows: np.ndarray, design: str
) -> Covariates:
    """Columns of `obs` for the cells in `rows`, as far as the design has use for them."""
    values, cancelled, missing = {}, [], {}
    donor = donors.iloc[rows].to_numpy()
    for key in column_names(keys, "covariates"):
        column = _numbers_or_levels(checks.obs_column(adata, key), key).iloc[rows]
        if column.nunique() < 2:
            raise ValueError(
                f"The covariate {key!r} is the same in all donors ({listed(column.unique())}). "
                "Leave it out of covariates."
            )
        varies = column.groupby(donor, observed=True).nunique() > 1
        if not varies.any() and design == "within":
            cancelled.append(key)
            continue
        if varies.any() and design == "between":
            raise ValueError(
                f"The covariate {key!r} varies within donors ({listed(varies.index[varies])}), and "
                "design='between' has one value of each. Leave it out of covariates, or compare "
                "within donors: design='within'."
            )
        values[key] = column
        if column.isna().any():
            missing[key] = sorted(set(donor[column.isna()]))
    if len(values) + len(cancelled) < len(keys):
        raise ValueError(f"Covariates are named twice: {listed(keys)}.")
    frame = pd.DataFrame(values, index=donors.index[rows])
    complete = ~np.isin(donor, [name for names in missing.values() for name in names])
    if not complete.any():
        counts = ", ".join(f"{key!r} in {len(names)}" for key, names in missing.items())
        raise ValueError(f"No donor has a value of every covariate: missing are {counts}.")
    check_values(frame[complete], donor[complete])
    return Covariates(frame, cancelled, missing)


def _numbers_or_levels(column: pd.Series, key: str) -> pd.Series:
    """A column as numbers or as a categorical of text."""
    column = column.infer_objects()
    if types.is_numeric_dtype(column) and not types.is_bool_dtype(column):
        numbers = column.astype("Float64").to_numpy(np.float64, na_value=np.nan)
        if np.isinf(numbers).any():
            where = listed(column.index[np.isinf(numbers)])
            raise ValueError(
                f"The covariate {key!r} is infinite in {where}; make it missing (NaN)."
            )
        return pd.Series(numbers, column.index)
    levels = categories_of(column)
    names = levels.cat.categories
    numbers = pd.to_numeric(pd.Series(names.to_numpy()), errors="coerce").to_numpy(np.float64)
    is_word, n = np.isnan(numbers), len(names)
    are_levels = not is_word.any() and (numbers % 1 == 0).all() and n <= _MOST_WORDS
    if not levels.cat.ordered and n > 2 and 2 * is_word.sum() < n and not are_levels:
        strange = names[is_word] if is_word.any() else names
        raise ValueError(
            f"The covariate {key!r} has words where numbers are meant: {listed(strange)}. Make it "
            f"numbers, in which words are missing: adata.obs[{key!r}] = "
            f"pd.to_numeric(adata.obs[{key!r}].astype(str), errors='coerce')."
        )
    return levels


def encoded(values: pd.DataFrame) -> pd.DataFrame:
    """Columns of a model, by covariate: numbers as they are, levels but the first as 0 or 1.

    Ordered levels have as many columns as others, since polynomials span the same.
    """
    parts = {
        key: pd.get_dummies(column, drop_first=True, dtype=np.float64)
        if isinstance(column.dtype, pd.CategoricalDtype)
        else column.to_frame("")
        for key, column in values.items()
    }
    empty = pd.DataFrame(
        np.empty((len(values), 0)), values.index, pd.MultiIndex.from_arrays([[], []])
    )
    return pd.concat(parts, axis=1) if parts else empty


def check_values(values: pd.DataFrame, donors: np.ndarray, which: str = "") -> None:
    """Refuse what is the same in all donors, and levels of a single donor."""
    n = len(set(donors))
    for key, column in values.items():
        by_donor = column.groupby(donors, observed=True).apply(
            lambda part: frozenset(part.dropna())
        )
        levels = pd.Series([level for of_donor in by_donor for level in of_donor]).value_counts()
        if len(levels) < 2:
            raise ValueError(
                f"The covariate {key!r} is the same in all {n} donors{which} "
                f"({listed(levels.index)}). Leave it out of covariates."
            )
        is_number = types.is_numeric_dtype(column) and len(levels) > 2
        if not is_number and len(single := levels.index[levels < 2]):
            whose = [str(name) for name, part in by_donor.items() if single[0] in part]
            raise ValueError(
                f"The covariate {key!r} has levels that only one donor{which} has: "
                f"{listed(single)} ({listed(whose)}), and nothing tells them from the donor. Merge "
                "levels, or make them missing (NaN), which leaves the donor out."
            )


def check_model(
    design: Design, names: pd.Index, values: pd.DataFrame, classes: np.ndarray | pd.Series
) -> None:
    """Refuse covariates that cannot be told from the class, or number, or from each other.

    `names` has the covariate of each column of the model, `values` and `classes` what stands in the
    cross-tables: donors between them, cells within.
    """
    first = 0 if design.within else 1
    columns, tested = design.columns, None if design.within else 0
    of = {key: np.flatnonzero(names == key) + first for key in dict.fromkeys(names)}
    plain = [] if design.within else [0]
    least = _weights(columns[:, plain], tested)
    inflation = {
        key: _weights(columns[:, [*plain, *part]], tested) / least for key, part in of.items()
    }
    together = _weights(columns, tested) / least
    if inflation and max(*inflation.values(), together) > _INFLATED:
        key = max(inflation, key=lambda name: inflation[name])
        alone = inflation[key] > _INFLATED
        how = "cannot" if np.isinf(max(inflation[key], together)) else "can hardly"
        raise ValueError(
            f"The covariate{'' if alone else 's'} {listed([key] if alone else of)} {how} be told "
            f"from {_what(design)}{_times(inflation[key] if alone else together)}: "
            f"{cross_table(classes, values[key])}. Leave {'it' if alone else 'one'} out of "
            "covariates, or add donors in which the two differ."
        )
    _check_among(columns, of, values)
    _check_single_donors(design, of, values, classes)


def _what(design: Design) -> str:
    return "the class" if design.number is None else "the number"


def _times(inflation: float) -> str:
    return f" (variance {inflation:.3g} times as large)" if np.isfinite(inflation) else ""


def _weights(columns: np.ndarray, tested: int | None) -> float:
    """Variance of the effect per residual variance; infinite where it cannot be told."""
    fit = Fit.of(np.zeros((len(columns), 1)), columns, tested)
    return float(fit.weights @ fit.weights) if fit.estimable else np.inf


def _check_among(columns: np.ndarray, of: Mapping[str, np.ndarray], values: pd.DataFrame) -> None:
    for key, part in of.items():
        others = {name: of[name] for name in of if name != key}
        for column in part:
            least = _weights(columns[:, [column]], 0)
            alone = {
                name: _weights(columns[:, [column, *other]], 0) / least
                for name, other in others.items()
            }
            all_others = np.concatenate([[column], *others.values()]).astype(int)
            every = _weights(columns[:, all_others], 0) / least
            if np.isfinite(least) and every > _INFLATED:
                nearest = max(alone, key=lambda name: alone[name])
                raise ValueError(
                    f"The covariates {listed([key, nearest])} can hardly be told from each other"
                    f"{_times(every)}: {cross_table(values[nearest], values[key])}. Leave one out."
                )


def _check_single_donors(
    design: Design,
    of: Mapping[str, np.ndarray],
    values: pd.DataFrame,
    classes: np.ndarray | pd.Series,
) -> None:
    """Refuse an effect that one donor alone tells from the covariates."""
    columns, tested = design.columns, None if design.within else 0
    centred = columns - columns.mean(axis=0)
    leverage = 1 / len(columns) + (centred * np.linalg.pinv(centred).T).sum(axis=1)
    for row in np.flatnonzero(leverage > _SATURATED):
        others = np.delete(columns, row, axis=0)
        if of and np.isinf(_weights(others, tested)):
            tables = "; ".join(f"{key}: {cross_table(classes, values[key])}" for key in of)
            raise ValueError(
                f"Only the donor {str(design.donors[row])!r} tells {_what(design)} from the "
                f"covariates {listed(of)} ({tables}). Leave one out of covariates, or add such "
                "donors."
            )


def cross_table(rows: pd.Series | np.ndarray, column: pd.Series) -> str:
    """How often levels occur together, the range of numbers, or their correlation, in words."""
    if isinstance(rows, pd.Series) and types.is_numeric_dtype(rows):
        if not types.is_numeric_dtype(column):
            return cross_table(column, rows)
        return f"correlation {rows.corr(column):.3g}"
    groups = column.groupby(np.asarray(rows).astype(str))
    if types.is_numeric_dtype(column):
        return "; ".join(f"{name}: {part.min():.4g} to {part.max():.4g}" for name, part in groups)
    counts = ((name, part.value_counts(sort=False)) for name, part in groups)
    return "; ".join(
        f"{name}: " + ", ".join(f"{level} {n}" for level, n in count.items())
        for name, count in counts
    )


def associated(adata: AnnData, donors: pd.Series, last: pd.Series, taken: set[str]) -> list[str]:
    """Columns of `obs`, one value per donor, that go with the class over donors; the closest first.

    `last` is whether a donor, by name, is of the last class; or it is the donor's number.
    """
    columns = []
    obs = cast("pd.DataFrame", adata.obs)[donors.isin(last.index).to_numpy()]
    donor = donors[donors.isin(last.index)].to_numpy()
    for key in [key for key in obs if key not in taken]:
        by_donor = obs[key].groupby(donor, observed=True)
        if (by_donor.nunique(dropna=False) > 1).any():
            continue
        column = by_donor.first().reindex(last.index).infer_objects()
        is_number = types.is_numeric_dtype(column) and not types.is_bool_dtype(column)
        has_value, n_levels = column.notna(), column.nunique()
        if n_levels < 2 or (not is_number and 2 * n_levels > has_value.sum()):
            continue
        values = column[has_value].astype(np.float64 if is_number else str).to_frame()
        if not is_number:
            values = pd.get_dummies(values, drop_first=True, dtype=np.float64)
        x, y = values.to_numpy(np.float64), last[has_value].to_numpy(np.float64)
        x, y = x - x.mean(axis=0), y - y.mean()
        share = float(((x @ (np.linalg.pinv(x) @ y)) ** 2).sum() / max((y**2).sum(), 1e-12))
        if stats.chi2.sf(len(y) * share, np.linalg.matrix_rank(x)) < _CLEAR:
            measure = "correlation" if is_number or last.dtype != bool else "Cramér's V"
            columns.append((share, f"{key!r} ({measure} {share**0.5:.2f})"))
    return [text for _, text in sorted(columns, reverse=True)]
