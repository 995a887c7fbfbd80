"""FAVOR+ attention: the softmax kernel by positive orthogonal random features, in linear time.

Source: Choromanski et al. 2021, "Rethinking Attention with Performers" (arXiv:2009.14794). Letters
in shapes: b cells, m queries, n keys, h heads, d width of a head, r random features.

The factor r^-1/2 of the paper cancels between numerator and normaliser and is left out. The
stabiliser, a constant subtracted in the exponent, would cancel too were it not for `EPSILON`; so
its scope is part of the function computed:

``"cell"``   maximum over all heads, tokens and features of one cell: a cell's output never depends
on its companions. ``"head"``   maximum over tokens and features of one head of one cell
(performer-pytorch). ``"batch"``  maximum over the whole batch: what scBERT does while training;
kept for exact comparison only.

A `weight` (b, n) says how many genes a key stands for: 0 is padding, None is 1 for all.

In scBERT gradients flow through these maxima, and through those of the queries; performer-pytorch
holds them constant. So do the scopes that stand for them.

No tensor of tokens × features is kept, but in small networks (`is_small`). `Context` sees the
tokens a span at a time and holds O(r d) per head; `attention` is built on it, and for gradients
computes queries, keys, values and features again, span by span. A test has the plain O(n²)
twin of everything here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from scbert_cll.nn import context as over_keys
from scbert_cll.nn.context import EPSILON, Kernel, contexts, cut, heads, with_ones
from scbert_cll.nn.recomputed import Recomputed

_SMALL: Final = 512  # features per token, heads × r
_SMALL_IN_ALL: Final = 2**24  # features of a batch: 64 MB in float32

# makes the part (cells, span, h, d) of a tensor (b, n, h, d), whose own `__getitem__` is one
Part = Callable[[tuple[slice, slice]], Tensor]

# with a larger share of `EPSILON` in the features (`attention_floor`), attention says nothing
UNIFORM: Final = 0.9


def orthogonal_features(
    n_features: int, dim: int, generator: torch.Generator | None = None
) -> Tensor:
    """Rows of stacked random orthogonal matrices, each as long as a Gaussian vector: (r, d)."""
    blocks = []
    for start in range(0, n_features, dim):
        q, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator))
        blocks.append(q.T[: n_features - start])
    vectors = torch.randn(n_features, dim, generator=generator)
    return vectors.norm(dim=1, keepdim=True) * torch.cat(blocks)


def features(
    x: Tensor, kernel: Kernel, weight: Tensor | None = None, *, of_keys: bool = True
) -> Tensor:
    """Exponentials (b, h, n, r) of keys or queries x (b, n, h, d): features but for `EPSILON`."""
    x, scale = x.transpose(1, 2).float(), x.shape[-1] ** -0.25
    exponent = x @ (scale * kernel.projection.float()).T
    seen = exponent if over_keys.FOLLOWS[kernel.stabilizer] else exponent.detach()
    if of_keys:
        if weight is not None:
            seen = seen.masked_fill(weight[:, None, :, None] == 0, over_keys.LEAST)
        scope = over_keys.SCOPE[kernel.stabilizer]
        largest = seen.amax((*scope, 2, 3), keepdim=True)
    else:
        largest = seen.amax(-1, keepdim=True)
    squares = x.square().sum(-1, keepdim=True)
    return torch.exp(exponent - (squares * (scale**2 / 2) + largest))


def attention(
    x: Tensor,
    qkv: Tensor,
    kernel: Kernel,
    weight: Tensor | None = None,
    query_tokens: Tensor | None = None,
) -> Tensor:
    """Attention output (b, n, h, d) of tokens x (b, n, w), in O(n r d) time.

    Of the `query_tokens` (b, m, w) only, where they are given: (b, m, h, d). `qkv` (3 h d, w) makes
    queries, keys and values.
    """
    if not is_small(x, qkv, kernel):
        query_tokens = x if query_tokens is None else query_tokens
        return Recomputed.apply(query_tokens, x, qkv, kernel, weight)
    # the features are kept for the gradients, by autograd alone
    d = kernel.projection.shape[1]
    q, k, v = F.linear(x, qkv).view(*x.shape[:2], 3, -1, d).unbind(2)
    if query_tokens is not None:
        q = heads(query_tokens, qkv.chunk(3)[0], d)
    values = with_ones(k, v)
    with torch.autocast(x.device.type, enabled=False):
        values = values if weight is None else values * weight[:, None, :, None]
        keys = features(k, kernel, weight)
        total = keys.transpose(-1, -2) @ values + EPSILON * values.sum(2, keepdim=True)
        queries = features(q, kernel, of_keys=False)
        output = queries @ total + EPSILON * total.sum(2, keepdim=True)
        return (output[..., :-1] / output[..., -1:]).transpose(1, 2).to(v.dtype)


def is_small(x: Tensor, qkv: Tensor, kernel: Kernel) -> bool:
    """Whether the features are so few that keeping them costs less than computing them again."""
    n_features, d = kernel.projection.shape
    per_token = n_features * qkv.shape[0] // (3 * d)
    return per_token <= _SMALL and x.shape[0] * x.shape[1] * per_token <= _SMALL_IN_ALL


def received_attention(
    query: Part, key: Part, kernel: Kernel, query_weight: Tensor, weight: Tensor | None
) -> Tensor:
    """Attention one gene behind each key receives, averaged over the queries: (b, h, n).

    Times `weight` it sums to 1.

    The column mean of the attention matrix A is phi(k_j) · u with u = sum_i w_i phi(q_i) /
    (phi(q_i) · sum_j phi(k_j)), so O(n r) time and O(r) state replace the n × n matrix. w is
    `query_weight` (b, n), which sums to 1 over a cell.
    """
    groups = []
    keys = contexts(lambda *at: (key(at), None), query_weight, kernel, weight)
    for cells, spans, context in keys:
        places = [(cells, span) for span in spans]
        for at in places:
            context.collect(query(at), query_weight[at])
        parts = [context.received(key(at), cut(weight, *at)) for at in places]
        groups.append(torch.cat(parts, dim=-1))
    return torch.cat(groups)


def mean_weight(like: Tensor, weight: Tensor | None) -> Tensor:
    """Weight of each token (b, n) in a mean over the genes, 1 in sum: (b, n)."""
    if weight is None:
        return torch.full(like.shape, 1 / like.shape[1], device=like.device)
    return weight / weight.sum(1, keepdim=True)


def attention_floor(k: Tensor, kernel: Kernel, weight: Tensor | None = None) -> Tensor:
    """Share of the keys' features that is `EPSILON` alone, (b,); near 1 attention is uniform."""
    floors = []
    for _, _, context in contexts(lambda *at: (k[at], None), k, kernel, weight):
        n_genes = context.values.sum((1, 2, 3))  # (cells,) genes × heads
        floor = EPSILON * len(kernel.projection) * n_genes
        floors.append(floor / context.total.sum((1, 2, 3)))
    return torch.cat(floors)
