"""Over-representation: genes of a set are among the chosen ones more often than by chance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from scbert_cll._checks.words import listed


def over_representation(
    chosen: Iterable[str], universe: Iterable[str], sets: Mapping[str, Iterable[str]]
) -> pd.DataFrame:
    """Fisher's exact test, one-sided, of each set: one row per set, the clearest first.

    ``n`` of the ``size`` genes that the set has in `universe` are chosen, where ``expected`` would
    be by chance. The ``odds_ratio`` has half a gene added to every field of the table (Haldane and
    Anscombe), so that it is finite. ``q`` is Benjamini and Hochberg's over the sets that have a
    gene in `universe`; the others have no test. decoupler's ``ora`` is not used: it takes the genes
    from the top of a ranking and tests both sides.
    """
    chosen, universe = set(chosen), set(universe)
    if others := sorted(chosen - universe):
        raise ValueError(
            "universe must hold all genes that could have been chosen, so all that were; it lacks "
            f"{listed(others)}."
        )
    rows = [_row(name, chosen, universe, set(genes) & universe) for name, genes in sets.items()]
    table = pd.DataFrame(rows, columns=["set", "n", "size", "expected", "odds_ratio", "p"])
    table = table.astype({"odds_ratio": np.float64, "p": np.float64})  # no row, no type
    table["q"] = np.nan
    tested = table["p"].notna()
    table.loc[tested, "q"] = stats.false_discovery_control(table.loc[tested, "p"])
    return table.sort_values(["p", "set"], kind="stable", ignore_index=True)


def _row(
    name: str, chosen: set[str], universe: set[str], genes: set[str]
) -> tuple[str, int, int, float, float, float]:
    n, size, n_chosen, total = len(chosen & genes), len(genes), len(chosen), len(universe)
    expected = size * n_chosen / total if total else 0.0
    if not size:
        return name, 0, 0, expected, np.nan, np.nan
    fields = np.array([n, n_chosen - n, size - n, total - n_chosen - size + n]) + 0.5
    odds_ratio = float(fields[0] * fields[3] / (fields[1] * fields[2]))
    return (
        name,
        n,
        size,
        expected,
        odds_ratio,
        float(stats.hypergeom.sf(n - 1, total, size, n_chosen)),
    )
