"""How often the slope of `tl.signature` over a number is false, and how often it is found.

    python -m benchmarks.signature.slopes           # 20 data sets a row, three minutes, on one core
    python -m benchmarks.signature.slopes --sets 2  # writes nothing

Poisson counts of 120 cells a donor × 300 genes, 20 of them true, up and down. A level has a
standard deviation of 1 over donors and, within them, of 1 over cells, of which high ones have more
counts. With own slopes every donor has one in every gene, of mean zero; between donors their spread
then grows with the level's distance from its mean, which least squares do not allow for.
"""

from __future__ import annotations

import argparse
import json
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import tl

RESULTS = Path(__file__).parents[1] / "results" / "signature_slopes.json"
N_GENES, N_TRUE, N_CELLS = 300, 20, 120


class Study(NamedTuple):
    """Design, donors, log2 fold change per 1 of the level, standard deviation of donors' slopes."""

    design: str
    n_donors: int
    effect: float = 0.0
    own: float = 0.0


STUDIES = [
    *(Study("within", n, 0.0, own) for n in (5, 8) for own in (0.0, 0.3)),
    *(Study("within", 8, effect, own) for effect in (0.3, 0.6) for own in (0.0, 0.3)),
    *(Study("between", n, 0.0, own) for n in (8, 16) for own in (0.0, 0.15, 0.3)),
    *(Study("between", n, effect) for n in (8, 16, 24) for effect in (0.5, 1.0)),
]


def simulated(study: Study, rng: np.random.Generator) -> AnnData:
    """Cells of one data set; the first genes are true."""
    n, within = study.n_donors, study.design == "within"
    donor = np.repeat(np.arange(n), N_CELLS)
    level = rng.normal(size=n)[donor]
    level = level + rng.normal(size=len(donor)) if within else level
    sign = np.where(np.arange(N_GENES) % 2, -1, 1) * (np.arange(N_GENES) < N_TRUE)
    slope = study.effect * sign + study.own * rng.normal(size=(n, N_GENES))
    log = rng.normal(0.5, 1, N_GENES) + 0.3 * rng.normal(size=(n, N_GENES))[donor]
    log += np.log(2) * level[:, None] * slope[donor] + 0.3 * within * level[:, None]
    counts = sparse.csr_matrix(rng.poisson(np.exp(log)).astype(np.float32))
    obs = pd.DataFrame({"donor": [f"D{i}" for i in donor], "level": level})
    var = pd.DataFrame(index=[f"G{i}" for i in range(N_GENES)])
    return AnnData(counts, obs.set_axis([f"c{i}" for i in obs.index]), var)


def asked(study: Study, rng: np.random.Generator) -> dict[str, float]:
    """Small p of genes without effect; recall and false genes of the test and the selection."""
    adata = simulated(study, rng)
    tl.signature(adata, groupby="level", design=study.design, gene=None)
    genes = adata.uns["signature"]["genes"]
    is_true = genes["gene"].str[1:].astype(int) < (N_TRUE if study.effect else 0)
    row = {f"below_{p}": float((genes.loc[~is_true, "p"] < p).mean()) for p in (0.05, 0.001)}
    for name, called in {"test": genes["q"] < 0.05, "selected": genes["selected"]}.items():
        row[f"n_false_{name}"] = float((called & ~is_true).sum())
        row[f"false_{name}"] = float((called & ~is_true).sum() / max(called.sum(), 1))
        row[f"recall_{name}"] = float(called[is_true].sum() / N_TRUE)
    return row


def main() -> None:
    """A row per study, the mean over its data sets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=20)
    n = parser.parse_args().sets
    warnings.simplefilter("ignore")  # of donors that are compared
    rows = []
    for i, study in enumerate(STUDIES):
        sets = [asked(study, np.random.default_rng([i, seed])) for seed in range(n)]
        rows.append(study._asdict() | pd.DataFrame(sets).mean().round(5).to_dict())
        print(rows[-1], flush=True)
    if n >= 20:
        held = {"date": datetime.now(UTC).date().isoformat(), "n_sets": n, "rows": rows}
        RESULTS.write_text(json.dumps(held, indent=1) + "\n")


if __name__ == "__main__":
    main()
