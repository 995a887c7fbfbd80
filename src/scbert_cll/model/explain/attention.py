"""Attention that genes receive, by group, layer, head or cell, and how much of it is constant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse, stats
from torch import Tensor

from scbert_cll import _checks
from scbert_cll._checks.words import choice
from scbert_cll._gene_names.resolver import in_data
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

Infer = Callable[..., Tensor]


class Attention(NamedTuple):
    """Attention that genes receive in some cells, and the levels that are kept apart."""

    model: Network
    adata: AnnData | None
    batch_size: int | None
    levels: Sequence[str] = ()  # of "layer", "head"; means are taken over the others
    infer: Infer | None = None  # the attention of the forward pass

    @property
    def _sizes(self) -> list[int]:
        config = self.model.config
        sizes = {"layer": config.n_layers, "head": config.n_heads}
        return [sizes[name] for name in self.levels]

    @torch.inference_mode()
    def of_cells(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Row, genes (n,) and the attention they receive, (*levels, n), of every cell."""
        model, batch_size = self.model, self.batch_size
        attention: Infer = self.infer or model.module.gene_attention
        data = token_rows(model, self.adata)
        for cells, rows in batches(model, data, batch_size, "attention"):
            with enough_memory(model.config, batch_size, training=False):
                received = attention(**cells).transpose(0, 1)  # (b, layers, h, n)
            for level, axis in (("head", 2), ("layer", 1)):
                received = received if level in self.levels else received.mean(axis)
            tokens = cells["tokens"]
            attends = (cells.get("weight", torch.ones(tokens.shape)) > 0).cpu().numpy()
            columns = (rows, genes_of(cells), received.cpu().numpy(), attends)
            for row, its_genes, its_attention, attending in zip(*columns, strict=True):
                yield int(row), its_genes[attending], its_attention[..., attending]

    def sums(self, codes: np.ndarray, n_groups: int) -> np.ndarray:
        """Attention summed over the cells of each group: (groups, *levels, positions).

        A cell with code -1 has no group.
        """
        total = np.zeros((n_groups, *self._sizes, self.model.config.n_positions))
        with calm_for(self.model):
            for row, genes, received in self.of_cells():
                if codes[row] >= 0:
                    total[codes[row]][..., genes] += received
        return total

    def shares(self, total: np.ndarray, names: Sequence[str]) -> pd.DataFrame:
        """These sums as shares of the genes: genes × groups."""
        genes = self.model.genes
        total = total[..., : len(genes)].reshape(-1, len(genes))
        share = total / np.maximum(total.sum(1, keepdims=True), np.finfo(float).tiny)
        axes = [list(names), *map(range, self._sizes)]
        columns = pd.MultiIndex.from_product(axes, names=["group", *self.levels])
        return pd.DataFrame(share.T, genes, columns if self.levels else list(names))

    def of_groups(self, groups: pd.Series) -> pd.DataFrame:
        """The shares in the cells of each group."""
        codes, names = coded(groups, cells_of(self.model, self.adata))
        return self.shares(self.sums(codes, len(names)), names)


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
    levels = _LEVELS[choice(reduce, list(_LEVELS), "reduce")]
    infer = partial(model.module.gene_attention, original=mode == "original")
    return Attention(model, adata, batch_size, levels, infer).of_groups(groups)


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
    genes = in_data([genes] if isinstance(genes, str) else genes, model.genes)
    places = _checks.genes.places_in_model(genes, model.genes)
    chosen = np.isin(np.arange(model.config.n_positions), places)
    asks = torch.from_numpy(chosen).to(model.module.device).float()

    def infer(**cells: Tensor) -> Tensor:
        tokens, genes, weight = cells["tokens"], cells.get("genes"), cells.get("weight")
        share = asks.expand(tokens.shape) if genes is None else asks[genes]
        share = share if weight is None else share * (weight > 0)
        share = share / share.sum(1, keepdim=True).clamp(min=1)
        return model.module.gene_attention(tokens, genes, weight, query_weight=share)

    levels = _LEVELS[choice(reduce, list(_LEVELS), "reduce")]
    return Attention(model, adata, batch_size, levels, infer).of_groups(groups)


def get_cell_attention(
    model: Network, adata: AnnData | None = None, *, batch_size: int | None = None
) -> sparse.csr_matrix:
    """Attention each gene receives in each cell: CSR float32 (cells, genes of the model).

    A row sums to 1.

    Only genes that attend are stored, so with ``tokens="expressed"`` it is as sparse as the data.
    """
    parts = []
    with calm_for(model):
        for row, genes, received in Attention(model, adata, batch_size).of_cells():
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


def attention_layers(
    model: Classifier, adata: AnnData, groups: pd.Series, batch_size: int | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Genes × (group, layer, head), and the correlation with abundance of each of these columns.

    The second is a table by group, layer and head, and the mean of a layer's heads. Abundance is
    the mean token of a gene in the cells of the group; genes that none of them expresses are left
    out.
    """
    levels = _LEVELS["heads"]
    attention = Attention(model, adata, batch_size, levels).of_groups(groups)
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
            for head, values in heads.assign(mean=heads.mean(axis=1)).items():
                r = float(stats.spearmanr(values, abundance[expressed]).statistic)
                row = {"group": str(group), "layer": layer, "head": str(head)}
                rows.append(row | {"abundance": r})
    return attention, pd.DataFrame(rows).rename(index=str)
