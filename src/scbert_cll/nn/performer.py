"""The network: scBERT's Performer over genes, shaped by one `Config`.

A cell is a set of genes, each a token: its bin of expression (0 not expressed … `n_bins`, then the
mask token) plus a vector that says which gene it is. Pre-LayerNorm blocks of FAVOR+ attention and a
feed-forward layer refine the tokens; one head guesses hidden bins (pretraining), another the class
of the cell.

Sources: Choromanski et al. 2021 (arXiv:2009.14794) for the attention; Yang et al. 2022, scBERT
(doi:10.1038/s42256-022-00534-z) for tokens and heads. Letters in shapes: b cells, n tokens, w
width, h heads, d width of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scbert_cll.nn import background, favor, softmax
from scbert_cll.nn.config import Config
from scbert_cll.nn.context import take
from scbert_cll.nn.embedding import gene_embedding

_UNITS_AT_A_TIME: Final = 2**20  # of the feed-forward layer
_FEW: Final = 0.3  # share of expressed genes below which the others are worth sharing


class Attention(nn.Module):
    """Multi-head attention with one weight matrix for queries, keys and values, and saved random features."""

    projection: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.kind, self.n_heads, self.stabilizer = (
            config.attention,
            config.n_heads,
            config.stabilizer,
        )
        inner = config.n_heads * config.dim_head
        self.qkv = nn.Linear(config.n_hidden, 3 * inner, bias=False)
        self.out = nn.Linear(inner, config.n_hidden, bias=config.out_bias)
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer(
            "projection", favor.orthogonal_features(config.features, config.dim_head)
        )

    def forward(
        self, x: Tensor, weight: Tensor | None = None, asking: Tensor | None = None
    ) -> Tensor:
        """(b, n, w) -> (b, n, w), or of the tokens `asking` (b, m, w) only: (b, m, w)."""
        if self.kind == "exact":
            asking = x if asking is None else asking
            return self.mix(softmax.attention(self.queries(asking), *self.keys_values(x), weight))
        return self.mix(
            favor.attention(x, self.qkv.weight, self.projection, weight, self.stabilizer, asking)
        )

    def queries(self, x: Tensor) -> Tensor:
        """(b, n, w) -> (b, n, h, d)."""
        return self._heads(x, 0)

    def keys(self, x: Tensor) -> Tensor:
        """(b, n, w) -> (b, n, h, d)."""
        return self._heads(x, 1)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(b, n, w) -> twice (b, n, h, d)."""
        return self._heads(x, 1), self._heads(x, 2)

    def mix(self, heads: Tensor) -> Tensor:
        """What the heads heard, (b, n, h, d) -> (b, n, w)."""
        return self.dropout(self.out(heads.flatten(2)))

    def received(self, x: Tensor, share: Tensor, weight: Tensor | None = None) -> Tensor:
        """Attention one gene behind each token receives from the tokens, each counted by `share` (b, n): (b, h, n)."""
        if self.kind == "exact":
            return softmax.received_attention(self.queries(x), self.keys(x), share, weight)
        q, k = (lambda *at: self.queries(x[at])), (lambda *at: self.keys(x[at]))
        return favor.received_attention(q, k, self.projection, share, weight, self.stabilizer)

    def can_stream(self, x: Tensor) -> bool:
        """Whether going through the tokens span by span is possible, and worth it."""
        return self.kind == "favor" and not favor.is_small(x, self.qkv.weight, self.projection)

    def _heads(self, x: Tensor, which: int) -> Tensor:
        return favor.heads(x, self.qkv.weight.chunk(3)[which], self.projection.shape[1])


