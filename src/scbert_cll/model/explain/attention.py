"""Attention that genes receive, by group, layer, head or cell, and how much of it is constant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse, stats
from torch import Tensor

from scbert_cll import _checks
from scbert_cll._checks.words import choice
from scbert_cll.model._inference import batches, calm_for, cells_of, token_rows
from scbert_cll.model._protocols import Classifier, Network
from scbert_cll.model.explain.groups import coded, genes_of
from scbert_cll.model.training.devices import enough_memory

Reduce = Literal["mean", "layers", "heads"]
_LEVELS: Final[dict[str, tuple[str, ...]]] = {
    "mean": (),
    "layers": ("layer",),
    "heads": ("layer", "head"),
}

MEAN: Final = "mean"  # in the place of a head: of all heads of a layer

Infer = Callable[..., Tensor]


def get_gene_attention(
    model: Network,
    groups: pd.Series,
    adata: AnnData | None = None,
    *,
    reduce: Reduce = "mean",
    mode: Literal["used", "original"] = "used",
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Mean attention each gene receives, per group of cells.

    The mean over queries, heads, layers and the cells of a group, by the closed form that is linear
    in the number of genes; a gene that does not attend in a cell counts as zero there. Attention
    that goes to scBERT's end token is left out before a column is scaled to sum to 1. Always in
    float32; memory does not grow with the number of cells.

    Parameters
    ----------
    groups
        Group of each cell, in the order of the cells; cells without one are left out.
    adata, batch_size
        As in :meth:`get_latent_representation`.
    reduce
        ``"mean"`` over layers and heads; ``"layers"`` keeps the layers apart, ``"heads"`` the
        layers and their heads.
    mode
        ``"used"`` is the attention of the forward pass. ``"original"`` evaluates it a second time
        behind the residual connection, which is what scBERT returns.

    Returns
    -------
    Genes × groups, float64; a column sums to 1. Columns have the levels group, layer with
    ``reduce="layers"`` and group, layer, head with ``reduce="heads"``, counted from 0.

    Raises
    ------
    ValueError
        Not one group per cell, or no cell with a group.
    """
    choice(mode, ["used", "original"], "mode")
    infer = partial(model.module.gene_attention, original=mode == "original")
    return _of_groups(model, groups, adata, reduce, batch_size, infer)


