"""Cells whose genes have other names than a model's: the same cells, under the model's names."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks
from scbert_cll._disk.formats import Json
from scbert_cll._gene_names.columns import places_in
from scbert_cll.model._inference import hidden_genes
from scbert_cll.model._protocols import Network

logger = logging.getLogger(__name__)


class Named(NamedTuple):
    """Cells with the names that a model has for their genes, and how these were found."""

    adata: AnnData  # what was given, where the names are the model's
    n_renamed: int
    column: str | None  # of `var`, where the names are not from the index
    share: float  # of the tokens above bin 0 in the model's genes, which are those genes'

    @property
    def record(self) -> dict[str, object]:
        """What a result says of it."""
        facts = {"n_genes_renamed": self.n_renamed, "named_by": self.column or "index"}
        return facts | {"tokens_renamed": self.share}


def named_as(model: Network, adata: AnnData) -> Named:
    """Cells under the names of a model, for results per cell; `adata` stays as it is.

    Genes the model is not shown count, too: their names are needed to compare totals.
    """
    whole = pd.Index([*model.genes, *hidden_genes(model)], dtype=object).unique()
    places, column = places_in(adata.var, whole)
    genes, places = whole[places >= 0], places[places >= 0]
    names = adata.var_names.to_numpy(dtype=object, copy=True)
    is_renamed = names[places] != genes
    if not is_renamed.any() or model.layer not in adata.layers:
        return Named(adata, 0, None, 0.0)
    names[places] = genes
    index = pd.Index(names)
    tokens = _checks.counts.as_csr(adata.layers[model.layer], f"adata.layers[{model.layer!r}]")
    n_tokens = np.bincount(tokens.indices, minlength=len(names))
    in_model = places[genes.isin(model.genes)]
    of_model = n_tokens[places[is_renamed & genes.isin(model.genes)]].sum()
    share = float(of_model / max(n_tokens[in_model].sum(), 1))
    uns = dict(adata.uns)
    if isinstance(record := uns.get(model.layer), Mapping):
        uns[model.layer] = _renamed(record, adata.var_names, index)
    obs, var = (cast("pd.DataFrame", table) for table in (adata.obs, adata.var))
    var = var.set_axis(index, axis=0)
    cells = AnnData(obs=obs[[]], var=var, layers={model.layer: tokens}, uns=uns)
    logger.info(
        "%d of the model's %d genes have another name in the data (%s), and %.1f %% of the tokens",
        *(int(is_renamed.sum()), len(whole), column or "index", 100 * share),
    )
    return Named(cells, int(is_renamed.sum()), column, share)


def _renamed(record: Mapping[str, Any], old: pd.Index, new: pd.Index) -> Json:
    """The record of the tokens, with the new names in it."""
    params, edges = dict(record.get("params", {})), record.get("edges")
    of_totals = _checks.counts.totals_of(old)
    if params.get("genes_digest") == of_totals["genes_digest"]:
        params |= _checks.counts.totals_of(new)
    if isinstance(edges, pd.DataFrame):
        edges = edges.rename(index=dict(zip(old, new, strict=True)))
    return dict(record) | {"params": params, "edges": edges}
