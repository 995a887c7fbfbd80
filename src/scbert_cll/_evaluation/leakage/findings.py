"""The findings of the leakage audit: what was looked at, what it means, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.stats import norm

from scbert_cll import _checks, _keys
from scbert_cll._evaluation.leakage import duplicates

type Status = Literal["leak", "warning", "ok", "cannot tell"]

CELL_COLUMNS = ["check", "cell", "part", "twin", "twin_part", "value"]
_FEW_COUNTS = 20  # two different cells with so few counts may be equal by chance
# of the distance to the 20th neighbour; different cells of the toy data are above 0.67
_RATIO = 0.5
_N_NAMED = 10
_PAIRS = ((_keys.TRAIN, _keys.TEST), (_keys.TRAIN, _keys.VAL), (_keys.VAL, _keys.TEST))
_SPLIT_FIRST = "Split first, then balance the training cells (pp.balance)"
_SPLIT_DONORS = "Split with pp.split_donors(unit='donor')"
_TOO_LATE = "so a training stops too late"
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
    return pd.DataFrame([vars(f) for f in findings], columns=columns).rename(index=str)


def no_cells() -> pd.DataFrame:
    """Table of named cells, empty."""
    types = {c: float if c == "value" else object for c in CELL_COLUMNS}
    return pd.DataFrame({c: pd.Series(dtype=kind) for c, kind in types.items()})


def _verdict(
    offenders: pd.DataFrame, cells: Cells, check: str, ok: str, bad: str, sure: bool
) -> tuple[Finding, pd.DataFrame]:
    """The finding on some cells, and these: ok without any, a leak where test cells are concerned.

    A warning where it is not `sure`.
    """
    n_test = _n_test(offenders)
    share = n_test / len(cells.at(_keys.TEST))
    offenders = offenders.assign(check=check)
    if offenders.empty:
        return Finding(check, "ok", ok, share), offenders
    columns = [map(str, offenders[name]) for name in CELL_COLUMNS[1:5]]
    names = (
        f"{cell} ({part})" + (f" = {twin} ({other})" if twin else "")
        for cell, part, twin, other in zip(*columns, strict=True)
    )
    status: Status = "leak" if sure and n_test else "warning"
    return Finding(check, status, bad, share, len(offenders), _listed(names)), offenders


def _n_test(offenders: pd.DataFrame) -> int:
    return int((offenders["part"] == _keys.TEST).sum())


def exact(cells: Cells) -> tuple[Finding, pd.DataFrame]:
    """Equal profiles in two parts."""
    offenders = _across(duplicates.profile_hashes(cells.matrix), cells)
    n_test, at = _n_test(offenders), offenders["at"].to_numpy(dtype=np.intp)
    deep = bool((np.asarray(cells.matrix[at].sum(axis=1)) >= _FEW_COUNTS).any())
    bad = (
        f"Profiles of fewer than {_FEW_COUNTS} counts are equal by chance, too. Remove such cells."
    )
    if deep and n_test:
        copies = f"{n_test} of {len(cells.at(_keys.TEST))} test cells are known from another part"
        bad = f"{copies}, so the score rewards memory. {_KEEP_TOGETHER}."
    elif deep:
        bad = f"Training cells validate, {_TOO_LATE}. {_KEEP_TOGETHER}."
    ok = "No two parts hold the same expression profile."
    return _verdict(offenders, cells, "exact duplicates", ok=ok, bad=bad, sure=deep)


def names(cells: Cells) -> tuple[Finding, pd.DataFrame]:
    """Names that differ by the suffix of a resampling only, in two parts."""
    base, by_suffix = duplicates.resampled_from([str(name) for name in cells.names])
    offenders = _across(base, cells)
    of_base = pd.Series(by_suffix).groupby(base).transform("any").to_numpy()
    sure = bool(of_base[offenders["at"].to_numpy(dtype=np.intp)].any())
    bad = f"Cells and what was made from them by resampling lie in two parts. {_SPLIT_FIRST}."
    if not sure:
        bad = (
            "Names made unique by a number: copies of a cell, or libraries that share a barcode. "
            "If exact duplicates are none it is the latter; put the library into the name."
        )
    ok = "No name occurs in two parts with another suffix."
    return _verdict(offenders, cells, "repeated names", ok=ok, bad=bad, sure=sure)


def near(
    cells: Cells, log: sparse.csr_matrix, equal: pd.DataFrame, alpha: float, seed: int
) -> tuple[Finding, pd.DataFrame]:
    """Test cells that are nearer to a training cell than two different cells are.

    `equal` are the exact duplicates.
    """
    check, train, test = "near duplicates", cells.at(_keys.TRAIN), cells.at(_keys.TEST)
    n_test, twins = len(test), equal.loc[equal["part"] == _keys.TEST, "at"]
    test = np.setdiff1d(test, twins.to_numpy(dtype=np.intp))
    if not len(test) or len(train) < 3 or log.shape[1] < 3:
        meaning = (
            f"{len(test)} test cells without a twin, {len(train)} training cells and "
            f"{log.shape[1]} genes are too few to compare."
        )
        return Finding(check, "cannot tell", meaning), no_cells()
    neighbors = duplicates.nearest(log, train, test, seed)
    if _checks.counts.are_whole(cells.matrix.data):  # closer than the noise of counting
        first = cells.matrix[neighbors[:, 0]]
        pairs = duplicates.counting_noise(cells.matrix[test], first)
        # beyond what the best of all pairs would show by chance
        limit = -float(norm.isf(alpha / (len(test) * len(train))))
        value = pairs["noise"].to_numpy()
        close = (pairs["z"] < limit).to_numpy() & (value < 1)
        blind = bool(pairs["lowest"].median() > limit)
        usual = (
            f"Test cells differ from their nearest training cell by {np.median(value):.2f} times "
            f"counting noise (median)."
        )
    else:  # against the distance to a cell further away, which no resampling brings near
        value, n = duplicates.distance_ratio(log, test, neighbors), neighbors.shape[1]
        close, blind = value < _RATIO, n < duplicates.N_NEIGHBORS
        usual = (
            f"Test cells are {np.median(value):.2f} times as far from their nearest training cell "
            f"as from their {n}th (median)."
        )
    pair = (test[close], neighbors[close, 0])
    columns = [column for at in pair for column in (cells.names[at], cells.parts[at])]
    offenders = pd.DataFrame(dict(zip(CELL_COLUMNS[1:5], columns, strict=True)))
    offenders = offenders.assign(value=value[close])
    if offenders.empty and blind:
        blind_to = "The cells have so few counts that even a copy could not be told."
        return Finding(check, "cannot tell", f"{blind_to} {usual}", 0.0), offenders
    ok = f"No test cell is nearer to a training cell than different cells are. {usual}"
    bad = (
        f"{len(offenders)} of {n_test} test cells are training cells with a little "
        f"change, as SMOTE or jitter makes them. {usual} {_SPLIT_FIRST}."
    )
    return _verdict(offenders, cells, check, ok, bad, sure=True)


def donors(cells: Cells, column: pd.Series | None) -> Finding:
    """Donors with cells in two parts."""
    check = "shared donors"
    if column is None:
        meaning = "No donor column: a model may know the donors of its test cells. Give donor_key=."
        return Finding(check, "cannot tell", meaning)
    people = column.astype(object).where(column.notna()).to_numpy()
    counts = pd.crosstab(people, cells.parts)
    counts = counts.reindex(columns=list(_keys.SPLIT_ORDER), fill_value=0)
    shared = counts[(counts > 0).sum(axis=1) > 1]
    n_test = int(shared[_keys.TEST].sum())
    share = n_test / len(cells.at(_keys.TEST))
    offenders = _listed(
        f"{donor} ({', '.join(f'{part} {n}' for part, n in row.items() if n)})"
        for donor, row in shared.iterrows()
    )
    n_missing = int((column.isna().to_numpy() & pd.notna(cells.parts)).sum())
    status: Status = "ok"
    meaning = "Every donor is in one part only."
    if n_test:
        status = "leak"
        meaning = (
            f"{share:.0%} of the test cells come from donors that train or validate: clone, "
            f"genotype and batch give the label away. {_SPLIT_DONORS}."
        )
    elif len(shared):
        status = "warning"
        meaning = f"Donors train and validate, {_TOO_LATE}. {_SPLIT_DONORS}."
    elif n_missing:
        status = "cannot tell"
        meaning = f"{n_missing} cells have no donor. Fill the column or drop them."
    return Finding(check, status, meaning, share, len(shared), offenders)


def resampled(
    cells: Cells, synthetic: np.ndarray | None, method: str | None
) -> tuple[Finding, pd.DataFrame]:
    """Rows that a resampling added, in test or validation."""
    check = "resampled rows"
    if synthetic is None and method == "weights":
        meaning = "Balanced by weights: no row was added."
        return Finding(check, "ok", meaning, 0.0), no_cells()
    if synthetic is None:
        meaning = "No resampling is on record; rows of other tools show up as duplicates only."
        return Finding(check, "cannot tell", meaning), no_cells()
    is_held_out = np.isin(cells.parts.astype(str), (_keys.TEST, _keys.VAL))
    at = np.flatnonzero(synthetic & is_held_out)
    offenders = pd.DataFrame({"cell": cells.names[at], "part": cells.parts[at]})
    offenders = offenders.assign(twin="", twin_part="", value=np.nan)
    ok = "Rows were added to the training cells only."
    bad = f"A score on made-up cells, at a prevalence nobody has, is no score. {_SPLIT_FIRST}."
    return _verdict(offenders, cells, check, ok, bad, sure=True)


def gap(scores: pd.DataFrame) -> Finding:
    """What the two careless ways add to the score of the careful one."""
    score = scores.set_index("scheme")["macro_f1"]
    by_donor = "C" in score.index and np.isfinite(score["C"])
    honest = score["C" if by_donor else "B"]
    excess = float(score["A"] - honest)
    of_cells = float(score["B"] - honest)
    by_cell = f", splitting cells instead of donors {of_cells:+.2f}" if by_donor else ""
    leaks = max(excess, of_cells) > 0.05
    warning = "Do not believe a score that was made so. " if leaks else ""
    meaning = (
        f"On these cells, resampling before the split changes the macro-F1 of a random forest by "
        f"{excess:+.2f}{by_cell}. {warning}This is about the data, not about your split."
    )
    return Finding("gap", "warning" if leaks else "ok", meaning, excess)


def _across(keys: np.ndarray, cells: Cells) -> pd.DataFrame:
    """Cells whose key is in another part, too; each once, with the part that matters most."""
    names, parts = cells.names, cells.parts
    pairs = [duplicates.twins(keys, parts, names, sides) for sides in _PAIRS]
    twins = pd.concat(pairs, ignore_index=True)
    return twins.drop_duplicates("at", ignore_index=True).assign(value=0.0)


def _listed(items: Iterable[str]) -> str:
    names = list(items)
    rest = f" and {len(names) - _N_NAMED} more" if len(names) > _N_NAMED else ""
    return "; ".join(names[:_N_NAMED]) + rest
