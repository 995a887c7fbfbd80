"""Events of patients in the words of a file: 0 or 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from scbert_cll._checks.people import donor_name
from scbert_cll._checks.words import listed

_YES_NO: Final = {"0": 0, "1": 1, "FALSE": 0, "TRUE": 1, "F": 0, "T": 1}


def event_meanings(values: Any) -> dict[str, int] | None:
    """The meaning of each word of a file, as a user gives it: 0 or 1."""
    if values is None:
        return None
    if not isinstance(values, Mapping) or not values or not set(values.values()) <= {0, 1}:
        raise ValueError(
            "event_values must map the file's words to 0 (censored) or 1 (event), e.g. "
            f"{{'dead': 1, 'alive': 0}}; found {values!r}."
        )
    return {word_of(word): int(meaning) for word, meaning in values.items()}


def events(column: pd.Series, key: str, meanings: Mapping[str, int] | None = None) -> pd.Series:
    """Events as 0 and 1, NaN where they are unknown; 0/1, TRUE/FALSE and T/F without `meanings`."""
    words = column.dropna().astype(object).map(word_of)
    codes = words.str.upper().map(_YES_NO) if meanings is None else words.map(meanings)
    if len(bad := words[codes.isna()]):
        hint = "say what they mean: event_values={'dead': 1, 'alive': 0}"
        if set(words) <= {"1", "2"}:
            hint = "if they are R's (2 is the event): event_values={1: 0, 2: 1}"
        elif meanings is not None:
            hint = "add them to event_values, or make them missing"
        raise ValueError(
            f"{key!r} must be 0 (censored) or 1 (event); found {listed(bad.unique())}, e.g. in "
            f"{listed(bad.index, 3)}: {hint}."
        )
    return codes.astype(np.float64).reindex(column.index).rename(key)


def are_plain(column: pd.Series) -> bool:
    """Whether a column says 0 and 1, or TRUE and FALSE."""
    return {word_of(value).upper() for value in column.dropna()} <= set(_YES_NO)


def word_of(value: Any) -> str:
    """A value as text; 1.0, 1 and '1' are one word."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value)).upper()
    return donor_name(value)
