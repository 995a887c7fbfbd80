"""Names of genes that a spreadsheet turned into dates: 1-Mar, Sep-02, 2023-03-01, 44256."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterable
from datetime import date, timedelta
from typing import Final

import numpy as np

from scbert_cll._checks.words import listed
from scbert_cll._gene_names import table

# beginnings of symbols, former ones too, that a spreadsheet takes for days of a month
_SYMBOLS: Final = {
    3: ("MARCH", "MARC"),
    9: ("SEPT",),
    10: ("OCT",),
    11: ("NOV",),
    12: ("DEC",),
}
# English and German
_MONTHS: Final = [
    "jan",
    "feb",
    "mar",
    "apr",
    "may",
    "jun",
    "jul",
    "aug",
    "sep",
    "oct",
    "nov",
    "dec",
]
_GERMAN: Final = {"mär": "mar", "mrz": "mar", "mai": "may", "okt": "oct", "dez": "dec"}
_WORD: Final = rf"(?P<word>{'|'.join([*_MONTHS, *_GERMAN])})[a-zä]{{0,6}}\.?"
_DATES: Final = [
    re.compile(pattern, re.I)
    for pattern in (
        rf"(?P<day>\d{{1,2}})\.?[-/ ]{_WORD}(?:[-/ .]\d{{1,4}})?",  # or make_unique
        rf"(?!(?-i:[A-ZÄ]{{3}})){_WORD}[-/ ](?P<day>\d{{1,2}})(?:[-.]\d)?",  # OCT-4 is a gene
        r"\d{4}-(?P<month>\d\d?)-(?P<day>\d\d?)(?:[T ][0:]+)?",
        r"(?P<day>\d\d?)\.(?P<month>\d\d?)\.(?:\d{4}|\d\d)?",
        r"(?P<month>\d\d?)/(?P<day>\d\d?)/(?:\d{4}|\d\d)",
    )
]
_SERIAL: Final = re.compile(r"([34]\d{4})(?:\.0)?")  # of a day between 1982 and 2036
_DAY_0: Final = date(1899, 12, 30)
_MOST_NUMBERS: Final = 0.05  # of all names; where more are numbers, they are ids


def look_like_dates(names: Collection[str]) -> np.ndarray:
    """Which names are dates, and no names of genes."""
    are_numbers = np.array([_SERIAL.fullmatch(name) is not None for name in names], dtype=bool)
    has_ids = are_numbers.mean() > _MOST_NUMBERS if len(names) else False
    are_days = [day_of(name) is not None for name in names]
    return np.array(are_days, dtype=bool) & ~(are_numbers & has_ids)


def day_of(name: str) -> tuple[int, int] | None:
    """Month and day of a name that is a date."""
    if not name[:1].isalnum() or name in table.shipped().approved:
        return None
    if serial := _SERIAL.fullmatch(name):
        day = _DAY_0 + timedelta(days=int(serial[1]))
        return day.month, day.day
    for pattern in _DATES:
        if match := pattern.fullmatch(name):
            groups = match.groupdict()
            word = (groups.get("word") or "").lower()
            month = _MONTHS.index(_GERMAN.get(word, word)) + 1 if word else int(groups["month"])
            if 1 <= month <= 12 and 1 <= int(groups["day"]) <= 31:
                return month, int(groups["day"])
    return None


def with_symbols(name: str) -> str:
    """The name, with the symbols that a spreadsheet may have made it of."""
    month, day = day_of(name) or (0, 0)
    approved = table.shipped().approved
    symbols = [f"{stem}{day}" for stem in _SYMBOLS.get(month, ()) if f"{stem}{day}" in approved]
    return f"{name} ({' or '.join(symbols)})" if symbols else name


def warn_of_dates(names: Iterable[str], stacklevel: int = 3) -> None:
    """Tell of genes that were lost to a spreadsheet."""
    if dates := list(map(with_symbols, names)):
        warnings.warn(
            f"{len(dates)} genes are left out, since a spreadsheet turned their names into dates: "
            f"{listed(dates)}. Take the names from the file that it was opened from.",
            stacklevel=stacklevel,
        )
