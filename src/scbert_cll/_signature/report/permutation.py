"""Gates that refit everything: under permuted labels, and without single donors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from scbert_cll._signature.report.criteria import (
    LEVEL,
    PERMUTED,
    STABILITY,
    Gate,
    Numbers,
    high_of,
    not_run,
    p_of,
)
from scbert_cll._signature.report.ranking import Ranking
from scbert_cll._signature.report.stability import Stability, stability
from scbert_cll._signature.report.study import (
    Study,
    clearest_without_each,
    found_without_each,
    n_found,
)

_RULE = "p ≤ 0.05"


def permuted_gates(
    n_genes: int, permuted: list[Study], rankings: dict[str, Ranking], k: int
) -> list[Gate]:
    """How many genes there are, and how many where labels mean nothing."""
    null = np.array([n_found(study) for study in permuted], dtype=float)
    rule = f"{_RULE}, and at most 1 gene on average where labels are permuted"
    numbers = Numbers(
        float(n_genes), null=null.mean(), null_high=high_of(null), p=p_of(n_genes, null)
    )
    passed = numbers.p <= LEVEL and numbers.null <= 1
    note = "a ranking has as many genes as are taken from its top, whatever the labels"
    same = Numbers(float(k), null=float(k), null_high=float(k), p=1.0)
    plain = [Gate.of(PERMUTED, name, same, rule, passed=False, note=note) for name in rankings]
    return [Gate.of(PERMUTED, "signature", numbers, rule, passed=bool(passed)), *plain]


def stability_gates(
    study: Study, n_genes: int, permuted: list[Study], rankings: dict[str, Ranking], k: int
) -> tuple[list[Gate], pd.DataFrame]:
    """How alike the genes are without single donors, beside the same where labels mean nothing.

    And all runs in a table.
    """
    found: dict[str, list[Stability]] = {}
    if n_genes:  # without genes there is nothing to find again
        null = [stability(clearest_without_each(one, k)) for one in permuted]
        found["signature"] = [stability(found_without_each(study)), *null]
    for name, ranking in rankings.items():
        found[name] = [ranking.stability(k, run) for run in range(len(ranking.values))]
    notes = {
        "signature": f"null: the {k} genes with the largest |t|, since there the signature itself "
        f"is "
        f"mostly empty"
    }
    gates = [] if n_genes else not_run(STABILITY, ["signature"], "the signature is empty")
    gates += [_stable(name, runs, notes.get(name, "")) for name, runs in found.items()]
    rows = [_row(name, i, run) for name, runs in found.items() for i, run in enumerate(runs)]
    return gates, pd.DataFrame(rows).rename(index=str)


def _stable(name: str, runs: list[Stability], note: str) -> Gate:
    own, null = runs[0], np.array([run.nogueira for run in runs[1:]])
    null = null[np.isfinite(null)]
    if np.isnan(own.nogueira) or not len(null):
        return not_run(STABILITY, [name], "no index: all runs choose no gene, or all genes")[0]
    p = p_of(own.nogueira, null)
    numbers = Numbers(own.nogueira, own.low, own.high, null.mean(), high_of(null), p)
    return Gate.of(STABILITY, name, numbers, _RULE, passed=p <= LEVEL, note=note)


def _row(name: str, run: int, found: Stability) -> dict[str, Any]:
    return {
        "subject": name,
        "labels": "permuted" if run else "as they are",
        "run": run,
    } | found._asdict()
