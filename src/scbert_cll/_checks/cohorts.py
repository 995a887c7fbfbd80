"""Checks of tables of patients: their files, names, times and events."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll._checks.people import donor_name
from scbert_cll._checks.words import choice, listed, unique

PER_YEAR: Final[dict[str, float]] = {"years": 1.0, "months": 12.0, "days": 365.25}

_LONGEST, _SHORTEST = 60.0, 0.1  # years, of the longest follow-up of a cohort
_OLDEST: Final = 120.0  # years, of a clock that is age
_IS_LIKELY: Final = 0.5  # years from which another unit is offered
_YES_NO: Final = {"0": 0, "1": 1, "FALSE": 0, "TRUE": 1, "F": 0, "T": 1}
_CLEARLY: Final = 1.96


def column_names(names: pd.Index, what: str) -> None:
    """No name of a column twice."""
    unique(names, f"Columns of {what}", "rename one of them")


def sample_names(names: pd.Index, what: str) -> None:
    """Every sample has a name, and no other has it."""
    if blank := int(sum(not str(name).strip() for name in names)):
        raise ValueError(f"{blank} samples of {what} have no name; name them or leave them out.")
    unique(names, f"Samples of {what}", "keep one sample of each patient")


def expression_numbers(table: pd.DataFrame, what: str) -> np.ndarray:
    """Numbers, or NaN where nothing was measured."""
    text = [
        name for name, dtype in table.dtypes.items() if not pd.api.types.is_numeric_dtype(dtype)
    ]
    if text:
        found = table[text[0]]
        bad = found[pd.to_numeric(found, errors="coerce").isna() & found.notna()]
        hint = (
            "these look like decimal commas, so write it with write.csv, not write.csv2, or pass "
            "pd.read_csv(path, decimal=',')"
        )
        if not bad.astype(str).str.fullmatch(r"-?\d+,\d+").all():
            hint = (
                "the first column holds the names, all others numbers, and a missing number is NA"
            )
        raise ValueError(
            f"{what} must hold numbers; {listed(text)} has e.g. {listed(bad, 3)}: {hint}."
        )
    values = table.to_numpy(dtype=np.float64)
    if np.isinf(values).any():
        infinite = table.columns[np.isinf(values).any(axis=0)]
        raise ValueError(
            f"{what} holds infinite values in {listed(infinite)}; the logarithm of zero? Add "
            f"1 before it is taken."
        )
    return values


def shared_samples(samples: pd.Index, others: pd.Index, clinical: pd.DataFrame, key: str) -> None:
    """Samples that are in both tables; if there are none, where they are."""
    if samples.isin(clinical.index).any():
        return
    if others.isin(clinical.index).any():
        hint = (
            "They are named in the other direction of the expression table: transpose=True (or "
            "not)."
        )
    else:
        n_found = {name: int(samples.isin(clinical[name].astype(str)).sum()) for name in clinical}
        best = max(n_found, key=lambda name: n_found[name], default="")
        hint = "Use the same names in both."
        if best and n_found[best]:
            hint = f"The column {best!r} has {n_found[best]} of them: sample_key={best!r}."
    raise ValueError(
        f"No sample is in both tables. The expression has {listed(samples, 3)}; {key!r} of "
        f"the clinical table has "
        f"{listed(clinical.index, 3)}. {hint}"
    )


def outcome_keys(
    time_key: str | None, event_key: str | None, entry_key: str | None, competing_key: str | None
) -> None:
    """A time has an event, and what needs them has them."""
    if time_key and not event_key:
        raise ValueError(
            f"time_key={time_key!r} needs event_key=: a time alone does not say whether the "
            f"event came or was not awaited."
        )
    for name, key in (("entry_key", entry_key), ("competing_key", competing_key)):
        if key and not time_key:
            raise ValueError(f"{name}={key!r} needs time_key= and event_key=.")
    keys = pd.Index([key for key in (time_key, event_key, entry_key, competing_key) if key])
    unique(keys, "The columns of the outcome", "name a column of its own for each")


def times(column: pd.Series, key: str) -> pd.Series:
    """Times as numbers from 0, NaN where there is none."""
    if pd.api.types.is_bool_dtype(column):
        raise ValueError(
            f"{key!r} must hold times as numbers, and holds True and False; is it the column "
            f"of the event?"
        )
    found = pd.to_numeric(column.astype(object), errors="coerce").astype(np.float64)
    if len(text := column[found.isna() & column.notna()]):
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
    if len(bad := found.index[(found < 0) | np.isinf(found)]):
        raise ValueError(
            f"{key!r} has {len(bad)} times that are negative or infinite: {listed(bad)} "
            f"(first {found[bad].iloc[0]:g}). Check the dates they come from."
        )
    return found


def plausible_times(
    found: pd.Series,
    key: str,
    unit: str,
    *,
    parameter: str = "unit",
    entry: pd.Series | None = None,
) -> None:
    """Times that can be what the unit says: patients are followed for five weeks to sixty years, and no clock counts more than 120.

    Without an entry the clock starts with the follow-up; with one it may be age.
    """
    choice(unit, list(PER_YEAR), parameter)
    followed = found if entry is None else found - entry
    most, longest = float(found.max()), float(followed.max())
    years = longest / PER_YEAR[unit]
    if np.isnan(years) or (_SHORTEST <= years <= _LONGEST and most / PER_YEAR[unit] <= _OLDEST):
        return
    likely = [u for u, n in PER_YEAR.items() if u != unit and _IS_LIKELY <= longest / n <= _LONGEST]
    hints = " or ".join(
        f"{parameter}={u!r} (then the longest is {longest / PER_YEAR[u]:.1f} years)"
        for u in reversed(likely)
    )
    smaller = (
        [u for u in likely if PER_YEAR[u] > PER_YEAR[unit]] if parameter == "time_unit" else []
    )
    made = " or ".join(
        f"of {u} adata.obs[{key!r}] / {PER_YEAR[u] / PER_YEAR[unit]:g}" for u in reversed(smaller)
    )
    raise ValueError(
        f"{key!r} does not look like {unit}: median {found.median():g}, maximum {most:g}"
        f"{'' if entry is None else f', followed for {longest:g} at most'}, that is "
        f"{years:.3g} years. "
        f"{hints + '?' if hints else 'Check the dates it comes from.'}{f' Or make them {unit}: {made}.' if made else ''}"
    )


def own_unit(adata: AnnData, key: str, unit: str) -> None:
    """Times that a reader has brought to years are not called anything else because their column is."""
    read = adata.uns.get("cohort", {}).get("params", {})
    brought = {
        str(read[name]).replace("/", "_") for name in ("time_key", "entry_key") if name in read
    }
    if unit != "years" and key in brought:
        raise ValueError(
            f"datasets.read_cohort has brought {key!r} from {read.get('unit', 'years')} to "
            f"years, so it holds no {unit}: leave time_unit= out. "
            f"To have {unit}, multiply: adata.obs['{key}, {unit}'] = adata.obs[{key!r}] * "
            f"{PER_YEAR[unit]:g}, and name that column."
        )


def in_order(entry: pd.Series, time: pd.Series, entry_key: str, time_key: str) -> None:
    """Nobody leaves before entering."""
    if len(late := entry.index[entry > time]):
        raise ValueError(
            f"{len(late)} patients leave ({time_key!r}) before they enter ({entry_key!r}): "
            f"{listed(late)}. Both must count from the same day "
            "and in the same unit."
        )


def one_end(event: pd.Series, competing: pd.Series, event_key: str, competing_key: str) -> None:
    """Follow-up ends with the first of two events."""
    if len(both := event.index[(event == 1) & (competing == 1)]):
        raise ValueError(
            f"{len(both)} patients have both {event_key!r} and {competing_key!r}: "
            f"{listed(both)}. Follow-up ends with the first of the two; "
            "set the other to 0."
        )


def event_meanings(values: Any) -> dict[str, int] | None:
    """What the words of a file mean: 0 or 1."""
    if values is None:
        return None
    if not isinstance(values, Mapping) or not values or not set(values.values()) <= {0, 1}:
        raise ValueError(
            f"event_values must map the file's words to 0 (censored) or 1 (event), e.g. "
            f"{{'dead': 1, 'alive': 0}}; found {values!r}."
        )
    return {_word(word): int(meaning) for word, meaning in values.items()}


def events(column: pd.Series, key: str, meanings: Mapping[str, int] | None) -> pd.Series:
    """Events as 0 and 1, NaN where it is not known."""
    present = column.dropna()
    words = present.astype(object).map(_word)
    known = _YES_NO if meanings is None else meanings
    found = words.map(
        lambda word: known.get(word.upper() if meanings is None else word, np.nan)
    ).astype(np.float64)
    if found.isna().any():
        bad = words[found.isna()]
        hint = "say what they mean: event_values={'dead': 1, 'alive': 0}"
        if set(words) <= {"1", "2"}:
            hint = "if they are R's (2 is the event): event_values={1: 0, 2: 1}"
        elif meanings is not None:
            hint = "add them to event_values, or make them missing"
        raise ValueError(
            f"{key!r} must be 0 (censored) or 1 (event); found {listed(bad.unique())}, e.g. "
            f"in {listed(bad.index, 3)}: {hint}."
        )
    return found.reindex(column.index)


def are_plain(column: pd.Series) -> bool:
    """Whether a column says 0 and 1, or TRUE and FALSE."""
    return {_word(value).upper() for value in column.dropna()} <= set(_YES_NO)


def _word(value: Any) -> str:
    """A word as text; 1.0, 1 and '1' are one word."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).upper()
    return donor_name(value)


