"""Everything that shapes the network, and the tokens it is shown of a cell.

Which genes attend in a token mode is decided here: `Config.n_zeros` says how many that a cell does
not express, and :func:`tokens` lays them out, from the expressed genes of cells, one cell behind
the other, to padded tokens on their device. :func:`mask_tokens` hides some of them
while pretraining.

Letters in shapes: b cells, n tokens of the longest, nnz expressed genes of all cells together.
All shapes follow from the lengths, which stay on the host: no step asks a GPU for a number.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

from scbert_cll._renamed import renamed_arguments
from scbert_cll.nn.context import Stabilizer

_FORMER: Final = {"n_features": "n_random_features"}  # for one release
_PACKAGE: Final = f"{Path(__file__).parents[1]}/"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that shapes the network; plain values, so that it is saved as JSON.

    Parameters
    ----------
    n_genes
        Genes it knows.
    n_bins
        Bins of expression above zero; the token behind them hides a gene.
    n_hidden
        Width of a token.
    n_layers, n_heads, dim_head
        Blocks, attention heads of each, and their width.
    n_random_features
        Random features per head; 0 stands for int(dim_head · ln dim_head).
    n_feedforward
        Width of the feed-forward layer in multiples of `n_hidden`.
    dropout
        Share of activations dropped while training.
    gene_embedding
        What tells genes apart: vectors that start from ``"gene2vec"``, ``"learned"`` ones that
        start at random, ``"sinusoidal"`` ones of the gene's position, or ``"none"``: then tokens of
        one bin are one and the same, and cost next to nothing.
    train_gene_embedding
        Whether these vectors are trained.
    tokens
        Which genes attend: the ``"expressed"`` ones of a cell; with ``"background"`` also a random
        sample of the others, each weighted by how many it stands for, which comes close to
        ``"all"`` at a fraction of its cost.
    n_background
        Size of that sample.
    end_token
        Whether scBERT's constant token 0 stands behind the genes.
    out_bias
        Whether the attention's output has a bias (scBERT yes, performer-pytorch no).
    head
        ``"pool"`` classifies the mean token, ``"scbert"`` reads every gene and needs
        ``tokens="all"``.
    n_classes
        Classes of the head; 0 for a network that guesses hidden genes.
    attention
        ``"favor"`` is the Performer's, linear in the number of tokens; ``"exact"`` the softmax it
        approximates, quadratic, on the same weights: a control.
    stabilizer
        Scope of the maximum that keeps the exponentials small, a part of what is computed:
        ``"cell"`` (scBERT on one cell), ``"head"`` of a cell (performer-pytorch), or ``"batch"``
        (scBERT while training: a cell then depends on its companions).
    """

    n_genes: int
    n_bins: int = 5
    n_hidden: int = 32
    n_layers: int = 1
    n_heads: int = 4
    dim_head: int = 8
    n_random_features: int = 0
    n_feedforward: int = 4
    dropout: float = 0.1
    gene_embedding: Literal["gene2vec", "learned", "sinusoidal", "none"] = "gene2vec"
    train_gene_embedding: bool = True
    tokens: Literal["expressed", "background", "all"] = "expressed"
    n_background: int = 500
    end_token: bool = False
    out_bias: bool = True
    head: Literal["pool", "scbert"] = "pool"
    n_classes: int = 0
    attention: Literal["favor", "exact"] = "favor"
    stabilizer: Stabilizer = "cell"

    @property
    def mask_token(self) -> int:
        """Token that hides a gene."""
        return self.n_bins + 1

    @property
    def n_positions(self) -> int:
        """Tokens of a cell when all genes attend."""
        return self.n_genes + self.end_token

    @property
    def n_zeros(self) -> int:
        """Genes at most that a cell does not express and that attend all the same."""
        of_mode = {"background": self.n_background, "all": self.n_genes}
        return of_mode.get(self.tokens, 0)

    @property
    def every_gene(self) -> bool:
        """Whether each gene is a token, so that all cells are equally long."""
        return self.tokens == "all"

    @property
    def samples(self) -> bool:
        """Whether genes that a cell does not express are drawn in a random order."""
        return self.tokens == "background"

    def n_sample[T: (Tensor, np.ndarray)](self, n_expressed: T) -> T:
        """Number of genes that each cell does not express and that attend."""
        return (self.n_genes - n_expressed).clip(max=self.n_zeros)

    def n_tokens[T: (Tensor, np.ndarray)](self, n_expressed: T) -> T:
        """Number of tokens of each cell that are not padding."""
        end_token = self.end_token and (self.samples or self.every_gene)
        return n_expressed + self.n_sample(n_expressed) + end_token

    @property
    def features(self) -> int:
        """Random features per head, where 0 is replaced by the default number."""
        return self.n_random_features or int(self.dim_head * math.log(self.dim_head))

    @property
    def n_features(self) -> int:
        """The old name of `n_random_features`."""
        warnings.warn(
            "Config.n_features is now n_random_features; the next release refuses the old name.",
            FutureWarning,
            skip_file_prefixes=(_PACKAGE,),
        )
        return self.n_random_features


