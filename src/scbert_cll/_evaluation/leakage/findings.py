"""The findings of the leakage audit: what was looked at, what it means, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import norm

from scbert_cll import _checks, _keys
from scbert_cll._evaluation.leakage import duplicates as leakage_duplicates

type Status = Literal["leak", "warning", "ok", "cannot tell"]

CELL_COLUMNS = ("check", "cell", "part", "twin", "twin_part", "value")
_FEW_COUNTS = 20  # two different cells with so few counts may be equal by chance
_RATIO = 0.5  # of the distance to the 20th neighbour; different cells of the toy data are above .67
_N_NAMED = 10
_PAIRS = ((_keys.TRAIN, _keys.TEST), (_keys.TRAIN, _keys.VAL), (_keys.VAL, _keys.TEST))
_KEEP_TOGETHER = (
    "Remove them from all parts but one, or split again with all copies of a cell in one part"
)


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    check: str
    status: Status
    meaning: str
    value: float = float("nan")
    n: int = 0
    offenders: str = ""


@dataclass(frozen=True)
class Cells:
    """What the checks look at."""

    names: np.ndarray
    parts: np.ndarray  # train, val, test, or missing
    matrix: sparse.csr_matrix

    def at(self, part: str) -> np.ndarray:
        """Positions of a part."""
        return np.flatnonzero(self.parts == part)


def table(findings: Sequence[Finding]) -> pd.DataFrame:
    """One row per finding, as it is written to a file."""
    columns = ["check", "status", "value", "n", "offenders", "meaning"]
    found = pd.DataFrame([vars(f) for f in findings], columns=columns)
    return found.set_axis(found.index.astype(str))


def no_cells() -> pd.DataFrame:
    """Table of named cells, empty."""
    return pd.DataFrame(
        {c: pd.Series(dtype=float if c == "value" else object) for c in CELL_COLUMNS}
    )


def exact(cells: Cells) -> tuple[Finding, pd.DataFrame]:
    """Equal profiles in two parts."""
    check, keys = "exact duplicates", leakage_duplicates.profile_hashes(cells.matrix)
    found = _across(check, keys, cells)
    tested = cells.at(_keys.TEST)
    n_test = _n_in_test(found)
    share = n_test / len(tested)
    if found.empty:
        return Finding(check, "ok", "No two parts hold the same expression profile.", share), found
    totals = np.asarray(cells.matrix[found["at"].to_numpy()].sum(axis=1)).ravel()
    if (totals < _FEW_COUNTS).all():
        meaning = (
            f"Profiles of fewer than {_FEW_COUNTS} counts are equal by chance, too. Remove such "
            f"shallow cells."
        )
        return Finding(check, "warning", meaning, share, len(found), _named(found)), found
    meaning = (
        f"{n_test} of {len(tested)} test cells are known from another part, so the score rewards "
        f"memory. {_KEEP_TOGETHER}."
    )
    if not n_test:
        meaning = f"Training cells validate, so a training stops too late. {_KEEP_TOGETHER}."
    return Finding(check, _status(found), meaning, share, len(found), _named(found)), found


def names(cells: Cells) -> tuple[Finding, pd.DataFrame]:
    """Names that differ by the suffix of a resampling only, in two parts."""
    check = "repeated names"
    base, sure = leakage_duplicates.resampled_from([str(name) for name in cells.names])
    found = _across(check, base, cells)
    share = _n_in_test(found) / len(cells.at(_keys.TEST))
    if found.empty:
        return Finding(
            check, "ok", "No name occurs in two parts with another suffix.", share
        ), found
    by_base = pd.Series(sure).groupby(base).any()
    if not by_base[base[found["at"]]].any():
        meaning = (
            "Names made unique by a number: copies of a cell, or libraries that share a "
            "barcode. If exact duplicates are "
            "none it is the latter; put the library into the name."
        )
        return Finding(check, "warning", meaning, share, len(found), _named(found)), found
    meaning = (
        "Cells and what was made from them by resampling lie in two parts: split first, then "
        "balance (pp.balance)."
    )
    return Finding(check, _status(found), meaning, share, len(found), _named(found)), found


def near(
    cells: Cells, log: sparse.csr_matrix, known: pd.DataFrame, alpha: float, seed: int
) -> tuple[Finding, pd.DataFrame]:
    """Test cells that are nearer to a training cell than two different cells are.

    `known` are the exact duplicates.
    """
    check, train = "near duplicates", cells.at(_keys.TRAIN)
    test = np.setdiff1d(
        cells.at(_keys.TEST), known.loc[known["part"] == _keys.TEST, "at"].to_numpy(dtype=np.intp)
    )
    if not len(test) or len(train) < 3 or log.shape[1] < 3:
        meaning = (
            f"{len(test)} test cells without a twin, {len(train)} training cells and "
            f"{log.shape[1]} genes are too few to compare."
        )
        return Finding(check, "cannot tell", meaning), no_cells()
    neighbors = leakage_duplicates.nearest(log, train, test, seed)
    if _checks.counts.are_whole(cells.matrix.data):
        value, close, blind, usual = _closer_than_noise(
            cells.matrix, test, neighbors, alpha, len(train)
        )
    else:
        value, close, blind, usual = _closer_than_usual(log, test, neighbors)
    found = _twin_table(check, cells, test[close], neighbors[close, 0]).assign(value=value[close])
    return _near_finding(check, found, len(cells.at(_keys.TEST)), usual, blind=blind), found


def _near_finding(
    check: str, found: pd.DataFrame, n_test: int, usual: str, *, blind: bool
) -> Finding:
    share = len(found) / n_test
    if found.empty and blind:
        meaning = (
            f"The cells have so few counts that even a copy could not be told from another cell. "
            f"{usual}"
        )
        return Finding(check, "cannot tell", meaning, share)
    if found.empty:
        return Finding(
            check,
            "ok",
            f"No test cell is nearer to a training cell than different cells are. {usual}",
            share,
        )
    meaning = (
        f"{len(found)} of {n_test} test cells are training cells with a little change, as "
        f"SMOTE or jitter makes them. {usual} "
        "Split first, then balance the training cells."
    )
    return Finding(check, "leak", meaning, share, len(found), _named(found))


def _closer_than_noise(
    counts: sparse.csr_matrix, test: np.ndarray, neighbors: np.ndarray, alpha: float, n_train: int
) -> tuple[np.ndarray, np.ndarray, bool, str]:
    """Counts: below the noise of counting, beyond what the best of all pairs would show by chance."""
    pairs = leakage_duplicates.counting_noise(counts[test], counts[neighbors[:, 0]])
    limit = -float(norm.isf(alpha / (len(test) * n_train)))
    noise = pairs["noise"].to_numpy()
    close = ((pairs["z"] < limit) & (pairs["noise"] < 1)).to_numpy()
    blind = bool(pairs["lowest"].median() > limit)
    return (
        noise,
        close,
        blind,
        (
            f"Test cells differ from their nearest training cell by {np.median(noise):.2f} times "
            f"counting noise (median)."
        ),
    )


def _closer_than_usual(
    log: sparse.csr_matrix, test: np.ndarray, neighbors: np.ndarray
) -> tuple[np.ndarray, np.ndarray, bool, str]:
    """Other values: against the distance to a training cell further away, which no resampling brings near."""
    ratio = leakage_duplicates.distance_ratio(log, test, neighbors)
    usual = (
        f"Test cells are {np.median(ratio):.2f} times as far from their nearest training cell as "
        f"from their {neighbors.shape[1]}th (median)."
    )
    return ratio, ratio < _RATIO, neighbors.shape[1] < leakage_duplicates.N_NEIGHBORS, usual


def donors(cells: Cells, column: pd.Series | None) -> Finding:
    """Donors with cells in two parts."""
    check = "shared donors"
    if column is None:
        meaning = (
            "There is no donor column, so a model may know the donors of its test cells. Give "
            "donor_key=."
        )
        return Finding(check, "cannot tell", meaning)
    counts = pd.crosstab(column.astype(object).where(column.notna()).to_numpy(), cells.parts)
    counts = counts.reindex(columns=list(_keys.SPLIT_ORDER), fill_value=0)
    shared = counts[(counts > 0).sum(axis=1) > 1]
    in_test = shared[shared[_keys.TEST] > 0]
    share = float(in_test[_keys.TEST].sum() / len(cells.at(_keys.TEST)))
    offenders = _listed(f"{donor} ({_sizes(row)})" for donor, row in shared.iterrows())
    n_missing = int((column.isna().to_numpy() & pd.notna(cells.parts)).sum())
    if len(in_test):
        meaning = (
            f"{share:.0%} of the test cells come from donors that train or validate: clone, "
            f"genotype and batch give the label away. "
            "Split with pp.split_donors(unit='donor')."
        )
        return Finding(check, "leak", meaning, share, len(shared), offenders)
    if len(shared):
        meaning = (
            "Donors train and validate, so a training stops too late. Split with "
            "pp.split_donors(unit='donor')."
        )
        return Finding(check, "warning", meaning, share, len(shared), offenders)
    if n_missing:
        return Finding(
            check,
            "cannot tell",
            f"{n_missing} cells have no donor. Fill the column or drop them.",
            share,
        )
    return Finding(check, "ok", "Every donor is in one part only.", share)


def resampled(
    cells: Cells, synthetic: np.ndarray | None, method: str | None
) -> tuple[Finding, pd.DataFrame]:
    """Rows that a resampling added, in test or validation."""
    check, none = "resampled rows", no_cells()
    if synthetic is None:
        if method == "weights":
            return Finding(check, "ok", "Balanced by weights: no row was added.", 0.0), none
        meaning = (
            "No resampling is on record; whether another tool added rows, only the searches for "
            "duplicates can say."
        )
        return Finding(check, "cannot tell", meaning), none
    held_out = np.flatnonzero(synthetic & np.isin(cells.parts.astype(str), (_keys.TEST, _keys.VAL)))
    found = pd.DataFrame(
        {"check": check, "cell": cells.names[held_out], "part": cells.parts[held_out]}
    )
    found = found.assign(twin="", twin_part="", value=np.nan)
    share = _n_in_test(found) / len(cells.at(_keys.TEST))
    if found.empty:
        return Finding(check, "ok", "Rows were added to the training cells only.", share), none
    meaning = (
        "A score on made-up cells, at a prevalence nobody has, is no score. Split first, then "
        "balance (pp.balance)."
    )
    return Finding(check, _status(found), meaning, share, len(found), _named(found)), found


def gap(scores: pd.DataFrame) -> Finding:
    """What the two careless ways add to the score of the careful one."""
    check, score = "gap", scores.set_index("scheme")["macro_f1"]
    honest = "C" if "C" in score.index and np.isfinite(score["C"]) else "B"
    excess = float(score["A"] - score[honest])
    by_cell = (
        f", splitting cells instead of donors {score['B'] - score['C']:+.2f}"
        if honest == "C"
        else ""
    )
    meaning = (
        f"On these cells, resampling before the split changes the macro-F1 of a random forest by "
        f"{excess:+.2f}{by_cell}. "
    )
    careless = max(excess, float(score["B"] - score[honest]))
    if careless > 0.05:
        meaning += (
            "Do not believe a score that was made so. This is about the data, not about your split."
        )
        return Finding(check, "warning", meaning, excess)
    return Finding(check, "ok", meaning + "This is about the data, not about your split.", excess)


def _across(check: str, keys: np.ndarray, cells: Cells) -> pd.DataFrame:
    """Cells whose key is in another part, too; each once, with the part that matters most."""
    found = pd.concat(
        [leakage_duplicates.twins(keys, cells.parts, cells.names, pair) for pair in _PAIRS],
        ignore_index=True,
    )
    found = found.drop_duplicates("at", ignore_index=True)
    return found.assign(check=check, value=0.0)


def _twin_table(check: str, cells: Cells, at: np.ndarray, twin: np.ndarray) -> pd.DataFrame:
    found = {
        "check": check,
        "cell": cells.names[at],
        "part": cells.parts[at],
        "twin": cells.names[twin],
    }
    return pd.DataFrame(found | {"twin_part": cells.parts[twin]})


def _n_in_test(found: pd.DataFrame) -> int:
    return int((found["part"] == _keys.TEST).sum())


def _status(found: pd.DataFrame) -> Status:
    """A leak where test cells are concerned, else a warning."""
    return "leak" if _n_in_test(found) else "warning"


def _named(found: pd.DataFrame) -> str:
    pairs = zip(found["cell"], found["part"], found["twin"], found["twin_part"], strict=True)
    return _listed(
        f"{cell} ({part})" + (f" = {twin} ({other})" if twin else "")
        for cell, part, twin, other in pairs
    )


def _sizes(row: pd.Series) -> str:
    return ", ".join(f"{part} {n}" for part, n in row.items() if n)


def _listed(items: object) -> str:
    found = list(items)  # type: ignore[call-overload]
    more = f" and {len(found) - _N_NAMED} more" if len(found) > _N_NAMED else ""
    return "; ".join(map(str, found[:_N_NAMED])) + more