def has_columns(table: pd.DataFrame, needed: Collection[str], what: str, remedy: str) -> None:
    """A table that holds what is needed."""
    if missing := [name for name in needed if name not in table]:
        raise KeyError(
            f"{what} has no column {listed(missing)}; it has {listed(table.columns, 12)}. {remedy}"
        )


def ighv_words(column: pd.Series) -> pd.Series:
    """Mutated or unmutated, in whatever words."""
    meanings = {
        "1": "mutated",
        "M": "mutated",
        "MUTATED": "mutated",
        "0": "unmutated",
        "U": "unmutated",
        "UNMUTATED": "unmutated",
    }
    words = column.dropna().astype(object).map(lambda value: _word(value).upper())
    if unknown := sorted(set(words) - set(meanings)):
        raise ValueError(
            f"IGHV must be 1 (mutated) or 0 (unmutated), or M and U; found {listed(unknown)}."
        )
    return words.map(meanings).reindex(column.index)


def ighv_direction(mutated: pd.Series, time: pd.Series, event: pd.Series) -> None:
    """Patients with mutated IGHV are treated later.

    The opposite, and clearly so, is a table with its words exchanged.
    """
    known = mutated.notna() & time.notna() & event.notna()
    sums = [
        (event[known & (mutated == word)].sum(), time[known & (mutated == word)].sum())
        for word in ("mutated", "unmutated")
    ]
    (events_m, years_m), (events_u, years_u) = sums
    if min(events_m, events_u, years_m, years_u) <= 0:
        return
    ratio = (events_m / years_m) / (events_u / years_u)
    if np.log(ratio) / np.sqrt(1 / events_m + 1 / events_u) > _CLEARLY:
        raise ValueError(
            f"IGHV looks exchanged: patients called mutated are treated {ratio:.1f} times as "
            f"often a year as the unmutated ({events_m:.0f} and "
            f"{events_u:.0f} events), and they are known to be treated later. In mofaCLL 1 is "
            f"mutated."
        )
