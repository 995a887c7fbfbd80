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
    """Genes × (group, layer, head), and the correlation with abundance of each of these columns.

    The second is a table by group, layer and head, and the mean of a layer's heads.

    Abundance is the mean token of a gene in the cells of the group; genes that none of them
    expresses are left out.
    """
    attention = model.get_gene_attention(groups, adata, reduce="heads", batch_size=batch_size)
    tokens, _ = _checks.counts.tokens(adata, model.layer)
    rows = []
    for group in attention.columns.unique("group"):
        of_cells = tokens[(groups.astype(str) == group).to_numpy()]
        abundance = pd.Series(
            np.asarray(of_cells.sum(axis=0, dtype=np.int64)).ravel(), adata.var_names
        )
        abundance = abundance.reindex(attention.index).fillna(0)
        expressed = (abundance > 0).to_numpy()
        for layer in range(model.config.n_layers):
            heads = pd.DataFrame(attention.xs((group, layer), axis=1, level=("group", "layer")))
            for head, values in {
                **{str(name): heads[name] for name in heads},
                MEAN: heads.mean(axis=1),
            }.items():
                r = float(stats.spearmanr(values[expressed], abundance[expressed]).statistic)
                rows.append({"group": str(group), "layer": layer, "head": head, "abundance": r})
    return attention, pd.DataFrame(rows).rename(index=str)
