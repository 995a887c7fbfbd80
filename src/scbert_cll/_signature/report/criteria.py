"""The criteria of a signature report: one row per criterion and subject, and how they are read.

A user knows them as the *gates* of the report.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

YES, NO, NOT_RUN, INFORMATION = "yes", "no", "not run", "information"
LEVEL: Final = 0.05
SIGNATURE, ATTENTION, ABUNDANCE = "signature", "attention", "abundance"  # subjects
SUFFICIENCY, COMPREHENSIVENESS = "sufficiency", "comprehensiveness"
PERMUTED, STABILITY = "permuted labels", "stability"
CHROMOSOME, FAMILIES, CONTAMINATION = "chromosome 12", "families", "other cells"
SETS, REFERENCE = "gene sets", "reference genes"
NUMBERS: Final = ("value", "low", "high", "null", "null_high", "p")
_COUNTED: Final = (PERMUTED, SETS, CONTAMINATION)


class Criterion(NamedTuple):
    """A number with 95 % limits, the same where nothing is, the rule, and whether it is met."""

    gate: str  # its name
    subject: str
    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    null: float = np.nan  # mean
    null_high: float = np.nan  # 95 %
    p: float = np.nan
    rule: str = ""
    passed: str = NOT_RUN
    note: str = ""


class Null(NamedTuple):
    """Mean and 95 % point of a null, and the p of a value against it."""

    mean: float
    high: float
    p: float


def against(value: float, null: np.ndarray) -> Null:
    """A value against those of a null; it counts as one of them.

    Phipson and Smyth 2010, doi:10.2202/1544-6115.1585.
    """
    p = (1 + (null >= value).sum()) / (1 + len(null))
    return Null(float(null.mean()), float(np.quantile(null, 0.95)), float(p))


def verdict(passed: bool) -> str:
    """Whether a rule is met, as a word."""
    return YES if passed else NO


def table(criteria: Iterable[Criterion]) -> pd.DataFrame:
    """One row per criterion and subject; the index is text, as a file needs it."""
    rows = pd.DataFrame(list(criteria), columns=Criterion._fields).rename(index=str)
    return rows.astype(dict.fromkeys(NUMBERS, np.float64))


def markdown(gates: pd.DataFrame) -> list[str]:
    """A row per criterion, a column per subject; below, the notes."""
    subjects = list(dict.fromkeys(gates["subject"]))
    lines = [f"| gate | {' | '.join(subjects)} | passes if |"]
    lines.append("|" + " --- |" * (len(subjects) + 2))
    for name, rows in gates.groupby("gate", sort=False):
        by_subject = {row["subject"]: _cell(row) for _, row in rows.iterrows()}
        cells = [by_subject.get(subject, "") for subject in subjects]
        rule = next((text for text in rows["rule"] if text), "")
        lines.append(f"| {name} | {' | '.join(cells)} | {rule} |")
    notes = []
    for note, rows in gates[gates["note"] != ""].groupby("note", sort=False):
        names, who = (", ".join(rows[key].unique()) for key in ("gate", "subject"))
        notes.append(f"- {names} ({who}): {note}")
    return [*lines, "", *notes] if notes else lines


def _cell(row: pd.Series) -> str:
    """Verdict and number, with its null."""
    if row["passed"] == NOT_RUN:
        return NOT_RUN
    gate = str(row["gate"])
    null = [f"null {short(row['null'], gate)}"] if np.isfinite(row["null"]) else []
    null += [f"p {row['p']:.2g}"] if np.isfinite(row["p"]) else []
    word = {YES: "yes", NO: "**no**"}.get(row["passed"], "")
    number = short(row["value"], gate) + (f" ({', '.join(null)})" if null else "")
    return f"{word} {number}".strip()


def short(value: float, gate: str = "") -> str:
    """Two decimals; numbers of genes and sets as they are, means of them with three digits."""
    if np.isnan(value):
        return "undefined"
    if gate in _COUNTED:
        return f"{value:.3g}"
    return f"{value:.2f}".replace("-0.00", "0.00")
