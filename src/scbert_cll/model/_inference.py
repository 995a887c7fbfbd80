"""What both models do with cells: find genes by name, embed, and read attention, cell by cell."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from torch import Tensor

from scbert_cll import _checks
from scbert_cll._bar import Bar
from scbert_cll._checks.words import choice, number_in
from scbert_cll._threads import calm
from scbert_cll.model import _finite, _scvi
from scbert_cll.model.training.batches import Cells, TokenRows, in_order_of_length, take_columns
from scbert_cll.model.training.divergence import usable
from scbert_cll.model.training.memory import enough_memory
from scbert_cll.nn import Config, Performer
from scbert_cll.nn.performer import mean_tokens

logger = logging.getLogger(__name__)

Reduce = Literal["mean", "layers", "heads"]
_KEPT: Final[dict[str, tuple[str, ...]]] = {
    "mean": (),
    "layers": ("layer",),
    "heads": ("layer", "head"),
}
# Numbers in one tensor of an inference batch (cells × tokens × width): 64 MB in float32 on a CPU, 1
# GB on a GPU; in the short modes 4 MB on a CPU, whose caches hold that: the small network embeds
# cells of 1,000 genes 1.5 times as fast as with 64 MB.
_NUMBERS_PER_BATCH: Final = {"cpu": 2**24, "cuda": 2**28}
_SHORT_ON_CPU: Final = 2**20
_SMALL_WIDTH: Final = (
    128  # of all heads together: one thread is enough for it, and threads would wait more than work
)


class Inference(_scvi.BaseModelClass):  # type: ignore[misc]
    """A network, its genes and its binning, and what it says about cells."""

    module: Performer
    layer: str
    genes: pd.Index
    binning: dict[str, Any]
    _missing: tuple[int, str] = (
        -1,
        "",
    )  # how many of the model's genes the cells lack that it last saw, and the first of the cells

    @property
    def config(self) -> Config:
        """Dimensions and choices of the network."""
        return self.module.config

    def _calm(self) -> AbstractContextManager[None]:
        """No thread spins while a network of this size is at work."""
        return calm(small=self.config.n_heads * self.config.dim_head <= _SMALL_WIDTH)

    def _cells(self, adata: AnnData | None) -> AnnData:
        """Return the cells that were given, or those the model was made with."""
        if adata is None and self.adata is None:
            raise ValueError(
                "This model was loaded without cells; name them (adata=…), or attach them: "
                "load(folder, adata)."
            )
        return _checks.adata.anndata(self.adata if adata is None else adata)

    def _rows(self, adata: AnnData | None, *, seed: int = 0, **columns: np.ndarray) -> TokenRows:
        """Tokens of the model's genes, found by name: other orders and extra genes do not matter."""
        adata = self._cells(adata)
        csr, record = _checks.tokens.tokens(adata, self.layer)
        self._fits(record, adata, f"adata.layers[{self.layer!r}]")
        csr = take_columns(csr, adata.var_names.get_indexer(self.genes))
        if self.config.tokens != "all":
            _checks.tokens.tokens_in_every_cell(np.diff(csr.indptr), adata, self.layer)
        return TokenRows(csr, self.config, seed=seed, **columns)

    def _fits(
        self, record: Mapping[str, Any], adata: AnnData, where: str, *, is_corpus: bool = False
    ) -> None:
        """Refuse tokens that were cut at other edges or from totals of other genes than the model's, or that most of its genes are missing from."""
        hidden = self._hidden_genes
        _checks.tokens.same_binning(
            record,
            self.binning,
            where,
            "pp.build_corpus(…, edges=model.binning)" if is_corpus else "",
        )
        self._tell_missing(
            _checks.genes.model_genes(self.genes, adata, is_corpus=is_corpus),
            str(adata.obs_names[0]) if adata.n_obs else "0",
        )
        names, expected = adata.var_names, self.binning["params"]
        _checks.tokens.same_totals(
            record["params"], names, expected, self.genes, hidden, where, is_corpus=is_corpus
        )

    @property
    def _hidden_genes(self) -> list[str]:
        """Genes that are in the totals of its tokens, and that it is not shown."""
        return list(self.registry["setup_args"]["exclude_genes"])

    def _tell_missing(self, missing: pd.Index, first_cell: str) -> None:
        """Say how many of the model's genes cells lack.

        Once, though verbs read the same cells more than once.
        """
        if (len(missing), first_cell) != self._missing:
            self._missing = (len(missing), first_cell)
            level = (
                logging.INFO if len(missing) else logging.DEBUG
            )  # that all are there is in the record, and no news
            logger.log(
                level,
                "%d of the model's %d genes are in the data",
                len(self.genes) - len(missing),
                len(self.genes),
            )

    def _refuse_not_finite(self) -> None:
        """Say nothing about cells with weights that are no finite numbers."""
        usable(self.module.state_dict())

    def _batches(
        self, data: TokenRows, batch_size: int | None, what: str
    ) -> Iterator[tuple[Cells, np.ndarray]]:
        """All cells once, on the model's device, and their rows.

        With a progress bar on a terminal.
        """
        self._refuse_not_finite()
        if batch_size is not None:
            number_in(batch_size, "batch_size", 1, np.inf, whole=True)
        config, device = self.config, self.module.device
        width = (
            config.n_hidden if config.attention == "favor" else 3 * config.n_heads * config.dim_head
        )
        at_a_time = _NUMBERS_PER_BATCH.get(device.type, _NUMBERS_PER_BATCH["cpu"])
        if device.type == "cpu" and config.tokens != "all":
            at_a_time = _SHORT_ON_CPU
        fits = at_a_time // (width * int(data.n_tokens().max()))
        batch_size = batch_size or int(np.clip(fits, 1, 256))
        batches = in_order_of_length(data, batch_size)
        self.module.eval()
        for batch in Bar(batches, desc=what, unit="batch", leave=None, disable=None):
            rows = batch["rows"].split([len(cells["tokens"]) for cells in batch["cells"]])
            for cells, found in zip(batch["cells"], rows, strict=True):
                yield {name: tensor.to(device) for name, tensor in cells.items()}, found.numpy()

    def _collect(
        self,
        adata: AnnData | None,
        batch_size: int | None,
        width: Sequence[int],
        infer: Callable[..., Sequence[Tensor]],
    ) -> list[np.ndarray]:
        """Results of `infer` for every cell, in the order of the cells."""
        return self._collect_rows(
            self._rows(adata), batch_size, width, infer, self._cells(adata).obs_names
        )

    @torch.inference_mode()
    def _collect_rows(
        self,
        data: TokenRows,
        batch_size: int | None,
        width: Sequence[int],
        infer: Callable[..., Sequence[Tensor]],
        names: pd.Index | None = None,
    ) -> list[np.ndarray]:
        """The same of tokens; of cells without names a refusal tells the number."""
        found = [np.empty((len(data), w), np.float32) for w in width]
        with self._calm():
            for cells, rows in self._batches(data, batch_size, "cells"):
                with enough_memory(self.config, batch_size, training=False):
                    results = infer(**cells)
                for place, result in zip(found, results, strict=True):
                    place[rows] = result.float().cpu().numpy()
        for values in found:
            _finite.results(values, pd.RangeIndex(len(data)) if names is None else names)
        return found

    def get_latent_representation(
        self, adata: AnnData | None = None, *, batch_size: int | None = None
    ) -> np.ndarray:
        """Embed cells: the mean over a cell's refined tokens.

        Parameters
        ----------
        adata
            Cells with the binned layer; genes are matched by name. None: the AnnData the model was
            made with.
        batch_size
            Cells at a time; affects speed and memory, not results.

        Returns
        -------
        float32 (cells, n_hidden).
        """
        (latent,) = self._collect(
            adata, batch_size, [self.config.n_hidden], lambda **cells: [self._embed(**cells)]
        )
        return latent

    def _embed(
        self, tokens: Tensor, genes: Tensor | None = None, weight: Tensor | None = None
    ) -> Tensor:
        return mean_tokens(self.module.encode(tokens, genes, weight), weight)

    def get_gene_attention(
        self,
        groups: pd.Series,
        adata: AnnData | None = None,
        *,
        reduce: Reduce = "mean",
        mode: Literal["used", "original"] = "used",
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """Mean attention each gene receives, per group of cells.

        The mean over queries, heads, layers and the cells of a group, by the closed form that is
        linear in the number of genes; a gene that does not attend in a cell counts as zero there.
        Attention that goes to scBERT's end token is left out before a column is scaled to sum to 1.
        Always in float32; memory does not grow with the number of cells.

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
            ``"used"`` is the attention of the forward pass. ``"original"`` evaluates it a second
            time behind the residual connection, which is what scBERT returns.

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
        infer = partial(self.module.gene_attention, original=mode == "original")
        return self._attention_of_groups(groups, adata, reduce, batch_size, infer)

    def attention_to(
        self,
        genes: Sequence[str],
        groups: pd.Series,
        adata: AnnData | None = None,
        *,
        reduce: Reduce = "mean",
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        """Where the attention of chosen genes goes: the mean attention each gene receives from them.

        As :meth:`get_gene_attention`, but the mean over queries is over `genes` alone; a cell in
        which none of them attends takes no part.

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
        chosen = np.isin(
            np.arange(self.config.n_positions), _checks.genes.places_in_model(genes, self.genes)
        )
        asks = torch.from_numpy(chosen).to(self.module.device)

        def infer(
            tokens: Tensor, genes: Tensor | None = None, weight: Tensor | None = None
        ) -> Tensor:
            share = asks.float().expand(tokens.shape) if genes is None else asks[genes].float()
            share = share if weight is None else share * (weight > 0)
            share = share / share.sum(1, keepdim=True).clamp(min=1)
            return self.module.gene_attention(tokens, genes, weight, query_weight=share)

        return self._attention_of_groups(groups, adata, reduce, batch_size, infer)

    def _attention_of_groups(
        self,
        groups: pd.Series,
        adata: AnnData | None,
        reduce: Reduce,
        batch_size: int | None,
        infer: Callable[..., Tensor],
    ) -> pd.DataFrame:
        choice(reduce, list(_KEPT), "reduce")
        _checks.adata.one_group_per_cell(groups, self._cells(adata))
        categorical = groups.astype("category").cat.remove_unused_categories()
        codes, names = (
            categorical.cat.codes.to_numpy(),
            [str(name) for name in categorical.cat.categories],
        )
        total = self._attention_sums(codes, len(names), adata, batch_size, infer, _KEPT[reduce])
        return self._attention_shares(total, names, _KEPT[reduce])

    def _attention_sums(
        self,
        codes: np.ndarray,
        n_groups: int,
        adata: AnnData | None,
        batch_size: int | None,
        infer: Callable[..., Tensor] | None = None,
        kept: Sequence[str] = (),
    ) -> np.ndarray:
        """Attention received, summed over the cells of each group (code -1: none): (groups, what is kept, positions)."""
        total = np.zeros((n_groups, *(self._sizes[name] for name in kept), self.config.n_positions))
        with self._calm():
            for row, genes, received in self._received(
                adata, batch_size, infer or self.module.gene_attention, kept
            ):
                if codes[row] >= 0:
                    total[codes[row]][..., genes] += received
        return total

    def _attention_shares(
        self, total: np.ndarray, names: Sequence[str], kept: Sequence[str] = ()
    ) -> pd.DataFrame:
        """Sums of :meth:`_attention_sums` as shares of the genes: genes × groups."""
        total = total[..., : len(self.genes)].reshape(-1, len(self.genes))
        share = total / np.maximum(total.sum(1, keepdims=True), np.finfo(float).tiny)
        levels = [list(names), *(range(self._sizes[name]) for name in kept)]
        columns = pd.MultiIndex.from_product(levels, names=["group", *kept])
        return pd.DataFrame(share.T, index=self.genes, columns=columns if kept else list(names))

    @property
    def _sizes(self) -> dict[str, int]:
        return {"layer": self.config.n_layers, "head": self.config.n_heads}

    def get_cell_attention(
        self, adata: AnnData | None = None, *, batch_size: int | None = None
    ) -> sparse.csr_matrix:
        """Attention each gene receives in each cell: CSR float32 (cells, genes of the model).

        A row sums to 1.

        Only genes that attend are stored, so with ``tokens="expressed"`` it is as sparse as the
        data.
        """
        parts = []
        with self._calm():
            for row, genes, received in self._received(
                adata, batch_size, self.module.gene_attention, ()
            ):
                known = genes < len(self.genes)
                parts.append((received[known], np.full(known.sum(), row), genes[known]))
        values, cells, genes = (np.concatenate(column) for column in zip(*parts, strict=True))
        n_cells = self._cells(adata).n_obs
        csr = sparse.csr_matrix(
            (values.astype(np.float32), (cells, genes)), shape=(n_cells, len(self.genes))
        )
        csr.data /= np.repeat(np.asarray(csr.sum(1)).ravel(), np.diff(csr.indptr))
        return csr

    @torch.inference_mode()
    def get_attention_floor(
        self, adata: AnnData | None = None, *, n_cells: int = 256
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
        adata = self._cells(adata)
        some = np.unique(np.linspace(0, adata.n_obs - 1, n_cells).astype(int))
        batches = self._batches(self._rows(adata[some]), None, "attention floor")
        with self._calm():
            floors = [self.module.attention_floor(**cells) for cells, _ in batches]
        return torch.cat(floors, dim=1).mean(1).float().cpu().numpy()

    @torch.inference_mode()
    def _received(
        self,
        adata: AnnData | None,
        batch_size: int | None,
        infer: Callable[..., Tensor],
        kept: Sequence[str],
    ) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """Row, genes (n,) and the attention they receive, (n,) or with what is kept (layers, heads, n), of every cell."""
        averaged = [axis for name, axis in (("head", 2), ("layer", 1)) if name not in kept]
        for cells, rows in self._batches(self._rows(adata), batch_size, "attention"):
            with enough_memory(self.config, batch_size, training=False):
                received = infer(**cells).transpose(0, 1)  # (b, layers, h, n)
            for axis in averaged:
                received = received.mean(axis)
            everything = torch.ones(cells["tokens"].shape)
            genes = cells.get("genes", everything.cumsum(1).long() - 1).cpu().numpy()
            attends = (cells.get("weight", everything) > 0).cpu().numpy()
            for row, gene, found, here in zip(
                rows, genes, received.cpu().numpy(), attends, strict=True
            ):
                yield int(row), gene[here], found[..., here]
