"""tl.leakage_audit: ways in which training cells know the test cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _checks, _keys, _record
from scbert_cll._checks.counts import slot_name
from scbert_cll._checks.words import number_in
from scbert_cll._counts import log_normalised
from scbert_cll._evaluation.leakage import duplicates, preprocessing
from scbert_cll._evaluation.leakage import findings as checks
from scbert_cll._evaluation.leakage import gap as split_gap
from scbert_cll._process import as_it_was

_STATUSES = ("leak", "warning", "ok", "cannot tell")


_no_gap = partial(pd.DataFrame, columns=split_gap.COLUMNS)


@dataclass
class LeakageReport:
    """Findings of :func:`~scbert_cll.tl.leakage_audit`; ``print`` it for a report in markdown.

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
    gap: pd.DataFrame = field(default_factory=_no_gap)
    cells: pd.DataFrame = field(default_factory=checks.no_cells)

    @property
    def passed(self) -> bool:
        """Whether no finding is a leak; what could not be told may still be one."""
        return not (self.findings["status"] == "leak").any()

    def __str__(self) -> str:
        words = self.findings["status"].tolist()
        statuses = ", ".join(f"{words.count(status)} {status}" for status in _STATUSES)
        passed = "Passed" if self.passed else "Not passed"
        findings = self.findings.replace({"status": {"leak": "**leak**"}})
        lines = ["# Leakage audit", "", f"{passed}: {statuses}."]
        lines += ["", *_markdown(findings)]
        if len(self.gap):
            title = "## One classifier, the same cells, split in three ways"
            lines += ["", title, "", *_markdown(self.gap)]
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
    key_added: str = _keys.LEAKAGE_AUDIT,
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
    be learned (A / B / C): 0.94 / 0.25 / 0.25 with classes of 60, 20 and 20 %; 0.71 / 0.29 / 0.29
    with classes of 8038 : 7160 : 2020. Only what was oversampled looks known, so two large classes,
    which are hardly copied, stay as unpredictable as they are. With a class mix of each donor's own
    0.74 / 0.46 / 0.19: donors are recognised.

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> adata = sc_cll.datasets.cll_toy(n_cells=400, n_genes=200)["rna"].copy()
    >>> sc_cll.pp.split_donors(adata, "donor")
    >>> sc_cll.tl.leakage_audit(adata, gap=False).passed
    True
    """
    params = _record.params(locals())
    adata = _checks.adata.target(_checks.adata.anndata(adata), copy=False)
    _checks.adata.new_key(key_added)
    number_in(near_duplicate_alpha, "near_duplicate_alpha", 1e-300, 0.5)
    number_in(n_repeats, "n_repeats", 1, 1000, whole=True)
    parts = _checks.adata.split(adata, split_key, need=(_keys.TRAIN, _keys.TEST))
    donor = None
    if donor_key is not None and (donor_key != _keys.DONOR or donor_key in adata.obs):
        part = parts.notna().to_numpy()
        donor = _checks.people.donors(adata, donor_key, cells=part, allow_missing=True)
    if gap:
        label = _checks.adata.obs_column(adata, labels_key)
        _checks.adata.classes(label, labels_key)
    matrix = _checks.counts.matrix(adata, layer)
    is_whole = _checks.counts.are_whole(matrix.data)
    if not is_whole and (whole := _checks.counts.nearly_whole(matrix.data)) is not None:
        matrix = sparse.csr_matrix((whole, matrix.indices, matrix.indptr), shape=matrix.shape)
    _checks.adata.no_empty_cells(matrix.sum(axis=1).A1, adata, slot_name(layer))

    generator = np.random.default_rng(rng)
    names = adata.obs_names.to_numpy(dtype=object)
    cells = checks.Cells(names, parts.to_numpy(dtype=object), matrix)
    log = matrix
    if _checks.counts.are_whole(matrix.data):
        log = log_normalised(matrix, dtype=np.float32)
    is_original = np.ones(adata.n_obs, dtype=bool)  # not added by pp.balance
    if has_column := _keys.IS_SYNTHETIC in adata.obs:
        is_original = ~np.asarray(adata.obs[_keys.IS_SYNTHETIC].isin([True]))
    balance = adata.uns.get(_keys.BALANCE)
    balance = balance if isinstance(balance, Mapping) else {}
    equal, equal_cells = checks.exact(cells)
    same_name, name_cells = checks.names(cells)
    seed = int(generator.integers(2**31 - 1))
    alpha, method = near_duplicate_alpha, balance.get("params", {}).get("method")
    close, close_cells = checks.near(cells, log, equal_cells, alpha, seed)
    synthetic = ~is_original if has_column else None
    added, added_cells = checks.resampled(cells, synthetic, method)
    findings = [equal, same_name, close, checks.donors(cells, donor), added]
    findings += _preprocessing(adata, cells, is_original, balance.get("groups"))
    tables = (equal_cells, name_cells, close_cells, added_cells)
    offenders = [table[checks.CELL_COLUMNS] for table in tables if len(table)]
    named = pd.concat(offenders or [checks.no_cells()])
    results = {"cells": named.reset_index(drop=True).rename(index=str)}
    if gap:
        has_donor = True if donor is None else donor.notna()
        rows = np.flatnonzero(label.notna() & has_donor & is_original)
        first = np.unique(duplicates.profile_hashes(matrix[rows]), return_index=True)[1]
        rows = rows[np.sort(first)]  # of equal profiles
        y = pd.factorize(label.iloc[rows])[0]
        codes = None if donor is None else pd.factorize(donor.iloc[rows])[0]
        with as_it_was():  # joblib chooses how processes start
            results["gap"] = split_gap.gap(log[rows], y, codes, n_repeats, generator)
        findings.append(checks.gap(results["gap"]))
    report = LeakageReport(checks.table(findings), **results)
    params |= {} if donor is None else _checks.people.left_out(donor)
    entry = {"params": params, "findings": report.findings, "cells": report.cells}
    entry |= {"gap": report.gap} if len(report.gap) else {}
    _record.write(adata, uns={key_added: entry | {"passed": report.passed}})
    return report


def _preprocessing(
    adata: AnnData, cells: checks.Cells, is_original: np.ndarray, balanced: Any
) -> list[checks.Finding]:
    """What learned from cells before: by its record, or by its values."""
    train = is_original & (cells.parts == _keys.TRAIN)
    n_dropped = 0  # by undersampling after it was fitted
    if isinstance(balanced, pd.DataFrame) and "n_after" in balanced:
        change = balanced["n_before"] - balanced["n_after"]
        n_dropped = int(change.clip(lower=0).sum())
    fitted = preprocessing.Fitted(int(train.sum()) + n_dropped, train, is_original)
    findings = list(preprocessing.records(adata.uns, fitted))
    # results of scanpy do not say which cells it looked at
    if "X_pca" in adata.obsm:
        findings.append(preprocessing.components(adata.obsm["X_pca"], fitted))
    if "highly_variable" in adata.var:
        x = [] if adata.X is None else [_checks.counts.in_core(adata.X)]
        means = cast("pd.DataFrame", adata.var).get("means")
        findings.append(preprocessing.variable_genes(means, [cells.matrix, *x], fitted))
    if {"mean", "std"} <= set(adata.var):
        findings.append(preprocessing.scaled(_checks.counts.in_core(adata.X), fitted))
    if "log1p" in adata.uns:
        meaning = (
            "The logarithm is of each cell alone; at most the common target_sum (by default the "
            "median cell's) knows the others."
        )
        findings.append(checks.Finding("uns['log1p']", "ok", meaning))
    meaning = "No step that learns from cells is on record; what was done before is not known."
    return findings or [checks.Finding("preprocessing", "cannot tell", meaning)]


def _markdown(table: pd.DataFrame) -> list[str]:
    """A table, one line a row; numbers with three digits, nothing where there is none."""
    head = [list(table.columns), ["---"] * table.shape[1]]
    rows = [*head, *table.to_numpy(dtype=object).tolist()]
    return [f"| {' | '.join(map(_cell, row))} |" for row in rows]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if np.isnan(value) else f"{value:.3f}"
    return str(value).replace("|", "\\|").replace("\n", " ")
