"""What a signature has to pass: one row per gate and ranking, and how it is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import pandas as pd

YES, NO, NOT_RUN, INFORMATION = "yes", "no", "not run", "information"
LEVEL: Final = 0.05
PERMUTED, STABILITY = "permuted labels", "stability"
CHROMOSOME, FAMILIES, SETS, REFERENCE = "chromosome 12", "families", "gene sets", "reference genes"
CONTAMINATION = "other cells"
_COUNTED: Final = (PERMUTED, SETS, CONTAMINATION)


class Numbers(NamedTuple):
    """A number with its 95 % limits, and what it is where nothing is."""

    value: float
    low: float = np.nan
    high: float = np.nan
    null: float = np.nan  # mean
    null_high: float = np.nan  # 95 %
    p: float = np.nan


class Gate(NamedTuple):
    """A number, what it is where nothing is, by which rule it passes, and whether it does."""

    gate: str
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

    @classmethod
    def of(
        cls,
        gate: str,
        subject: str,
        numbers: Numbers,
        rule: str,
        *,
        passed: bool | None,
        note: str = "",
    ) -> Gate:
        """A gate that was run; `passed` is None where there is no rule."""
        word = INFORMATION if passed is None else YES if passed else NO
        value, low, high, null, null_high, p = map(float, numbers)
        return cls(gate, subject, value, low, high, null, null_high, p, rule, word, note)


def table(gates: Iterable[Gate]) -> pd.DataFrame:
    """One row per gate and subject; the index is text, as a file needs it."""
    return pd.DataFrame(list(gates), columns=Gate._fields).rename(index=str)


def not_run(gate: str, subjects: Sequence[str], why: str) -> list[Gate]:
    """The same gate for several subjects, none of which could be looked at."""
    return [Gate(gate, subject, note=why) for subject in subjects]


def p_of(value: float, null: np.ndarray) -> float:
    """Chance to be as large in the null, the value itself counted among them (Phipson and Smyth 2010, doi:10.2202/1544-6115.1585)."""
    return float((1 + (null >= value).sum()) / (1 + len(null)))


def high_of(null: np.ndarray) -> float:
    """Value that 95 % of the null do not exceed."""
    return float(np.quantile(null, 0.95)) if len(null) else float("nan")


def markdown(gates: pd.DataFrame) -> list[str]:
    """A row per gate, a column per subject; below, what the numbers are."""
    subjects = list(dict.fromkeys(gates["subject"]))
    lines = [f"| gate | {' | '.join(subjects)} | passes if |", "|" + " --- |" * (len(subjects) + 2)]
    for name, rows in gates.groupby("gate", sort=False):
        by = rows.set_index("subject", drop=False)
        cells = [_cell(by.loc[subject]) if subject in by.index else "" for subject in subjects]
        rule = next((text for text in rows["rule"] if text), "")
        lines.append(f"| {name} | {' | '.join(cells)} | {rule} |")
    said = gates[gates["note"] != ""].groupby("note", sort=False)
    notes = [
        f"- {', '.join(dict.fromkeys(r['gate']))} ({', '.join(dict.fromkeys(r['subject']))}): {n}"
        for n, r in said
    ]
    return [*lines, "", *notes] if notes else lines


def _cell(row: pd.Series) -> str:
    """Verdict and number, with what it is under the null."""
    if row["passed"] == NOT_RUN:
        return NOT_RUN
    gate = str(row["gate"])
    beside = [f"null {short(row['null'], gate)}"] if np.isfinite(row["null"]) else []
    beside += [f"p {row['p']:.2g}"] if np.isfinite(row["p"]) else []
    word = {YES: "yes", NO: "**no**"}.get(row["passed"], "")
    return (
        f"{word} {short(row['value'], gate)}{f' ({", ".join(beside)})' if beside else ''}".strip()
    )


def short(value: float, gate: str = "") -> str:
    """Two decimals; numbers of genes and sets as they are, means of them with three digits."""
    if np.isnan(value):
        return "undefined"
    if gate in _COUNTED:
        return f"{value:.3g}"
    return f"{value:.2f}".replace("-0.00", "0.00")
