"""Attention of each layer and head, and how closely it follows abundance."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import stats

from scbert_cll import _checks
from scbert_cll.model import ScBERTClassifier

MEAN = "mean"  # in the place of a head: of all heads of a layer


def attention_layers(
    model: ScBERTClassifier, adata: AnnData, groups: pd.Series, batch_size: int | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Genes × "group|layer|head", and a table of the correlation with abundance per group, layer and head (or their mean).

    Abundance is the mean token of a gene in the cells of the group; genes that none of them expresses are left out.
    """
    found = model.get_gene_attention(groups, adata, reduce="heads", batch_size=batch_size)
    tokens, _ = _checks.tokens(adata, model.layer)
    rows = []
    for group, of_group in found.T.groupby(level="group"):
        of_cells = tokens[(groups.astype(str) == group).to_numpy()]
        abundance = (
            pd.Series(np.asarray(of_cells.sum(axis=0, dtype=np.int64)).ravel(), adata.var_names)
            .reindex(found.index)
            .fillna(0)
        )
        expressed = (abundance > 0).to_numpy()
        for layer, of_layer in of_group.groupby(level="layer"):
            heads = {str(head): values for (_, _, head), values in of_layer.iterrows()} | {MEAN: of_layer.mean()}
            for head, values in heads.items():
                r = stats.spearmanr(values[expressed], abundance[expressed]).statistic
                rows.append({"group": str(group), "layer": int(layer), "head": head, "abundance": float(r)})
    flat = found.set_axis([f"{group}|{layer}|{head}" for group, layer, head in found.columns], axis=1)
    return flat, pd.DataFrame(rows).rename(index=str)
