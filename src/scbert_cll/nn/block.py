"""A block of the network: multi-head attention and a feed-forward layer on the residual stream.

Letters in shapes: b cells, n tokens, m query tokens, w width, h heads, d width of a head.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scbert_cll.nn import favor, softmax
from scbert_cll.nn.config import Config
from scbert_cll.nn.context import Context, Kernel, contexts, heads, steps, take

_UNITS_AT_A_TIME: Final = 2**20  # of the feed-forward layer


class Attention(nn.Module):
    """Multi-head attention: one matrix for queries, keys and values, saved random features."""

    projection: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.kind, self.n_heads = config.attention, config.n_heads
        self.stabilizer, inner = config.stabilizer, config.n_heads * config.dim_head
        self.qkv = nn.Linear(config.n_hidden, 3 * inner, bias=False)
        self.out = nn.Linear(inner, config.n_hidden, bias=config.out_bias)
        self.dropout = nn.Dropout(config.dropout)
        features = favor.orthogonal_features(config.features, config.dim_head)
        self.register_buffer("projection", features)

    def forward(
        self, x: Tensor, weight: Tensor | None, query_tokens: Tensor | None = None
    ) -> Tensor:
        """(b, n, w) -> (b, n, w), or of the `query_tokens` (b, m, w) only: (b, m, w)."""
        if self.kind == "exact":
            q = self.queries(x if query_tokens is None else query_tokens)
            return self.mix(softmax.attention(q, *self.keys_values(x), weight))
        qkv = self.qkv.weight
        return self.mix(favor.attention(x, qkv, self.kernel, weight, query_tokens))

    @property
    def kernel(self) -> Kernel:
        """What approximates the softmax."""
        return Kernel(self.projection, self.stabilizer)

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
        """Project the heads' outputs to the width of a token: (b, n, h, d) -> (b, n, w)."""
        return self.dropout(self.out(heads.flatten(2)))

    def received(self, x: Tensor, share: Tensor, weight: Tensor | None) -> Tensor:
        """Attention a gene behind each token receives from queries with a `share`: (b, h, n)."""
        if self.kind == "exact":
            q, k = self.queries(x), self.keys(x)
            return softmax.received_attention(q, k, share, weight)
        query, key = (lambda at: self.queries(x[at])), (lambda at: self.keys(x[at]))
        return favor.received_attention(query, key, self.kernel, share, weight)

    def can_stream(self, x: Tensor) -> bool:
        """Whether going through the tokens span by span is possible, and worth it."""
        is_small = favor.is_small(x, self.qkv.weight, self.kernel)
        return self.kind == "favor" and not is_small

    def _heads(self, x: Tensor, which: int) -> Tensor:
        return heads(x, self.qkv.weight.chunk(3)[which], self.projection.shape[1])


class Block(nn.Module):
    """Pre-LayerNorm attention and feed-forward layer, each added to the residual stream."""

    recompute = False  # keep only the block's input, and compute the rest again for the gradients

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, inner = config.n_hidden, config.n_feedforward * config.n_hidden
        self.inner = inner
        self.attention_norm = nn.LayerNorm(width)
        self.feedforward_norm = nn.LayerNorm(width)
        self.attention = Attention(config)
        layers = nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width)
        self.feedforward = nn.Sequential(*layers, nn.Dropout(config.dropout))

    def forward(
        self, x: Tensor, weight: Tensor | None = None, index: Tensor | None = None
    ) -> Tensor:
        """(b, n, w) -> (b, n, w), or of the tokens in `index` (b, m) only: (b, m, w)."""
        if not torch.is_grad_enabled() and self.attention.can_stream(x):
            return self._stream(x, weight, index)
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._whole, x, weight, index, use_reentrant=False)
        return self._whole(x, weight, index)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Apply the feed-forward half, (…, w) -> (…, w).

        A hidden layer of many units is computed again for the gradients.
        """

        def layer(x: Tensor) -> Tensor:
            return self.feedforward(self.feedforward_norm(x))

        if torch.is_grad_enabled() and x.shape[0] * self.inner > _UNITS_AT_A_TIME // 2:
            return x + checkpoint(layer, x, use_reentrant=False)
        return x + layer(x)

    def refine(self, tokens: Tensor, context: Context) -> Tensor:
        """Output for some tokens of cells whose keys are gathered, (b, m, w)."""
        heads, _ = context.attend(self.attention.queries(self.attention_norm(tokens)))
        return self.feed_forward(tokens + self.attention.mix(heads))

    def _whole(self, x: Tensor, weight: Tensor | None, index: Tensor | None) -> Tensor:
        """All tokens at once, for gradients."""
        normed = self.attention_norm(x)
        queries = None if index is None else take(normed, index)
        output = self.attention(normed, weight, queries)
        x = output + (x if index is None else take(x, index))
        tokens = x.flatten(0, 1)
        spans = steps(len(tokens), max(1, _UNITS_AT_A_TIME // self.inner))
        return torch.cat([self.feed_forward(tokens[span]) for span in spans]).view_as(x)

    def _stream(self, x: Tensor, weight: Tensor | None, index: Tensor | None) -> Tensor:
        """A span of tokens at a time, without gradients: only the residual stream is kept."""
        attention = self.attention
        source = x if index is None else take(x, index)
        result = torch.empty_like(source)

        def keys_values(*at: slice) -> tuple[Tensor, Tensor]:
            return attention.keys_values(self.attention_norm(x[at]))

        for cells, spans, context in contexts(keys_values, x, attention.kernel, weight):
            for span in steps(source.shape[1], spans[0].stop):
                result[cells, span] = self.refine(source[cells, span], context)
        return result