Config.__init__ = renamed_arguments(**_FORMER)(Config.__init__)  # type: ignore[method-assign]


def renamed[T](network: Mapping[str, T]) -> dict[str, T]:
    """Choices that an earlier version saved, by the names of now."""
    return {_FORMER.get(name, name): value for name, value in network.items()}


def tokens(
    values: Tensor,
    genes: Tensor,
    lengths: Sequence[int] | Tensor,
    config: Config,
    order: Tensor | None = None,
) -> dict[str, Tensor]:
    """Padded tokens of cells as `config.tokens` wants them; `Performer.encode` explains them.

    Parameters
    ----------
    values
        Bins of the expressed genes, cell by cell, uint8 (nnz,).
    genes
        Which genes these are, int32 (nnz,); a cell has a gene once.
    lengths
        Number of expressed genes of each cell, (b,): a list, or a tensor on the CPU. One on a GPU
        would be waited for.
    order
        All genes in a random order, int64 (n_genes,), needed for ``tokens="background"``: a cell's
        sample is the first `n_background` that it does not express. It may stay on the CPU; only
        its beginning is moved.

    Returns
    -------
    ``tokens`` int64 (b, n), and unless every gene is a token ``genes`` int64 (b, n) and ``weight``
    float32 (b, n), which is left out where all are 1. Behind the expressed genes come the sample,
    the end token (gene `n_genes`) and padding (gene 0 of weight 0).

    Raises
    ------
    ValueError
        A background without an order.
    """
    n_expressed = torch.as_tensor(lengths, dtype=torch.long, device="cpu")
    cells = _Expressed(values, genes, n_expressed, config)
    if config.every_gene:
        return cells.everything()
    return _without_ones(cells.padded(order), n_expressed, config)


def cut(
    cells: dict[str, Tensor], lengths: Sequence[Sequence[int]], config: Config
) -> list[dict[str, Tensor]]:
    """Cut cells that `tokens` laid out together as if each list of lengths were laid out alone."""
    parts: list[dict[str, Tensor]] = []
    stop = 0
    for part in lengths:
        start, stop = stop, stop + len(part)
        n_expressed = torch.as_tensor(part, dtype=torch.long)
        width = int(config.n_tokens(n_expressed).max())
        part_of = {k: x[start:stop, :width].contiguous() for k, x in cells.items()}
        parts.append(_without_ones(part_of, n_expressed, config))
    return parts


