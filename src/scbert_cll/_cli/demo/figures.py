"""The demo's figures, drawn when everything else is on disk."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, cast

import matplotlib as mpl
import pandas as pd
import scanpy as sc
from anndata import AnnData
from mudata import MuData

import scbert_cll as sc_cll
from scbert_cll import _checks, _keys

# ten colours told apart with any colour vision
_PALETTE: Final = (
    "#0173B2", "#DE8F05", "#029E73", "#D55E00", "#CC78BC",
    "#CA9161", "#FBAFE4", "#949494", "#ECE133", "#56B4E9",
)  # fmt: skip


def plots(
    data: AnnData | MuData,
    adata: AnnData,
    models: Mapping[str, Any],
    *,
    donor_key: str,
    places: Mapping[str, Any],
    gene: str | None,
    marker: str,
    seed: int,
) -> dict[str, Callable[[], Any]]:
    """Name of a figure → what draws it.

    `places` says where the counts, the RNA and the protein are.
    """
    truth = adata.uns[_keys.TRUTH]["gene"].tolist() if _keys.TRUTH in adata.uns else None
    found: dict[str, Callable[[], Any]] = {
        "signature": lambda: sc_cll.pl.signature(adata, return_fig=True),
        "gene_attention": lambda: sc_cll.pl.gene_attention(
            adata, groups=f"{marker}+", highlight=truth, highlight_label="planted", return_fig=True
        ),
        "confusion": lambda: sc_cll.pl.confusion(adata, return_fig=True),
        "umap": lambda: _umap(adata, donor_key, marker, seed),
    }
    for name, model in models.items():
        found[f"history_{name}"] = partial(sc_cll.pl.history, model, return_fig=True)
    if gene is not None:
        found["cd49d"] = lambda: sc_cll.pl.cd49d(
            data,
            marker=marker,
            gene=gene,
            donor_key=donor_key,
            cells=cast("pd.DataFrame", adata.obs)[_keys.score(_keys.CD49D)].notna(),
            normalize=adata.uns[_keys.CD49D]["params"]["normalize"],
            **places,
            return_fig=True,
        )
    return found


def _umap(adata: AnnData, donor_key: str, marker: str, seed: int) -> Any:
    """Embedded cells, of an object of its own: scanpy writes graphs and colours to what it draws."""
    obs = cast("pd.DataFrame", adata.obs)
    panels = {
        "predicted": obs[_keys.PRED],
        f"{marker} protein": obs[_keys.CD49D],
        "donor": _checks.people.donors(adata, donor_key, quiet=True),
    }
    panels["split"] = obs[_keys.SPLIT]
    if panels["donor"].nunique() == 1:
        del panels["donor"]
    columns = {name: column.astype("category") for name, column in panels.items()}
    cells = AnnData(obs=pd.DataFrame(columns, index=adata.obs_names))
    cells.obsm[_keys.X_SCBERT] = adata.obsm[_keys.X_SCBERT]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap and numba speak of their own internals
        sc.pp.neighbors(cells, use_rep=_keys.X_SCBERT, random_state=seed)
        sc.tl.umap(cells, random_state=seed)
        with mpl.rc_context({"figure.figsize": (2.6, 2.6), "font.size": 8}):
            return sc.pl.umap(
                cells,
                color=list(panels),
                palette=_PALETTE,
                size=12,
                frameon=False,
                wspace=0.45,
                ncols=2,
                return_fig=True,
                show=False,
            )
