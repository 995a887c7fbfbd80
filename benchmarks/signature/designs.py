"""What `tl.signature` finds beside donors compared within only: with `design="both"`, and how often
it sees that donors of one class tell another story; and with covariates, among donors of one class.

    python -m benchmarks.signature.designs               # 20 data sets a row, minutes, on one core
    python -m benchmarks.signature.designs --covariates  # the second part alone
    python -m benchmarks.signature.designs --quick       # two sets of some rows, writes nothing

First, log-sums of 2,000 genes, 60 of them true; donors' spread and the samples' errors differ from
gene to gene (scaled inverse chi-square, 8 degrees of freedom). Clone genes, 15 % where there are
any, differ between homogeneous donors by clone and not by class. The test alone, without the
classifier.

Second, 24 donors of one class each, in counts of 120 cells × 400 genes (`datasets.planted_donors`,
24 planted genes, effect 1), and a batch that agrees with the class in 75 to 88 % of them and
changes 60 other genes. The whole of `tl.signature(design="between")`.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse, stats

import scbert_cll as sc_cll
from scbert_cll._signature.both import LEVEL, MixedDesign

RESULTS = Path(__file__).parents[1] / "results"
JOINED, COVARIATES = RESULTS / "signature_designs.json", RESULTS / "signature_covariates.json"
N_DONORS, AGREE = 24, (18, 20, 21)  # donors in which batch and class agree
N_GENES, N_TRUE, SD_ERROR = 2000, 60, 0.2
ABUNDANCE = (5, 13)  # log2, from and to


class Study(NamedTuple):
    """Donors with both classes and with one, effect, donors' spread, share of clone genes."""

    n_bimodal: int
    n_homogeneous: int
    effect: float
    sd_donor: float
    clones: float = 0.0


STUDIES = [
    Study(*donors, effect, sd, clones)
    for clones in (0.0, 0.15)
    for donors in ((2, 10), (4, 8))
    for effect in (0.0, 0.5, 1.0)
    for sd in (0.3, 0.5, 0.8)
]


def simulated(study: Study, rng: np.random.Generator) -> MixedDesign:
    """Samples of one data set; the first genes are true."""
    m, n = study.n_bimodal, study.n_homogeneous
    one = rng.permutation(np.resize([0, 1], n))
    code = np.concatenate([np.tile([0, 1], m), one])
    donor = np.concatenate([np.repeat(np.arange(m), 2), m + np.arange(n)])
    spread, error = (
        sd * np.sqrt(6 / rng.chisquare(8, N_GENES)) for sd in (study.sd_donor, SD_ERROR)
    )
    log = rng.uniform(*ABUNDANCE, N_GENES) + error * rng.normal(size=(len(code), N_GENES))
    log += (spread * rng.normal(size=(m + n, N_GENES)))[donor]
    log[:, :N_TRUE] += study.effect * rng.choice([-1, 1], N_TRUE) * code[:, None]
    clones = slice(N_TRUE, N_TRUE + round(study.clones * N_GENES))
    sign = rng.choice([-1, 1], clones.stop - N_TRUE)
    log[:, clones] += sign * (code * (donor >= m))[:, None]
    ones, names = np.ones(len(code)), np.array([f"D{i:02d}" for i in donor], dtype=object)
    total = np.maximum(2.0**log - 2, 0)
    none = np.empty((len(code), 0))
    given = total, names, code, ones, ones, ["negative", "positive"], False, none
    return MixedDesign(*given, np.arange(len(code)))


def asked(study: Study, rng: np.random.Generator) -> dict[str, float]:
    """Recall and share of false genes of each way, verdict, and small p of genes without effect."""
    design = simulated(study, rng)
    joined = design.joined
    ways = {"joined": joined.test.p, "within": design.inside.test().p}
    called = {name: stats.false_discovery_control(p) < 0.05 for name, p in ways.items()}
    called["gated"] = called["joined"] & (joined.p_disagree > LEVEL)
    row = {"disagree": float(not joined.agree), "share": joined.share}
    row["small_p"] = float((joined.test.p[N_TRUE:] < 0.001).mean() / 0.001)
    for name, genes in called.items():
        row[f"recall_{name}"] = float(genes[:N_TRUE].mean())
        row[f"false_{name}"] = float(genes[N_TRUE:].sum() / max(genes.sum(), 1))
    return row