def mask_tokens(
    tokens: Tensor,
    mask_token: int,
    *,
    fraction: float = 0.15,
    replace: float = 0.9,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Hide a share of each cell's non-zero genes.

    Of the chosen genes `replace` become the mask token and the rest keep their value, so that the
    network cannot rely on the mask token alone. Every cell with a non-zero gene has at least one
    chosen.

    Parameters
    ----------
    tokens
        Bins (b, n); zeros (not expressed, padding) are never chosen.
    mask_token
        The token that hides a gene.
    fraction
        Share of the non-zero genes to choose.
    replace
        Share of the chosen genes that become the mask token.
    generator
        Source of randomness; lives on the CPU so that the same genes are hidden on every device.

    Returns
    -------
    The tokens the network sees (b, n), and which of them it has to guess, bool (b, n).
    """
    draw = torch.rand(tokens.shape, generator=generator).to(tokens.device)
    hide = torch.rand(tokens.shape, generator=generator).to(tokens.device) < replace
    draw = draw.masked_fill(tokens == 0, torch.inf)
    n_chosen = (fraction * (tokens > 0).sum(-1, keepdim=True)).round().clamp(min=1)
    ranks = draw.argsort(-1).argsort(-1)
    chosen = (ranks < n_chosen) & (tokens > 0)
    return tokens.masked_fill(chosen & hide, mask_token), chosen


def _without_ones(
    cells: dict[str, Tensor], n_expressed: Tensor, config: Config
) -> dict[str, Tensor]:
    """Leave out the weights where every token stands for one gene, which the lengths tell."""
    n_tokens, n_sample = config.n_tokens(n_expressed), config.n_sample(n_expressed)
    is_whole = bool((n_sample == config.n_genes - n_expressed).all())
    if (is_whole or not config.samples) and bool((n_tokens == n_tokens[:1]).all()):
        cells.pop("weight", None)
    return cells


@dataclass(frozen=True)
class _Expressed:
    """Expressed genes of cells, one cell behind the other, and what goes with them."""

    values: Tensor
    genes: Tensor
    n_expressed: Tensor  # (b,), on the host
    config: Config

    def everything(self) -> dict[str, Tensor]:
        """Every gene at its place."""
        b, n = len(self.n_expressed), self.config.n_positions
        flat = torch.zeros(b * n, dtype=torch.long, device=self.values.device)
        flat.scatter_(0, self.rows() * n + self.genes, self.values.long())
        return {"tokens": flat.view(-1, n)}

    def padded(self, order: Tensor | None) -> dict[str, Tensor]:
        """Expressed genes, the background where it is wanted, and zeros behind them."""
        n, device = int(self.config.n_tokens(self.n_expressed).max()), self.genes.device
        place = torch.arange(n, device=device)
        expressed = place < self.column(self.n_expressed)  # (b, n)
        bins = torch.zeros(expressed.shape, dtype=torch.long, device=device)
        bins.masked_scatter_(expressed, self.values.long())
        # one number more than the table has places: there goes what is not wanted
        spilling = torch.zeros(bins.numel() + 1, dtype=torch.long, device=device)
        genes = spilling[:-1].view(bins.shape)
        genes.masked_scatter_(expressed, self.genes.long())
        cells = {"tokens": bins, "genes": genes, "weight": expressed.float()}
        if self.config.samples:
            self.write_sample(spilling, n, order)
            self.weigh_sample(cells, place)
        return cells

    def write_sample(self, spilling: Tensor, n: int, order: Tensor | None) -> None:
        """Write each cell's first unexpressed genes in `order` behind its expressed ones, flat."""
        if order is None:
            raise ValueError('tokens="background" needs a random order: order=….')
        genes, b = self.genes, len(self.n_expressed)
        first = order[: int(self.n_expressed.max()) + self.config.n_background]
        first = first.to(genes.device, non_blocking=genes.is_cuda)
        m = len(first)  # whatever a cell expresses, its sample is among these
        # the others share one
        column = torch.full((self.config.n_genes,), m, device=genes.device)
        column.scatter_(0, first, torch.arange(m, device=genes.device))
        free = torch.ones(b, m + 1, dtype=torch.bool, device=genes.device)
        taken = self.rows() * (m + 1) + column.index_select(0, genes)
        free.view(-1).scatter_(0, taken, False)
        n_free = free.cumsum(1)  # one more at each gene that the cell does not express
        wanted = free & (n_free <= self.column(self.config.n_sample(self.n_expressed)))
        at = n_free + self.column(torch.arange(b) * n + self.n_expressed - 1)
        at = at.masked_fill_(~wanted, len(spilling) - 1)[:, :m]
        spilling.scatter_(0, at.flatten(), first.repeat(b))

    def weigh_sample(self, cells: dict[str, Tensor], place: Tensor) -> None:
        """Weigh the sample as all unexpressed genes, and put the end token behind it."""
        n_sample = self.config.n_sample(self.n_expressed)
        start = self.column(self.n_expressed)
        end = self.column(self.n_expressed + n_sample)
        # divided on the host, so that no device rounds otherwise
        share = (self.config.n_genes - self.n_expressed).float() / n_sample.clamp(min=1)
        is_sample = (place >= start) & (place < end)
        cells["weight"] = torch.where(is_sample, self.column(share), cells["weight"])
        if self.config.end_token:
            cells["genes"].masked_fill_(place == end, self.config.n_genes)
            cells["weight"].masked_fill_(place == end, 1)

    def rows(self) -> Tensor:
        """Cell of each expressed gene, (nnz,); the size spares waiting for a device."""
        rows = torch.arange(len(self.n_expressed), device=self.genes.device)
        n_expressed = self.column(self.n_expressed).flatten()
        return rows.repeat_interleave(n_expressed, output_size=len(self.genes))

    def column(self, x: Tensor) -> Tensor:
        """Numbers of cells, moved from the host to the device of the genes: (b,) -> (b, 1)."""
        return x.to(self.genes.device, non_blocking=self.genes.is_cuda).unsqueeze(1)
