"""tl.gene_attention: which genes the network attends to."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData
from scipy import sparse

from scbert_cll import _checks, _docs, _keys, _record
from scbert_cll._checks.words import is_model
from scbert_cll.nn.favor import UNIFORM

if TYPE_CHECKING:
    from scbert_cll.model import ScBERT, ScBERTClassifier


@_docs.shared
def gene_attention(
    adata: AnnData,
    model: ScBERT | ScBERTClassifier,
    *,
    groupby: str = _keys.CD49D,
    per_cell: bool = False,
    batch_size: int | None = None,
    key_added: str = _keys.GENE_ATTENTION,
    copy: bool = False,
) -> AnnData | None:
    """Mean attention each gene receives, per group of cells.

    The attention a gene receives, averaged over the genes that attend to it, over heads, layers and
    the cells of a group. It is computed in closed form, in time linear in the number of genes; no
    genes × genes matrix is ever made. Attention follows abundance: read the difference between
    groups, and not the rank within one, and do not take either for a cause.

    Parameters
    ----------
    %(adata_as_trained)s
    model
        A model, pretrained or fine-tuned.
    groupby
        `obs` column of groups; cells without one are left out.
    per_cell
        Also write the attention in each cell as a layer.
    %(batch_size)s
    %(key_added)s
    %(copy)s

    Returns
    -------
    None, or with `copy` the new object, which then holds:

    ``adata.varm['gene_attention']`` : DataFrame (genes × groups), float64
        Share of attention; a column sums to 1. Genes the model does not know have 0. A group that
        no file can hold as a name, such as ``T/NK``, is ``T%2FNK`` here; :func:`get.gene_attention
        <scbert_cll.get.gene_attention>` gives the groups' own names.
    ``adata.uns['gene_attention']`` : dict
        Parameters, the number of cells in each group, and ``attention_floor``, per layer the share
        of the attention features that is their constant floor: near 1 attention is uniform, and a
        gene's share only says how often it attends.
    ``adata.layers['gene_attention']`` : CSR float32, only with ``per_cell=True``
        Share of attention in each cell; a row sums to 1.

    Raises
    ------
    KeyError
        `groupby` or the layer is missing.
    ValueError
        No cell has a group, fewer than half of the model's genes are present, or the layer was
        binned in another way.

    Warns
    -----
    UserWarning
        In every layer more than 0.9 of the attention features is their floor.

    References
    ----------
    Choromanski et al. 2021, arXiv:2009.14794, for the attention; the closed form follows from its
    low rank.
    """
    params = _record.params(locals())
    _checks.adata.anndata(adata)
    is_model(model, ("ScBERT", "ScBERTClassifier"))
    _checks.adata.new_key(key_added, [model.layer])
    groups = _checks.adata.groups(adata, groupby)
    target = _checks.adata.target(adata, copy=copy)
    attention = model.get_gene_attention(groups, adata, batch_size=batch_size)
    attention = attention.reindex(adata.var_names, fill_value=0.0)
    cells = model.get_cell_attention(adata, batch_size=batch_size) if per_cell else None
    floor = model.get_attention_floor(adata)
    warn_if_uniform(floor)
    n_cells = {str(name): int(n) for name, n in groups.value_counts().items()}
    params |= {"layer": model.layer}
    record = {"params": params, "attention_floor": floor, "n_cells": n_cells}
    layers = {}
    if cells is not None:
        # from the model's genes to the object's; those that it lacks had no token, so no attention
        coo, columns = cells.tocoo(), adata.var_names.get_indexer(model.genes)
        places = coo.row, columns[coo.col]
        layers[key_added] = sparse.csr_matrix((coo.data, places), shape=adata.shape)
    varm, uns = {key_added: attention}, {key_added: record}
    old = [("layers", key_added)] if key_added in target.uns else []
    _record.write(target, varm=varm, layers=layers, uns=uns, replaces=old)
    return target if copy else None


def warn_if_uniform(floor: np.ndarray) -> None:
    """Say what differences in attention are worth where it is nearly uniform."""
    if floor.min() > UNIFORM:
        warnings.warn(
            f"Attention is nearly uniform: {floor.min():.0%} of its features are their constant "
            "floor. Differences between groups are then differences in detection. Train with "
            'network={"stabilizer": "head"} or a smaller learning rate.',
            stacklevel=3,
        )