def attention_to(
    model: Network,
    genes: Sequence[str],
    groups: pd.Series,
    adata: AnnData | None = None,
    *,
    reduce: Reduce = "mean",
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Mean attention each gene receives from chosen genes, per group of cells.

    As :meth:`get_gene_attention`, but the mean over queries is over `genes` alone; a cell in which
    none of them attends takes no part.

    Parameters
    ----------
    genes
        Genes whose attention is followed, e.g. ``["ITGA4"]``.
    groups, adata, reduce, batch_size
        As in :meth:`get_gene_attention`.

    Returns
    -------
    As :meth:`get_gene_attention`; a group in which none of the genes attends has zeros.

    Raises
    ------
    KeyError
        The model does not know one of the genes.
    """
    places = _checks.genes.places_in_model(genes, model.genes)
    chosen = np.isin(np.arange(model.config.n_positions), places)
    asks = torch.from_numpy(chosen).to(model.module.device).float()

    def infer(**cells: Tensor) -> Tensor:
        tokens, genes, weight = cells["tokens"], cells.get("genes"), cells.get("weight")
        share = asks.expand(tokens.shape) if genes is None else asks[genes]
        share = share if weight is None else share * (weight > 0)
        share = share / share.sum(1, keepdim=True).clamp(min=1)
        return model.module.gene_attention(tokens, genes, weight, query_weight=share)

    return _of_groups(model, groups, adata, reduce, batch_size, infer)


def _of_groups(
    model: Network,
    groups: pd.Series,
    adata: AnnData | None,
    reduce: Reduce,
    batch_size: int | None,
    infer: Infer,
) -> pd.DataFrame:
    levels = _LEVELS[choice(reduce, list(_LEVELS), "reduce")]
    codes, names = coded(groups, cells_of(model, adata))
    total = attention_sums(model, codes, len(names), adata, batch_size, infer, levels)
    return attention_shares(model, total, names, levels)


def attention_sums(
    model: Network,
    codes: np.ndarray,
    n_groups: int,
    adata: AnnData | None,
    batch_size: int | None,
    infer: Infer | None = None,
    levels: Sequence[str] = (),
) -> np.ndarray:
    """Attention received, summed over the cells of each group: (groups, *levels, positions).

    A cell with code -1 has no group.
    """
    sizes = _sizes(model, levels)
    total = np.zeros((n_groups, *sizes, model.config.n_positions))
    with calm_for(model):
        for row, genes, received in _received(model, adata, batch_size, infer, levels):
            if codes[row] >= 0:
                total[codes[row]][..., genes] += received
    return total


def attention_shares(
    model: Network, total: np.ndarray, names: Sequence[str], levels: Sequence[str] = ()
) -> pd.DataFrame:
    """Sums of :func:`attention_sums` as shares of the genes: genes × groups."""
    total = total[..., : len(model.genes)].reshape(-1, len(model.genes))
    share = total / np.maximum(total.sum(1, keepdims=True), np.finfo(float).tiny)
    axes = [list(names), *map(range, _sizes(model, levels))]
    columns = pd.MultiIndex.from_product(axes, names=["group", *levels])
    return pd.DataFrame(share.T, model.genes, columns if levels else list(names))


def _sizes(model: Network, levels: Sequence[str]) -> list[int]:
    sizes = {"layer": model.config.n_layers, "head": model.config.n_heads}
    return [sizes[name] for name in levels]


def get_cell_attention(
    model: Network, adata: AnnData | None = None, *, batch_size: int | None = None
) -> sparse.csr_matrix:
    """Attention each gene receives in each cell: CSR float32 (cells, genes of the model).

    A row sums to 1.

    Only genes that attend are stored, so with ``tokens="expressed"`` it is as sparse as the data.
    """
    parts = []
    with calm_for(model):
        for row, genes, received in _received(model, adata, batch_size):
            is_gene = genes < len(model.genes)  # not the end token
            rows = np.full(is_gene.sum(), row)
            parts.append((received[is_gene], rows, genes[is_gene]))
    values, rows, columns = (np.concatenate(part) for part in zip(*parts, strict=True))
    shape = (cells_of(model, adata).n_obs, len(model.genes))
    csr = sparse.csr_matrix((values.astype(np.float32), (rows, columns)), shape=shape)
    csr.data /= np.repeat(np.asarray(csr.sum(1)).ravel(), np.diff(csr.indptr))
    return csr


@torch.inference_mode()
def get_attention_floor(
    model: Network, adata: AnnData | None = None, *, n_cells: int = 256
) -> np.ndarray:
    """Share of the attention features that is their constant floor, per layer.

    Near 1 attention is uniform.

    Parameters
    ----------
    adata
        As in :meth:`get_latent_representation`.
    n_cells
        How many cells, evenly spaced, to look at.

    Returns
    -------
    float32 (layers,), 0 to 1.
    """
    adata = cells_of(model, adata)
    some = np.unique(np.linspace(0, adata.n_obs - 1, n_cells).astype(int))
    data = token_rows(model, adata[some])
    with calm_for(model):
        floors = [
            model.module.attention_floor(**cells)
            for cells, _ in batches(model, data, None, "attention floor")
        ]
    return torch.cat(floors, dim=1).mean(1).float().cpu().numpy()


@torch.inference_mode()
def _received(
    model: Network,
    adata: AnnData | None,
    batch_size: int | None,
    infer: Infer | None = None,
    levels: Sequence[str] = (),
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Row, genes (n,) and the attention they receive, (*levels, n), of every cell."""
    attention: Infer = infer or model.module.gene_attention
    data = token_rows(model, adata)
    for cells, rows in batches(model, data, batch_size, "attention"):
        with enough_memory(model.config, batch_size, training=False):
            received = attention(**cells).transpose(0, 1)  # (b, layers, h, n)
        for level, axis in (("head", 2), ("layer", 1)):
            received = received if level in levels else received.mean(axis)
        tokens = cells["tokens"]
        attends = (cells.get("weight", torch.ones(tokens.shape)) > 0).cpu().numpy()
        columns = (rows, genes_of(cells), received.cpu().numpy(), attends)
        for row, its_genes, its_attention, attending in zip(*columns, strict=True):
            yield int(row), its_genes[attending], its_attention[..., attending]


def attention_layers(
    model: Classifier, adata: AnnData, groups: pd.Series, batch_size: int | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Genes × (group, layer, head), and the correlation with abundance of each of these columns.

    The second is a table by group, layer and head, and the mean of a layer's heads. Abundance is
    the mean token of a gene in the cells of the group; genes that none of them expresses are left
    out.
    """
    infer = model.module.gene_attention
    attention = _of_groups(model, groups, adata, "heads", batch_size, infer)
    tokens, _ = _checks.counts.tokens(adata, model.layer)
    rows = []
    for group in attention.columns.unique("group"):
        of_cells = tokens[(groups.astype(str) == group).to_numpy()]
        counts = np.asarray(of_cells.sum(axis=0, dtype=np.int64)).ravel()
        abundance = pd.Series(counts, adata.var_names).reindex(attention.index)
        expressed = (abundance > 0).to_numpy()
        for layer in range(model.config.n_layers):
            of_layer = attention.xs((group, layer), axis=1, level=("group", "layer"))
            heads = pd.DataFrame(of_layer)[expressed]
            for head, values in heads.assign(**{MEAN: heads.mean(axis=1)}).items():
                r = float(stats.spearmanr(values, abundance[expressed]).statistic)
                row = {"group": str(group), "layer": layer, "head": str(head)}
                rows.append(row | {"abundance": r})
    return attention, pd.DataFrame(rows).rename(index=str)
