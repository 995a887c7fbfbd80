"""The demo's figures, drawn when everything else is on disk."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import matplotlib as mpl
import pandas as pd
import scanpy as sc
from anndata import AnnData

import scbert_cll as sc_cll
from scbert_cll import _checks, _keys
from scbert_cll._cli.demo.job import Job

# ten colours told apart with any colour vision
_PALETTE: Final = (
    "#0173B2", "#DE8F05", "#029E73", "#D55E00", "#CC78BC",
    "#CA9161", "#FBAFE4", "#949494", "#ECE133", "#56B4E9",
)  # fmt: skip


def plots(job: Job, models: Mapping[str, Any]) -> dict[str, Callable[[], Any]]:
    """Name of a figure → what draws it."""
    adata, pl = job.adata, sc_cll.pl
    truth = list(adata.uns[_keys.TRUTH]["gene"]) if _keys.TRUTH in adata.uns else None
    figures: dict[str, Callable[..., Any]] = {
        "signature": partial(pl.signature, adata),
        "gene_attention": partial(
            pl.gene_attention,
            adata,
            groups=job.positive,
            highlight=truth,
            highlight_label="planted",
        ),
        "confusion": partial(pl.confusion, adata, donor_key=job.donor_key),
        "umap": partial(_umap, job),
    }
    for name, model in models.items():
        figures[f"history_{name}"] = partial(pl.history, model)
    if job.gene is not None:
        figures["cd49d"] = partial(
            pl.cd49d,
            job.cells.data,
            marker=job.options.marker,
            gene=job.gene,
            donor_key=job.donor_key,
            cells=job.obs[_keys.score(_keys.CD49D)].notna(),
            normalize=adata.uns[_keys.CD49D]["params"]["normalize"],
            layer=job.cells.layer,
            rna_key=job.cells.rna_key,
            protein_key=job.reading.protein_key,
        )
    return {name: partial(plot, return_fig=True) for name, plot in figures.items()}


def _umap(job: Job, *, return_fig: bool) -> Any:
    """Embedded cells, of an object of their own: scanpy writes graphs and colours to it."""
    obs, adata = job.obs, job.adata
    marker = f"{job.options.marker} protein"
    panels = {"predicted": obs[_keys.PRED], marker: obs[_keys.CD49D]}
    donors = _checks.people.donors(adata, job.donor_key, quiet=True)
    if donors.nunique() > 1:
        panels["donor"] = donors
    panels["split"] = obs[_keys.SPLIT]
    columns = {name: column.astype("category") for name, column in panels.items()}
    cells = AnnData(obs=pd.DataFrame(columns, index=adata.obs_names))
    cells.obsm[_keys.X_SCBERT] = adata.obsm[_keys.X_SCBERT]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap and numba speak of their own internals
        sc.pp.neighbors(cells, use_rep=_keys.X_SCBERT, random_state=job.options.seed)
        sc.tl.umap(cells, random_state=job.options.seed)
        with mpl.rc_context({"figure.figsize": (2.6, 2.6), "font.size": 8}):
            return sc.pl.umap(
                cells,
                color=list(panels),
                palette=_PALETTE,
                size=12,
                frameon=False,
                wspace=0.45,
                ncols=2,
                return_fig=return_fig,
                show=False,
            )
