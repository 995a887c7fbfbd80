"""What both models do with cells: find genes by name, embed, and read attention, cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from torch import Tensor
from tqdm.auto import tqdm

from scbert_cll import _checks
from scbert_cll.model import _scvi
from scbert_cll.model._data import Batch, TokenRows, in_order_of_length
from scbert_cll.nn import Config, Performer
from scbert_cll.nn.performer import mean_tokens

# Features of one inference batch (cells x heads x features x tokens) stay under this: about 0.5 GB a tensor in float32.
_FEATURES_PER_BATCH: Final = 2**27


class Inference(_scvi.BaseModelClass):  # type: ignore[misc]
    """A network, its genes and its binning, and what it says about cells."""

    module: Performer
    layer: str
    genes: pd.Index
    binning: dict[str, Any]

    @property
    def config(self) -> Config:
        """Dimensions and choices of the network."""
        return self.module.config

    def _cells(self, adata: AnnData | None) -> AnnData:
        """Return the cells that were given, or those the model was made with."""
        if adata is None and self.adata is None:
            raise ValueError(
                "This model was loaded without cells; name them (adata=…), or attach them: load(folder, adata)."
            )
        return _checks.anndata(self.adata if adata is None else adata)

    def _rows(self, adata: AnnData | None, **columns: np.ndarray) -> TokenRows:
        """Tokens of the model's genes, found by name: other orders and extra genes do not matter."""
        adata = self._cells(adata)
        csr, record = _checks.tokens(adata, self.layer)
        _checks.same_binning(record, self.binning, self.layer)
        _checks.model_genes(self.genes, adata)
        csr = _take_columns(csr, adata.var_names.get_indexer(self.genes))
        if self.config.tokens == "expressed":
            _checks.tokens_in_every_cell(np.diff(csr.indptr), adata, self.layer)
        return TokenRows(csr, self.config.tokens, end_token=self.config.end_token, **columns)

    def _batches(self, data: TokenRows, batch_size: int | None, what: str) -> Iterator[Batch]:
        """All cells once, on the model's device, with a progress bar on a terminal."""
        if batch_size is not None:
            _checks.number_in(batch_size, "batch_size", 1, np.inf, whole=True)
        longest = self.config.n_positions if self.config.tokens == "all" else int(data.lengths().max())
        fits = _FEATURES_PER_BATCH // (self.config.n_heads * self.config.features * longest)
        batches = in_order_of_length(data, batch_size or int(np.clip(fits, 1, 256)))
        self.module.eval()
        for batch in tqdm(batches, desc=what, unit="batch", disable=None):
            yield {name: tensor.to(self.module.device) for name, tensor in batch.items()}

    @torch.inference_mode()
    def _collect(
        self,
        adata: AnnData | None,
        batch_size: int | None,
        width: Sequence[int],
        infer: Callable[..., Sequence[Tensor]],
    ) -> list[np.ndarray]:
        """Results of `infer` for every cell, in the order of the cells."""
        data = self._rows(adata)
        found = [np.empty((len(data), w), np.float32) for w in width]
        for batch in self._batches(data, batch_size, "cells"):
            results = infer(batch["tokens"], batch.get("genes"), batch.get("keep"))
            for place, result in zip(found, results, strict=True):
                place[batch["rows"].cpu().numpy()] = result.float().cpu().numpy()
        return found

    def get_latent_representation(self, adata: AnnData | None = None, *, batch_size: int | None = None) -> np.ndarray:
        """Embed cells: the mean over a cell's refined tokens.

        Parameters
        ----------
        adata
            Cells with the binned layer; genes are matched by name. None: the AnnData the model was made with.
        batch_size
            Cells at a time; affects speed and memory, not results.

        Returns
        -------
        float32 (cells, n_hidden).
        """
        (latent,) = self._collect(adata, batch_size, [self.config.n_hidden], lambda *x: [self._embed(*x)])
        return latent

    def _embed(self, tokens: Tensor, genes: Tensor | None, keep: Tensor | None) -> Tensor:
        return mean_tokens(self.module.encode(tokens, genes, keep), keep)

    def get_gene_attention(
        self, groups: pd.Series, adata: AnnData | None = None, *, batch_size: int | None = None
    ) -> pd.DataFrame:
        """Mean attention each gene receives, per group of cells.

        The mean over queries, heads, layers and the cells of a group, by the closed form that is linear in the number of
        genes; a gene that does not attend in a cell counts as zero there. Attention that goes to scBERT's end token is left
        out before a column is scaled to sum to 1.

        Parameters
        ----------
        groups
            Group of each cell, in the order of the cells; cells without one are left out.
        adata, batch_size
            As in :meth:`get_latent_representation`.

        Returns
        -------
        Genes × groups, float64; a column sums to 1.
        """
        n_cells = self._cells(adata).n_obs
        if len(groups) != n_cells:
            raise ValueError(
                f"groups needs one value per cell, in the order of the cells: {n_cells}, found {len(groups)}."
            )
        categorical = groups.astype("category").cat.remove_unused_categories()
        codes, total = (
            categorical.cat.codes.to_numpy(),
            np.zeros((len(categorical.cat.categories), self.config.n_positions)),
        )
        for rows, genes, received in self._received(adata, batch_size):
            known = codes[rows] >= 0
            place = np.broadcast_to(codes[rows][:, None], genes.shape)[known]
            np.add.at(total, (place, genes[known]), received[known])
        total = total[:, : len(self.genes)]
        share = total / total.sum(1, keepdims=True)
        return pd.DataFrame(share.T, index=self.genes, columns=[str(c) for c in categorical.cat.categories])

    def get_cell_attention(self, adata: AnnData | None = None, *, batch_size: int | None = None) -> sparse.csr_matrix:
        """Attention each gene receives in each cell: CSR float32 (cells, genes of the model); a row sums to 1.

        Only genes that attend are stored, so with ``tokens="expressed"`` it is as sparse as the data.
        """
        parts = []
        for rows, genes, received in self._received(adata, batch_size):
            cell = np.broadcast_to(rows[:, None], genes.shape)
            stored = (received > 0) & (genes < len(self.genes))
            parts.append((received[stored], cell[stored], genes[stored]))
        values, cells, genes = (np.concatenate(column) for column in zip(*parts, strict=True))
        n_cells = self._cells(adata).n_obs
        csr = sparse.csr_matrix((values.astype(np.float32), (cells, genes)), shape=(n_cells, len(self.genes)))
        csr.data /= np.repeat(np.asarray(csr.sum(1)).ravel(), np.diff(csr.indptr))
        return csr

    @torch.inference_mode()
    def get_attention_floor(self, adata: AnnData | None = None, *, n_cells: int = 256) -> np.ndarray:
        """Share of the attention features that is their constant floor, per layer; near 1 attention is uniform.

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
        data, floors = self._rows(adata), []
        self.module.eval()
        for rows in np.array_split(
            np.unique(np.linspace(0, len(data) - 1, n_cells).astype(int)), max(1, n_cells // 16)
        ):
            if len(rows):
                batch = {name: tensor.to(self.module.device) for name, tensor in data[rows].items()}
                floors.append(self.module.attention_floor(batch["tokens"], batch.get("genes"), batch.get("keep")))
        return torch.cat(floors, dim=1).mean(1).float().cpu().numpy()

    @torch.inference_mode()
    def _received(
        self, adata: AnnData | None, batch_size: int | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Rows (b,), genes (b, n) and the attention they receive, mean over layers and heads (b, n)."""
        for batch in self._batches(self._rows(adata), batch_size, "attention"):
            received = self.module.gene_attention(batch["tokens"], batch.get("genes"), batch.get("keep")).mean((0, 2))
            everything = torch.arange(received.shape[1]).expand(received.shape)
            genes = batch.get("genes", everything)
            yield batch["rows"].cpu().numpy(), genes.cpu().numpy(), received.cpu().numpy()


def _take_columns(csr: sparse.csr_matrix, columns: np.ndarray) -> sparse.csr_matrix:
    """Columns by number, -1 for one of zeros; sorted, and without stored zeros."""
    if not np.array_equal(columns, np.arange(csr.shape[1])):
        padded = sparse.csr_matrix((csr.data, csr.indices, csr.indptr), shape=(csr.shape[0], csr.shape[1] + 1))
        csr = padded[:, columns]  # -1 is the added column of zeros
    csr = sparse.csr_matrix(csr, copy=not csr.has_canonical_format or bool((csr.data == 0).any()))
    csr.sum_duplicates()
    csr.eliminate_zeros()
    return csr
