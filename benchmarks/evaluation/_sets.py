"""Sets of the evaluation: counts, labels, donors and proteins, from the folder of real data and the
toy.
"""

from __future__ import annotations

import warnings
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData, read_h5mu
from sklearn.model_selection import train_test_split

import scbert_cll as sc_cll

BENCHMARKS = Path(__file__).parents[1]
PROTEIN = "protein"
T_CELLS = ("memoryt", "regulatoryt", "thelper", "cytotoxict", "naivet", "naivecytotoxic")


@dataclass
class Set:
    """Cells with labels, and how they are cross-validated."""

    title: str
    adata: AnnData
    labels_key: str
    donor_key: str | None
    scheme: str
    gene: str
    extra: AnnData | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        protein_key = PROTEIN if PROTEIN in self.adata.obsm else None
        return {
            "labels_key": self.labels_key,
            "donor_key": self.donor_key,
            "scheme": self.scheme,
            "gene": self.gene,
            "protein_key": protein_key,
        }


def parser_of(doc: str | None, sets: Iterable[str], folds: Path) -> ArgumentParser:
    """What every command on these sets takes: data, sets, cells, and where folds are kept."""
    parser = ArgumentParser(description=doc, formatter_class=RawDescriptionHelpFormatter)
    data = BENCHMARKS.parents[1] / "shared" / "data"
    parser.add_argument("--data", type=Path, default=data, help="folder of the real data")
    parser.add_argument("--sets", nargs="+", choices=list(sets))
    parser.add_argument("--cells", type=int, help="so many labelled cells only, drawn by class")
    parser.add_argument("--checkpoint", type=Path, default=folds, help="folder of finished folds")
    return parser


def compared(data: Set, **options: Any) -> pd.DataFrame:
    """Estimates of the metrics (model × metric) in the folds of the set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc_cll.tl.cross_validate(data.adata, **{**data.arguments, **options})
    summary = data.adata.uns["cv"]["summary"]
    return summary.pivot_table(index="model", columns="metric", values="estimate")


def load(name: str, folder: Path) -> Set:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SETS[name](folder)


def toy(_: Path, *, programme: bool = True, **size: int) -> Set:
    mdata = sc_cll.datasets.cll_toy(programme=programme, **size)
    rna = _with_protein(mdata)
    sc_cll.pp.label_cd49d(
        mdata, normalize="clr_protein", cells=sc_cll.pp.cll_mask(mdata), donor_key="donor"
    )
    title = "cll_toy, CD49d" if programme else "cll_toy without programme, CD49d"
    return Set(title, rna, "cd49d", "donor", "leave_one_donor_out", "ITGA4")


def toy_permuted(folder: Path) -> Set:
    """The toy with its labels permuted within each donor: nothing left to find but what donors give
    away.
    """
    data, rng = toy(folder), np.random.default_rng(0)
    labels = data.adata.obs["cd49d"]
    for rows in data.adata.obs.groupby("donor", observed=True).indices.values():
        labels.iloc[rows] = labels.iloc[rng.permutation(rows)].to_numpy()
    data.adata.obs["cd49d"] = labels
    data.title = "cll_toy, labels permuted within donors"
    return data


def bmmc(folder: Path) -> Set:
    mdata = read_h5mu(folder / "bmmc_cite.h5mu")
    rna = _with_protein(mdata)
    sc_cll.pp.label_cd49d(mdata, method="quantile", donor_key="donor")
    return Set(
        "bone marrow, CD49d outer thirds", rna, "cd49d", "donor", "leave_one_donor_out", "ITGA4"
    )


def pbmc(folder: Path, *, marker: str, gene: str) -> Set:
    adata = ad.read_h5ad(folder / "pbmc_10k_cite.h5ad")
    sc_cll.pp.label_cd49d(adata, marker=marker, normalize="clr_protein", donor_key=None)
    extra = ad.read_h5ad(folder / "pbmc_5k.h5ad")
    return Set(f"PBMC, {marker}", adata, "cd49d", None, "random_cell", gene, extra)


def t_versus_b(folder: Path) -> Set:
    adata = ad.read_h5ad(folder / "sorted_pbmc.h5ad")
    kind = adata.obs["cell_type"].astype(str)
    cells = adata[kind.isin([*T_CELLS, "bcells"]).to_numpy()].copy()
    is_t = cells.obs["cell_type"].astype(str).isin(T_CELLS).to_numpy()
    cells.obs["kind"] = pd.Categorical(np.where(is_t, "T", "B"), ["B", "T"])
    return Set("sorted PBMC, T versus B", cells, "kind", None, "random_cell", "CD3E")


def some(data: Set, n_cells: int) -> Set:
    """So many labelled cells, in the proportions of their classes, and none without a label."""
    labels = data.adata.obs[data.labels_key]
    rows = np.flatnonzero(labels.notna())
    drawn, _ = train_test_split(
        rows, train_size=n_cells, stratify=labels.iloc[rows], random_state=0
    )
    data.adata = data.adata[np.sort(drawn)].copy()
    data.title += f" ({n_cells:,} cells)"
    return data


def _with_protein(mdata: MuData) -> AnnData:
    rna: AnnData = mdata["rna"]
    rna.obsm[PROTEIN] = mdata["prot"].to_df()
    return rna


SETS: dict[str, Callable[[Path], Set]] = {
    "toy": toy,
    "bmmc": bmmc,
    "CD45RA": partial(pbmc, marker="CD45RA", gene="PTPRC"),
    "TIGIT": partial(pbmc, marker="TIGIT", gene="TIGIT"),
    "CD127": partial(pbmc, marker="CD127", gene="IL7R"),
    "CD4": partial(pbmc, marker="CD4", gene="CD4"),
    "CD8a": partial(pbmc, marker="CD8a", gene="CD8A"),
    "t_versus_b": t_versus_b,
    "toy_no_programme": partial(toy, programme=False),
    "toy_permuted": toy_permuted,
}
