"""Criteria that repeat everything: under permuted labels, and without single donors."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from scbert_cll._signature.data import PseudobulkData
from scbert_cll._signature.procedure import find
from scbert_cll._signature.report import criteria
from scbert_cll._signature.report.criteria import Criterion, Null, against, verdict
from scbert_cll._signature.report.ranking import Comparison, largest
from scbert_cll._signature.report.stability import Stability, stability

_RULE = "p ≤ 0.05"


def under_permuted_labels(compared: Comparison) -> list[Criterion]:
    """Number of genes, against the numbers where labels mean nothing."""
    n, k = compared.n_genes, compared.k
    null = against(n, np.array([_n_genes(data) for data in compared.permuted], dtype=float))
    rule = f"{_RULE}, and at most 1 gene on average where labels are permuted"
    passed = verdict(null.p <= criteria.LEVEL and null.mean <= 1)
    limits, same = (np.nan, np.nan), Null(k, k, 1.0)
    note = "a ranking has as many genes as are taken from its top, whatever the labels"
    return [
        Criterion(criteria.PERMUTED, criteria.SIGNATURE, n, *limits, *null, rule, passed),
        *(
            Criterion(criteria.PERMUTED, name, k, *limits, *same, rule, criteria.NO, note)
            for name in compared.rankings
        ),
    ]


def without_single_donors(compared: Comparison) -> tuple[list[Criterion], pd.DataFrame]:
    """Stability of the genes over leaving out donors, against permuted labels; and all runs."""
    k, rows = compared.k, []
    runs: dict[str, list[Stability]] = {}
    if compared.n_genes:
        null = [stability(_clearest_without_each(run, k)) for run in compared.permuted]
        runs[criteria.SIGNATURE] = [stability(_found_without_each(compared.data)), *null]
    else:
        note = "the signature is empty"
        rows.append(Criterion(criteria.STABILITY, criteria.SIGNATURE, note=note))
    for name, ranking in compared.rankings.items():
        runs[name] = [ranking.stability(k, run) for run in range(len(ranking.values))]
    rows += [_stable(name, stabilities, k) for name, stabilities in runs.items()]
    table = pd.DataFrame(
        {"subject": name, "labels": "permuted" if i else "as they are", "run": i} | run._asdict()
        for name, stabilities in runs.items()
        for i, run in enumerate(stabilities)
    )
    return rows, table.rename(index=str)


def _stable(name: str, stabilities: list[Stability], k: int) -> Criterion:
    real, indices = stabilities[0], np.array([run.nogueira for run in stabilities[1:]])
    indices = indices[np.isfinite(indices)]
    if np.isnan(real.nogueira) or not len(indices):
        return Criterion(
            criteria.STABILITY, name, note="no index: all runs choose no gene, or all genes"
        )
    note = ""
    if name == criteria.SIGNATURE:
        note = f"null: the {k} genes with the largest |t|, since there the signature itself is "
        note += "mostly empty"
    null = against(real.nogueira, indices)
    passed = verdict(null.p <= criteria.LEVEL)
    numbers = real.nogueira, real.low, real.high, *null
    return Criterion(criteria.STABILITY, name, *numbers, _RULE, passed, note)


def _n_genes(data: PseudobulkData) -> int:
    """Size of the signature; where the test alone finds nothing, without the classifier."""
    if stats.false_discovery_control(data.design.test().p).min() >= data.limits.alpha:
        return 0
    return len(find(data).selected)


def _clearest_without_each(data: PseudobulkData, k: int) -> np.ndarray:
    """The k genes with the largest t without each donor: donors × tested genes, true or false."""
    chosen = np.zeros((len(data.design.donors), len(data.tested.genes)), dtype=bool)
    for i, donor in enumerate(data.design.donors):
        chosen[i, largest(np.abs(data.design.without(donor).test().t), k)] = True
    return chosen


def _found_without_each(data: PseudobulkData) -> np.ndarray:
    """The signature found anew without each donor: donors × tested genes, true or false."""
    signatures = [find(data.without([donor])).selected for donor in data.complete_donors]
    return np.array([data.tested.genes.isin(names) for names in signatures])