class Block(nn.Module):
    """Pre-LayerNorm attention and feed-forward layer, each added to the residual stream."""

    recompute = (
        False  # keep only what enters the block, and compute the rest again for the gradients
    )

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, inner = config.n_hidden, config.n_feedforward * config.n_hidden
        self.inner = inner
        self.attention_norm, self.feedforward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(config)
        self.feedforward = nn.Sequential(
            nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width), nn.Dropout(config.dropout)
        )

    def forward(
        self, x: Tensor, weight: Tensor | None = None, index: Tensor | None = None
    ) -> Tensor:
        """(b, n, w) -> (b, n, w), or of the tokens in `index` (b, m) only: (b, m, w)."""
        if not torch.is_grad_enabled() and self.attention.can_stream(x):
            return self.stream(x, weight, index)
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self.whole, x, weight, index, use_reentrant=False)
        return self.whole(x, weight, index)

    def whole(self, x: Tensor, weight: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """All tokens at once, for gradients."""
        normed = self.attention_norm(x)
        heard = self.attention(normed, weight, None if index is None else take(normed, index))
        x = heard + (x if index is None else take(x, index))
        tokens = x.flatten(0, 1)
        spans = favor.steps(len(tokens), max(1, _UNITS_AT_A_TIME // self.inner))
        return torch.cat([self.refine(tokens[span]) for span in spans]).view_as(x)

    def refine(self, x: Tensor) -> Tensor:
        """The feed-forward half, (…, w) -> (…, w).

        A hidden layer of many units is computed again for the gradients.
        """

        def wide(x: Tensor) -> Tensor:
            return self.feedforward(self.feedforward_norm(x))

        if torch.is_grad_enabled() and x.shape[0] * self.inner > _UNITS_AT_A_TIME // 2:
            return x + checkpoint(wide, x, use_reentrant=False)
        return x + wide(x)

    def stream(
        self, x: Tensor, weight: Tensor | None = None, index: Tensor | None = None
    ) -> Tensor:
        """A span of tokens at a time, without gradients: nothing but the residual stream is kept."""
        attention = self.attention
        source = x if index is None else take(x, index)
        result = torch.empty_like(source)

        def keys_values(*at: slice) -> tuple[Tensor, Tensor]:
            return attention.keys_values(self.attention_norm(x[at]))

        parts = favor.contexts(keys_values, x, attention.projection, weight, attention.stabilizer)
        for cells, spans, context in parts:
            for span in favor.steps(source.shape[1], spans[0].stop):
                part = source[cells, span]
                heads, _ = context.read(attention.queries(self.attention_norm(part)))
                result[cells, span] = self.refine(part + attention.mix(heads))
        return result


class PoolHead(nn.Module):
    """Class logits from the mean over a cell's tokens.

    BatchNorm is what lets it learn weak signals.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(config.n_hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(config.n_hidden, config.n_classes)

    def summarize(self, encodings: Tensor, weight: Tensor | None = None) -> Tensor:
        """One vector per cell, whatever its number of tokens: (b, n, w) -> (b, w)."""
        return mean_tokens(encodings, weight)

    def features(self, summary: Tensor) -> Tensor:
        """What the last layer reads: (b, w) -> (b, w)."""
        return self.dropout(self.norm(summary))

    @property
    def last(self) -> nn.Linear:
        """The layer whose outputs are the logits."""
        return self.classify


class ScBERTHead(nn.Module):
    """The published head: one scalar per position, then 512 and 128 units.

    It reads every gene, expressed or not.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.tokens != "all":
            raise ValueError(
                f'head="scbert" reads every gene and needs tokens="all"; with '
                f'tokens="{config.tokens}" use head="pool".'
            )
        self.collapse = nn.Linear(config.n_hidden, 1)
        self.layers = nn.Sequential(
            nn.Linear(config.n_positions, 512),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(512, 128),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(128, config.n_classes),
        )

    def summarize(self, encodings: Tensor, weight: Tensor | None = None) -> Tensor:
        """(b, n, w) -> (b, n)."""
        return torch.relu(self.collapse(encodings).squeeze(-1))

    def features(self, summary: Tensor) -> Tensor:
        """What the last layer reads: (b, n) -> (b, 128)."""
        return self.layers[:-1](summary)

    @property
    def last(self) -> nn.Linear:
        """The layer whose outputs are the logits."""
        return cast("nn.Linear", self.layers[-1])


class Performer(nn.Module):
    """The network. Inputs are always a triple (tokens, genes, weight), see `encode`."""

    def __init__(self, config: Config, gene_vectors: Tensor | None = None) -> None:
        """Build the network with random weights.

        `gene_vectors` (genes, any width) start the gene embedding.
        """
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.n_bins + 2, config.n_hidden)
        self.gene_embedding = gene_embedding(config, gene_vectors)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.n_hidden)
        self.to_bins = nn.Linear(config.n_hidden, config.n_bins + 2)
        self.head = (
            {"pool": PoolHead, "scbert": ScBERTHead}[config.head](config)
            if config.n_classes
            else None
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.norm.weight.device

    @property
    def _head(self) -> PoolHead | ScBERTHead:
        return cast("PoolHead | ScBERTHead", self.head)

    def embed(self, tokens: Tensor, genes: Tensor | None = None) -> Tensor:
        """What enters the first block: (b, n) -> (b, n, w)."""
        x = self.token_embedding(tokens)
        if self.gene_embedding is not None:
            table = self.gene_embedding.weight
            x = x + (table[: tokens.shape[1]] if genes is None else self.gene_embedding(genes))
        return x

    def encode(
        self,
        tokens: Tensor,
        genes: Tensor | None = None,
        weight: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Refine the tokens of each cell.

        Parameters
        ----------
        tokens
            Bins, int64 (b, n).
        genes
            Which gene each token is, int64 (b, n); None when position j is gene j.
        weight
            How many genes a token stands for, float32 (b, n): 0 is padding; None when every token
            is one gene.
        at
            Tokens whose encodings are wanted, bool (b, n); None is all. The last block then works
            for these alone.

        Returns
        -------
        Encodings after the last LayerNorm, (b, n, w), or with `at` (number wanted, w), cell by
        cell.
        """
        if self._collapses:
            encodings = self._encode_levels(tokens, weight)
            return encodings if at is None else encodings[at]
        index, wanted = (None, None) if at is None else _index(at)
        x, blocks = self.embed(tokens, genes), list(self.blocks)
        if self._shares_zeros(x, tokens, genes, weight):
            first = self._first_block(tokens, x)
            x, blocks = (x, blocks) if first is None else (first, blocks[1:])
        for block in blocks:
            x = block(x, weight, index if block is blocks[-1] else None)
        return self.norm(x if wanted is None else x[wanted])

    def forward(
        self, tokens: Tensor, genes: Tensor | None = None, weight: Tensor | None = None
    ) -> Tensor:
        """Class logits (b, classes), or logits of the bins (b, n, n_bins + 2) in a network without classes."""
        return self.read(self.encode(tokens, genes, weight), weight)

    def read(self, encodings: Tensor, weight: Tensor | None = None) -> Tensor:
        """Read the logits off the encodings (b, n, w): of the classes, or of the bins in a network without classes."""
        if self.head is None:
            return self.to_bins(encodings)
        return self._head.last(self._head.features(self._head.summarize(encodings, weight)))

    def summarize(
        self, tokens: Tensor, genes: Tensor | None = None, weight: Tensor | None = None
    ) -> Tensor:
        """One vector per cell for the head of the classes, or its mean token in a network without classes: (b, …)."""
        encodings = self.encode(tokens, genes, weight)
        return (
            mean_tokens(encodings, weight)
            if self.head is None
            else self._head.summarize(encodings, weight)
        )

    def classify(self, cells: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Class logits of a batch that comes in several tensors, because its cells differ in length: (b, classes)."""
        return self.logits(self.features(cells))

    def logits(self, features: Tensor) -> Tensor:
        """(b, w) -> (b, classes)."""
        return self._head.last(features)

    @property
    def n_features(self) -> int:
        """Width of what the logits are linear in."""
        return self._head.last.in_features

    def features(self, cells: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """What the logits of such a batch are linear in: (b, w), or (b, 128) of the published head."""
        return self._head.features(torch.cat([self.summarize(**part) for part in cells]))

    def silence(self) -> None:
        """Let the head start from logits of zero, whatever the cell."""
        nn.init.zeros_(self._head.last.weight)
        nn.init.zeros_(self._head.last.bias)

    def gene_attention(
        self,
        tokens: Tensor,
        genes: Tensor | None = None,
        weight: Tensor | None = None,
        *,
        share: Tensor | None = None,
        original: bool = False,
    ) -> Tensor:
        """Attention one gene behind each token receives, in each layer and head: float32 (layers, b, h, n).

        Averaged over the tokens that attend, each counted by `share` (b, n), None for all alike;
        times `weight` a row sums to 1. With `original` the attention is evaluated a second time
        behind the residual connection, as scBERT returns it.
        """
        share = favor.mean_share(tokens, weight) if share is None else share
        x, received = self.embed(tokens, genes), []
        with torch.autocast(x.device.type, enabled=False):
            for block in cast("list[Block]", self.blocks):
                seen = x + block.attention(block.attention_norm(x), weight) if original else x
                received.append(block.attention.received(block.attention_norm(seen), share, weight))
                x = block(x, weight)
        return torch.stack(received)

    def attention_floor(
        self, tokens: Tensor, genes: Tensor | None = None, weight: Tensor | None = None
    ) -> Tensor:
        """Share of each layer's key features that is the constant floor: (layers, b)."""
        x, floors = self.embed(tokens, genes), []
        for block in cast("list[Block]", self.blocks):
            attention, normed = block.attention, block.attention_norm(x)
            floors.append(
                favor.attention_floor(
                    attention.keys(normed), attention.projection, weight, attention.stabilizer
                )
            )
            x = block(x, weight)
        return torch.stack(floors)

    def set_recompute(self, recompute: bool) -> None:
        """Whether training keeps only what enters each block: a third more time for a half of the memory."""
        for block in cast("list[Block]", self.blocks):
            block.recompute = recompute

    def redraw_features(self, generator: torch.Generator) -> None:
        """Draw the random features of all layers anew.

        Only while pretraining, the weights learn to do with any.
        """
        for block in cast("list[Block]", self.blocks):
            features = favor.orthogonal_features(
                self.config.features, self.config.dim_head, generator
            )
            block.attention.projection.copy_(features)

    def _shares_zeros(
        self, x: Tensor, tokens: Tensor, genes: Tensor | None, weight: Tensor | None
    ) -> bool:
        """Whether several cells go through the first of several blocks with all their genes, and without gradients."""
        return (
            genes is None
            and weight is None
            and len(tokens) >= background.FEWEST_CELLS
            and len(self.blocks) > 1
            and cast("Block", self.blocks[0]).attention.can_stream(x)
            and self.config.stabilizer != "batch"
            and not (torch.is_grad_enabled() or self.training)
            and bool((tokens != 0).float().mean() < _FEW)
        )

    def _first_block(self, tokens: Tensor, x: Tensor) -> Tensor | None:
        zeros = self.embed(torch.zeros_like(tokens[:1]))
        return background.first_block(cast("Block", self.blocks[0]), zeros, x, *_index(tokens != 0))

    @property
    def _collapses(self) -> bool:
        """Without gene vectors, tokens of one level are one and the same, unless dropout tells them apart."""
        return self.gene_embedding is None and not (self.training and self.config.dropout > 0)

    def _encode_levels(self, tokens: Tensor, weight: Tensor | None) -> Tensor:
        """Encode each level once, weighted by how many genes of the cell have it: exact."""
        level = nn.functional.one_hot(tokens, self.config.n_bins + 2).float()  # (b, n, levels)
        counts = level.sum(1) if weight is None else (weight.unsqueeze(1) @ level).squeeze(1)
        x = self.token_embedding.weight.expand(len(tokens), -1, -1)
        for block in self.blocks:
            x = block(x, counts)
        return self.norm(x).gather(1, tokens.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def mean_tokens(encodings: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over the genes the tokens stand for: (b, n, w) -> (b, w)."""
    if weight is None:
        return encodings.mean(1)
    weight = weight.to(encodings.dtype).unsqueeze(-1)
    return (encodings * weight).sum(1) / weight.sum(1)


def _index(at: Tensor) -> tuple[Tensor, Tensor]:
    """Where `at` (b, n) is True: places (b, m), filled up to the cell that has most, and which of them are meant."""
    place = at.nonzero()[:, 1]
    counts = at.sum(1)
    wanted = torch.arange(int(counts.max()), device=at.device) < counts.unsqueeze(1)  # (b, m)
    index = torch.zeros_like(wanted, dtype=torch.long)
    index[wanted] = place
    return index, wanted
