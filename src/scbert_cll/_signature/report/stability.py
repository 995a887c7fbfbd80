"""Whether the genes are the same in every run: without single donors, and under permuted labels."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from scbert_cll._signature.both import MixedDesign
from scbert_cll._signature.data import PseudobulkData
from scbert_cll._signature.procedure import find
from scbert_cll._signature.report import criteria
from scbert_cll._signature.report.criteria import Criterion, against, verdict
from scbert_cll._signature.report.ranking import Comparison

_RULE = "p ≤ 0.05"


def under_permuted_labels(compared: Comparison, scheme: str) -> list[Criterion]:
    """Number of genes, against the numbers where labels mean nothing.

    `scheme` says in which arrangements of whole donors, or is empty.
    """
    n, k, limits = compared.n_genes, compared.k, (np.nan, np.nan)
    of_runs = np.array(list(map(_n_genes, compared.permuted)), dtype=float)
    null = against(n, of_runs)
    rule, usual = f"{_RULE}, and at most 1 gene on average where labels are permuted", null.mean
    if scheme:  # of few donors, now and then almost the labels as they are
        rule = f"{_RULE}, and at most 1 gene in half of the arrangements"
        usual = float(np.median(of_runs))
    passed = verdict(null.p <= criteria.LEVEL and usual <= 1)
    note = "a ranking has as many genes as are taken from its top, whatever the labels"
    numbers = n, *limits, *null
    row = Criterion(criteria.PERMUTED, criteria.SIGNATURE, *numbers, rule, passed, scheme)
    same = row._replace(value=k, null=k, null_high=k, p=1.0, passed=criteria.NO)
    same = same._replace(note=note)
    return [row, *(same._replace(subject=name) for name in compared.rankings)]


def without_single_donors(compared: Comparison) -> tuple[list[Criterion], pd.DataFrame]:
    """Stability of the genes over leaving out donors, against permuted labels; and all runs."""
    data, k, rows = compared.data, compared.k, []
    runs: dict[str, list[Stability]] = {}
    if compared.n_genes:
        left = (find(data.without([donor])).selected for donor in data.spared)
        chosen = np.array([data.counts.tested.genes.isin(names) for names in left])
        runs[criteria.SIGNATURE] = [stability(chosen)]
        for design in (run.design for run in compared.permuted):
            tests = (design.without(donor).test() for donor in data.spared)
            clearest = _first((np.abs(test.t) for test in tests), k)
            runs[criteria.SIGNATURE].append(stability(clearest))
    else:
        note = "the signature is empty"
        rows.append(Criterion(criteria.STABILITY, criteria.SIGNATURE, note=note))
    for name, ranking in compared.rankings.items():
        for run in range(len(ranking.values)):
            scores = (ranking.score([donor], run) for donor in data.spared)
            runs.setdefault(name, []).append(stability(_first(scores, k)))
    rows += [_stable(name, of_runs, k) for name, of_runs in runs.items()]
    names, tables = ["subject", "run"], map(pd.DataFrame, runs.values())
    table = pd.concat(dict(zip(runs, tables, strict=True)), names=names).reset_index()
    labels = np.where(table["run"] > 0, "permuted", "as they are").astype(object)
    table.insert(1, "labels", labels)
    return rows, table.rename(index=str)


def _stable(name: str, stabilities: list[Stability], k: int) -> Criterion:
    real, indices = stabilities[0], np.array([run.nogueira for run in stabilities[1:]])
    indices = indices[np.isfinite(indices)]
    if np.isnan(real.nogueira) or not len(indices):
        note = "no index: all runs choose no gene, or all genes"
        return Criterion(criteria.STABILITY, name, note=note)
    note = f"null: the {k} genes with the largest |t|, since there the signature itself is "
    note += "mostly empty"
    null = against(real.nogueira, indices)
    numbers = real.nogueira, real.low, real.high, *null
    passed = verdict(null.p <= criteria.LEVEL)
    row = Criterion(criteria.STABILITY, name, *numbers, _RULE, passed)
    return row._replace(note=note) if name == criteria.SIGNATURE else row


def _n_genes(data: PseudobulkData) -> int:
    """Size of the signature; where the test alone finds nothing, without the classifier."""
    design = data.design
    joined = not isinstance(design, MixedDesign) or design.joined.agree
    if joined and design.test().q.min() >= data.limits.alpha:
        return 0
    return len(find(data).selected)


def _first(scores: Iterable[np.ndarray], k: int) -> np.ndarray:
    """The k genes with the largest score in each run: runs × genes, true or false."""
    ranks = (np.argsort(-score, kind="stable").argsort() for score in scores)
    return np.array([rank < k for rank in ranks])


class Stability(NamedTuple):
    """Nogueira's index with 95 % limits, Kuncheva's (sets of one size only), mean Jaccard index."""

    nogueira: float
    low: float
    high: float
    kuncheva: float
    jaccard: float


def stability(chosen: np.ndarray) -> Stability:
    """Stability of the choices of several runs: runs × genes, true where a run chose a gene.

    Nogueira et al. 2018 (JMLR 18(174)): 1 when all runs choose alike, 0 by chance, whatever the
    sizes; undefined where nobody or everybody is chosen. Kuncheva 2007 is the same for sets of one
    size. Jaccard's index is not corrected for chance.
    """
    chosen = np.asarray(chosen, dtype=bool)
    n_runs, n_genes = chosen.shape
    sizes, share = chosen.sum(1), chosen.mean(0)
    pairs = [(chosen[a], chosen[b]) for a, b in combinations(range(n_runs), 2)]
    common = np.array([(a & b).sum() for a, b in pairs])
    either = np.array([(a | b).sum() for a, b in pairs])
    ratios = common / np.where(either > 0, either, np.nan)
    jaccard = float(ratios.mean()) if pairs else np.nan
    k = sizes.mean() / n_genes
    if n_runs < 2 or k in (0.0, 1.0):
        return Stability(np.nan, np.nan, np.nan, np.nan, jaccard)
    variance = (n_runs / (n_runs - 1) * share * (1 - share)).mean()
    index = 1 - variance / (k * (1 - k))
    size = sizes / n_genes  # the sampling variance of the index over runs
    phi = index / 2 * (2 * k * size - size - k + 1)
    phi = ((chosen * share).mean(1) - size * k + phi) / (k * (1 - k))
    reach = 1.96 * np.sqrt(4 / n_runs**2 * ((phi - phi.mean()) ** 2).sum())
    low, high = float(index - reach), float(index + reach)
    kuncheva = np.nan
    if len(set(sizes)) == 1:
        expected = sizes[0] ** 2 / n_genes
        kuncheva = float((common.mean() - expected) / (sizes[0] - expected))
    return Stability(float(index), low, high, kuncheva, jaccard)
