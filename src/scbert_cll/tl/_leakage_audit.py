"""tl.leakage_audit: what of the test cells lies on the training side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _checks, _keys, _record
from scbert_cll._checks.words import number_in
from scbert_cll._counts import slot_name
from scbert_cll._evaluation.leakage import duplicates as leakage_duplicates
from scbert_cll._evaluation.leakage import findings as check
from scbert_cll._evaluation.leakage import gap as leakage_gap
from scbert_cll._evaluation.leakage import preprocessing as fitted
from scbert_cll._process import as_it_was

_MARKS = {"leak": "**leak**", "warning": "warning", "ok": "ok", "cannot tell": "cannot tell"}


@dataclass
class LeakageReport:
    """What :func:`~scbert_cll.tl.leakage_audit` found; ``print`` it for a report in markdown.

    Attributes
    ----------
    findings
        ``check``, ``status`` (``leak``, ``warning``, ``ok``, ``cannot tell``), ``value`` (mostly a
        share of the test cells), ``n`` offenders, the first of them by name, and what it means.
    gap
        ``macro_f1`` (mean over the repeats), ``low`` and ``high`` (their range) per way to split;
        empty if it was skipped.
    cells
        Every offending cell with its part and its twin.
    """

    findings: pd.DataFrame
    gap: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=list(leakage_gap.COLUMNS))
    )
    cells: pd.DataFrame = field(default_factory=check.no_cells)

    @property
    def passed(self) -> bool:
        """No finding is a leak. It does not say that there is none: see what could not be told."""
        return not (self.findings["status"] == "leak").any()

    def __str__(self) -> str:
        counts = self.findings["status"].value_counts()
        told = ", ".join(f"{counts.get(status, 0)} {status}" for status in _MARKS)
        lines = ["# Leakage audit", "", f"{'Passed' if self.passed else 'Not passed'}: {told}.", ""]
        shown = self.findings.assign(status=self.findings["status"].map(_MARKS))
        lines += _markdown(shown)
        if len(self.gap):
            lines += [
                "",
                "## One classifier, the same cells, split in three ways",
                "",
                *_markdown(self.gap),
            ]
        return "\n".join([*lines, ""])


def leakage_audit(
    adata: AnnData,
    *,
    labels_key: str = _keys.CD49D,
    donor_key: str | None = _keys.DONOR,
    split_key: str = _keys.SPLIT,
    layer: str | None = None,
    near_duplicate_alpha: float = 1e-3,
    gap: bool = True,
    n_repeats: int = 3,
    rng: int | np.random.Generator | None = 0,
    key_added: str = "leakage_audit",
) -> LeakageReport:
    """Look for ways in which training cells know the test cells.

    Copies of a cell on both sides, cells made from others by SMOTE or jitter, donors on both sides,
    added rows among the cells that are tested, and preprocessing that was fitted on test cells:
    each gets a verdict, a number, the offenders by name and a sentence. Then one and the same
    random forest is scored on the same cells split in three ways, which shows what a careless split
    is worth here. What leaves no trace in the object cannot be found; where that is so, the verdict
    is ``cannot tell``.

    Parameters
    ----------
    adata
        Cells × genes with a split; changed in ``uns`` only.
    labels_key
        ``obs`` column of classes, for the comparison of splits.
    donor_key
        ``obs`` column of donors. None, or no column of the default name: the questions about donors
        stay open.
    split_key
        ``obs`` column with ``train``, ``test`` and, if there is one, ``val``. Cells without a part
        are left out.
    layer
        Where the expression is that the model learns from, best raw counts; ``X`` if not given,
        ``"raw"`` for `adata.raw` (genes by name). Other values of zero or more are compared, too,
        by their distances (data that were resampled after the logarithm).
    near_duplicate_alpha
        Chance that any pair of different cells is called a near duplicate (counts only).
    gap
        Whether to compare the three ways to split. It does not use `split_key`.
    n_repeats
        Random splits per way; with 5, every cell is tested once.
    rng
        Seed of the random splits and of the components in which neighbours are looked for.
    key_added
        Name of the entry in ``uns``.

    Returns
    -------
    A :class:`~scbert_cll.tl.LeakageReport` with the tables ``findings``, ``gap`` and
    ``cells``, and ``passed``. In `adata`:

    ``adata.uns['leakage_audit']`` : dict
        The same: ``findings``, ``cells``, ``gap`` (if it was asked for), ``passed``, and
        ``params``.

    Raises
    ------
    KeyError
        There is no split, no label column, or no layer or donor column of the name that was given.
    ValueError
        The split has no training or no test cells, there is one class only, values are negative or
        not finite, or `adata` is a view.

    Notes
    -----
    *Near duplicates.* Each test cell is compared with its nearest training cell in 50 components
    (truncated SVD, fitted on the training cells) of the log-normalised values. Two different cells
    are counted separately, so their counts differ by counting noise at least, whatever else
    differs; a cell that is closer has counts of the other. The threshold needs no look at the other
    training cells, which may be full of synthetic ones themselves. On the simulated data (2,000
    cells × 800 genes) different cells differ by 1.3 times counting noise or more. Of SMOTE's cells
    two thirds are found; of copies that lost a tenth of their counts all; of copies whose counts
    were drawn anew from a Poisson distribution 95 %, but with 400 genes a quarter only. A cell in
    the middle between two very different ones is not found. Values that are no counts are compared
    by distance: closer than half the distance to the 20th neighbour.

    *The gap.* A random forest (200 trees, no class weights) on the up to 500 genes of highest mean
    expression of up to 4,000 labelled cells (copies and synthetic cells that are there already left
    out), scored by macro-F1 over the classes present: (A) oversampled to equal classes and then
    split 80/20 at random, (B) split 80/20 at random, (C) a fifth of the donors tested. Measured on
    3,444 simulated cells × 400 genes of ten donors with labels drawn at random, where nothing can
    be learned (A / B / C): .94 / .25 / .25 with classes of 60, 20 and 20 %; .71 / .29 / .29 with
    classes of 8038 : 7160 : 2020. Only what was oversampled looks known, so two large classes,
    which are hardly copied, stay as unpredictable as they are. With a class mix of each donor's own
    .74 / .46 / .19: donors are recognised.

    Examples
    --------
    >>> import scbert_cll as sb
    >>> adata = sb.datasets.cll_toy(n_cells=400, n_genes=200)["rna"].copy()
    >>> sb.pp.split_donors(adata, "donor")
    >>> sb.tl.leakage_audit(adata, gap=False).passed
    True
    """
    params = _record.params(locals())
    adata = _checks.adata.target(_checks.adata.anndata(adata), copy=False)
    _checks.slots.new_key(key_added)
    number_in(near_duplicate_alpha, "near_duplicate_alpha", 1e-300, 0.5)
    number_in(n_repeats, "n_repeats", 1, 1000, whole=True)
    parts = _checks.adata.split(adata, split_key, need=(_keys.TRAIN, _keys.TEST)).to_numpy(
        dtype=object
    )
    donor = _donors(adata, donor_key, split_key)
    label = _labels(adata, labels_key) if gap else None
    matrix = _checks.counts.counts_or_values(adata, layer)
    _checks.adata.no_empty_cells(matrix.sum(axis=1).A1, adata, slot_name(layer))

    generator = np.random.default_rng(rng)
    cells = check.Cells(adata.obs_names.to_numpy(dtype=object), parts, matrix)
    log = (
        leakage_duplicates.log_normalised(matrix)
        if _checks.counts.are_whole(matrix.data)
        else matrix
    )
    findings, named = _findings(adata, cells, log, donor, near_duplicate_alpha, generator)
    report = LeakageReport(check.table(findings), cells=named)
    if label is not None:
        known = label.notna() if donor is None else label.notna() & donor.notna()
        rows = _originals(adata, matrix, np.flatnonzero(known))
        report.gap = _gap(log, rows, label, donor, n_repeats, generator)
        report.findings = check.table([*findings, check.gap(report.gap)])
    params |= {} if donor is None else _checks.people.left_out(donor)
    _record.write(adata, uns={key_added: _tables(report, params)})
    return report


def _donors(adata: AnnData, key: str | None, split_key: str) -> pd.Series | None:
    """The donor column; the default one may be missing, one that was asked for may not."""
    if key is None or (key == _keys.DONOR and key not in adata.obs):
        return None
    return _checks.people.donors(
        adata, key, cells=adata.obs[split_key].notna().to_numpy(), allow_missing=True
    )


def _synthetic(adata: AnnData) -> np.ndarray | None:
    """Rows that pp.balance added, where it left its column."""
    return (
        adata.obs[_keys.IS_SYNTHETIC].isin([True]).to_numpy()
        if _keys.IS_SYNTHETIC in adata.obs
        else None
    )


def _originals(adata: AnnData, matrix: sparse.csr_matrix, rows: np.ndarray) -> np.ndarray:
    """Those of the rows that are cells: none that is known to be added, and of equal profiles the first."""
    synthetic = _synthetic(adata)
    rows = rows if synthetic is None else rows[~synthetic[rows]]
    _, first = np.unique(leakage_duplicates.profile_hashes(matrix[rows]), return_index=True)
    return rows[np.sort(first)]


def _labels(adata: AnnData, key: str) -> pd.Series:
    """Class of each cell; at least two classes."""
    label = _checks.adata.obs_column(adata, key)
    _checks.adata.classes(label, key)
    return label


def _findings(
    adata: AnnData,
    cells: check.Cells,
    log: sparse.csr_matrix,
    donor: pd.Series | None,
    alpha: float,
    rng: np.random.Generator,
) -> tuple[list[check.Finding], pd.DataFrame]:
    """All verdicts on the split, in the order of the report, and the cells they name."""
    balance = adata.uns.get(_keys.BALANCE)
    method = balance.get("params", {}).get("method") if isinstance(balance, Mapping) else None
    synthetic = _synthetic(adata)
    equal, equal_cells = check.exact(cells)
    same_name, name_cells = check.names(cells)
    close, close_cells = check.near(cells, log, equal_cells, alpha, int(rng.integers(2**31 - 1)))
    added, added_cells = check.resampled(cells, synthetic, method)
    findings = [equal, same_name, close, check.donors(cells, donor), added]
    findings += _preprocessing(adata, cells, synthetic) or [_nothing_recorded()]
    tables = [
        t[list(check.CELL_COLUMNS)]
        for t in (equal_cells, name_cells, close_cells, added_cells)
        if len(t)
    ]
    named = pd.concat(tables, ignore_index=True) if tables else check.no_cells()
    return findings, named.set_axis(named.index.astype(str))


def _preprocessing(
    adata: AnnData, cells: check.Cells, synthetic: np.ndarray | None
) -> list[check.Finding]:
    """What was learned from cells, by the records and values that are there."""
    original = np.ones(adata.n_obs, dtype=bool) if synthetic is None else ~synthetic
    train = original & (cells.parts == _keys.TRAIN)
    who = fitted.Fitted(int(train.sum()) + _dropped(adata), train, original)
    return [*fitted.records(adata.uns, who), *_by_values(adata, cells, who)]


def _by_values(adata: AnnData, cells: check.Cells, who: fitted.Fitted) -> Iterator[check.Finding]:
    """What scanpy leaves, which does not say which cells it looked at."""
    if "X_pca" in adata.obsm:
        yield fitted.components(adata.obsm["X_pca"], who)
    if "highly_variable" in adata.var:
        matrices = (
            [cells.matrix] if adata.X is None else [cells.matrix, _checks.counts.in_core(adata.X)]
        )
        means = cast("pd.DataFrame", adata.var).get("means")
        yield fitted.variable_genes(means, matrices, who)
    if {"mean", "std"} <= set(adata.var):
        yield fitted.scaled(_checks.counts.in_core(adata.X), who)
    if "log1p" in adata.uns:
        meaning = (
            "The logarithm is of each cell alone; at most the common target_sum (by default the "
            "median cell's) knows the others."
        )
        yield check.Finding("uns['log1p']", "ok", meaning)


def _dropped(adata: AnnData) -> int:
    """Training cells that undersampling took away after the preprocessing."""
    record = adata.uns.get(_keys.BALANCE)
    groups = record.get("groups") if isinstance(record, Mapping) else None
    if not isinstance(groups, pd.DataFrame) or "n_after" not in groups:
        return 0
    return int((groups["n_before"] - groups["n_after"]).clip(lower=0).sum())


def _nothing_recorded() -> check.Finding:
    meaning = (
        "No step that learns from cells is on record; what was done before the object was made is "
        "not known here."
    )
    return check.Finding("preprocessing", "cannot tell", meaning)


def _gap(
    log: sparse.csr_matrix,
    rows: np.ndarray,
    label: pd.Series,
    donor: pd.Series | None,
    n_repeats: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """The three ways, on rows that have a label and, where there are donors, a donor."""
    y = pd.factorize(label.iloc[rows])[0]
    codes = None if donor is None else pd.factorize(donor.iloc[rows])[0]
    with as_it_was():  # joblib chooses how processes start
        return leakage_gap.gap(log[rows], y, codes, n_repeats=n_repeats, rng=rng)


def _tables(report: LeakageReport, params: dict[str, Any]) -> dict[str, Any]:
    """Plain values and tables that a file can hold."""
    gap = {"gap": report.gap} if len(report.gap) else {}
    return {
        "params": params,
        "findings": report.findings,
        "cells": report.cells,
        **gap,
        "passed": report.passed,
    }


def _markdown(table: pd.DataFrame) -> list[str]:
    """A table, one line a row; numbers with three digits, nothing where there is none."""
    rows = [list(table.columns), ["---"] * table.shape[1], *table.to_numpy(dtype=object).tolist()]
    return ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.3f}"
    return str(value).replace("|", "\\|").replace("\n", " ")