def homogeneous(n_donors: int = N_DONORS, agree: int | None = 20, seed: int = 0) -> AnnData:
    """Donors of one class each; a batch that agrees with it in some of them changes 60 genes."""
    adata = sc_cll.datasets.planted_donors(
        n_donors=n_donors, n_cells=120, size=1.0, n_genes=400, rng=seed
    )
    donor = adata.obs["donor"].cat.codes.to_numpy()
    adata = adata[(donor % 2 == 1) == (adata.obs["label"] == "positive")].copy()
    donor = adata.obs["donor"].cat.codes.to_numpy()
    rng = np.random.default_rng(seed)
    other = np.arange(n_donors) % 2
    if agree is not None:
        other = np.where(rng.permutation(n_donors) < agree, other, 1 - other)
    adata.obs["batch"] = pd.Categorical(np.array(["first", "second"])[other[donor]])
    genes = rng.permutation(np.flatnonzero(adata.var["truth"] == 0))[:60]
    counts = adata.X.toarray().astype(np.int64)
    thinned = rng.binomial(counts[:, genes], np.exp(-1.0))
    counts[:, genes] = np.where((other[donor] == 0)[:, None], thinned, counts[:, genes])
    adata.X = sparse.csr_matrix(counts.astype(np.float32))
    adata.var["of_batch"] = np.isin(np.arange(adata.n_vars), genes)
    return adata


def selected(adata: AnnData, covariates: Sequence[str] = ()) -> tuple[int, int]:
    """Selected genes of the batch, and true ones."""
    options = {"groupby": "label", "design": "between", "covariates": covariates}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "design='between' compares donors")
        sc_cll.tl.signature(adata, **options)
    genes = adata.var.loc[sc_cll.get.signature(adata)["gene"]]
    return int(genes["of_batch"].sum()), int((genes["truth"] != 0).sum())


def adjusted(agree: int, n_sets: int) -> dict[str, object]:
    """Numbers of genes in each data set, with the batch as covariate and without."""
    row: dict[str, object] = {"agree": agree, "n_donors": N_DONORS}
    for name, covariates in {"with": ("batch",), "without": ()}.items():
        sets = [selected(homogeneous(agree=agree, seed=seed), covariates) for seed in range(n_sets)]
        row[f"of_batch_{name}"], row[f"true_{name}"] = map(list, zip(*sets, strict=True))
    return row


def write(path: Path, n_sets: int, rows: list[dict[str, object]]) -> None:
    """A table with its date."""
    table = {"date": datetime.now(UTC).date().isoformat(), "n_sets": n_sets, "rows": rows}
    path.write_text(json.dumps(table, indent=1) + "\n")


def main() -> None:
    """A row per study, the mean over its data sets; then one per share of agreement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=20)
    parser.add_argument("--covariates", action="store_true")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    n = 2 if given.quick else given.sets
    rows: list[dict[str, object]] = []
    for i, study in enumerate([] if given.covariates else STUDIES):
        if given.quick and (study.effect, study.sd_donor) != (1.0, 0.3):
            continue
        sets = [asked(study, np.random.default_rng([i, seed])) for seed in range(n)]
        row = study._asdict() | pd.DataFrame(sets).mean().round(4).to_dict()
        rows.append(row)
        donors = f"{study.n_bimodal} + {study.n_homogeneous}, clones {study.clones:.0%}"
        cells = row["recall_joined"], row["false_joined"], row["disagree"]
        print(
            f"| {donors}, effect {study.effect}, sd {study.sd_donor}", *cells, sep=" | ", flush=True
        )
    if rows and n >= 20:
        write(JOINED, n, rows)
    rows = []
    for agree in AGREE[-1:] if given.quick else AGREE:
        rows.append(row := adjusted(agree, n))
        print(f"| agree {agree}", *list(row.values())[2:], sep=" | ", flush=True)
    if n >= 20:
        write(COVARIATES, n, rows)


if __name__ == "__main__":
    main()
