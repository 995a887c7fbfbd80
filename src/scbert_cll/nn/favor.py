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

No tensor of tokens × features is kept, but in small networks (`kept_attention`). `Context` sees the
tokens a span at a time and holds O(r d) per head; `attention` is built on it, and for gradients
computes queries, keys, values and features again, span by span. `naive_attention_matrix` is the
plain O(n²) twin of everything here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from scbert_cll.nn.context import (
    EPSILON,
    LEAST,
    SCOPE,
    Context,
    Stabilizer,
    contexts,
    cut,
    float32,
    product,
    steps,
    with_ones,
)

_SMALL: Final = 512  # features per token, heads × r
_SMALL_IN_ALL: Final = 2**24  # features of a batch: 64 MB in float32

# makes the part (cells, span, h, d) of a tensor (b, n, h, d)
Part = Callable[[slice, slice], Tensor]

# with a larger share of `EPSILON` in the features (`attention_floor`), attention says nothing
UNIFORM: Final = 0.9
# whether gradients flow through the maxima
_FOLLOWS: Final = {"cell": True, "batch": True, "head": False}


def naive_features(
    x: Tensor,
    projection: Tensor,
    weight: Tensor | None = None,
    stabilizer: Stabilizer = "cell",
    *,
    of_keys: bool = True,
    epsilon: float = EPSILON,
) -> Tensor:
    """Positive features (b, h, n, r) of keys or queries x (b, n, h, d)."""
    x, scale = x.transpose(1, 2).float(), x.shape[-1] ** -0.25
    exponent = x @ (scale * projection.float()).T
    seen = exponent if _FOLLOWS[stabilizer] else exponent.detach()
    if of_keys:
        seen = seen if weight is None else seen.masked_fill(weight[:, None, :, None] == 0, LEAST)
        largest = seen.amax((*SCOPE[stabilizer], 2, 3), keepdim=True)
    else:
        largest = seen.amax(-1, keepdim=True)
    features = torch.exp(exponent - (x.square().sum(-1, keepdim=True) * (scale**2 / 2) + largest))
    return features + epsilon if epsilon else features


def naive_attention_matrix(
    q: Tensor,
    k: Tensor,
    projection: Tensor,
    weight: Tensor | None = None,
    stabilizer: Stabilizer = "cell",
) -> Tensor:
    """The whole attention matrix (b, h, m, n), O(n²); a row sums to 1."""
    phi_q = naive_features(q, projection, None, stabilizer, of_keys=False)
    scores = phi_q @ naive_features(k, projection, weight, stabilizer).transpose(-1, -2)
    scores = scores if weight is None else scores * weight[:, None, None, :]
    return scores / scores.sum(-1, keepdim=True)


def attention(
    x: Tensor,
    qkv: Tensor,
    projection: Tensor,
    weight: Tensor | None = None,
    stabilizer: Stabilizer = "cell",
    query_tokens: Tensor | None = None,
) -> Tensor:
    """Attention output (b, n, h, d) of tokens x (b, n, w), in O(n r d) time.

    Of the `query_tokens` (b, m, w) only, where they are given: (b, m, h, d). `qkv` (3 h d, w) makes
    queries, keys and values.
    """
    if is_small(x, qkv, projection):
        return _kept_attention(x, qkv, projection, weight, stabilizer, query_tokens)
    query_tokens = x if query_tokens is None else query_tokens
    return _Attention.apply(query_tokens, x, qkv, projection, weight, stabilizer)


def is_small(x: Tensor, qkv: Tensor, projection: Tensor) -> bool:
    """Whether the features are so few that keeping them costs less than computing them again."""
    per_token = len(projection) * qkv.shape[0] // (3 * projection.shape[1])
    return per_token <= _SMALL and x.shape[0] * x.shape[1] * per_token <= _SMALL_IN_ALL


def _kept_attention(
    x: Tensor,
    qkv: Tensor,
    projection: Tensor,
    weight: Tensor | None,
    stabilizer: Stabilizer,
    query_tokens: Tensor | None,
) -> Tensor:
    """`attention` with its features kept for the gradients, by autograd alone."""
    q, k, v = F.linear(x, qkv).view(*x.shape[:2], 3, -1, projection.shape[1]).unbind(2)
    if query_tokens is not None:
        q = heads(query_tokens, qkv.chunk(3)[0], projection.shape[1])
    values = with_ones(k, v)
    with torch.autocast(x.device.type, enabled=False):
        values = values if weight is None else values * weight[:, None, :, None]
        keys = naive_features(k, projection, weight, stabilizer, epsilon=0.0)
        total = keys.transpose(-1, -2) @ values + EPSILON * values.sum(2, keepdim=True)
        queries = naive_features(q, projection, None, stabilizer, of_keys=False, epsilon=0.0)
        output = queries @ total + EPSILON * total.sum(2, keepdim=True)
        return (output[..., :-1] / output[..., -1:]).transpose(1, 2).to(v.dtype)


def heads(x: Tensor, matrix: Tensor, dim_head: int) -> Tensor:
    """Queries, keys or values (b, n, h, d) of tokens x (b, n, w) by a matrix (h d, w)."""
    return F.linear(x, matrix).view(*x.shape[:-1], -1, dim_head)


def received_attention(
    q: Tensor | Part,
    k: Tensor | Part,
    projection: Tensor,
    query_weight: Tensor,
    weight: Tensor | None = None,
    stabilizer: Stabilizer = "cell",
) -> Tensor:
    """Attention one gene behind each key receives, averaged over the queries: (b, h, n).

    Times `weight` it sums to 1.

    The column mean of the attention matrix A is phi(k_j) · u with u = sum_i w_i phi(q_i) /
    (phi(q_i) · sum_j phi(k_j)), so O(n r) time and O(r) state replace the n × n matrix. w is
    `query_weight` (b, n), which sums to 1 over a cell.
    """
    query, key = _part_of(q), _part_of(k)
    groups = []
    for cells, spans, context in contexts(
        lambda *at: (key(*at), None), query_weight, projection, weight, stabilizer
    ):
        for span in spans:
            context.collect(query(cells, span), query_weight[cells, span])
        parts = [context.received(key(cells, span), cut(weight, cells, span)) for span in spans]
        groups.append(torch.cat(parts, dim=-1))
    return torch.cat(groups)


def mean_weight(like: Tensor, weight: Tensor | None) -> Tensor:
    """Weight of each token (b, n) in a mean over the genes, 1 in sum: (b, n)."""
    if weight is None:
        return torch.full(like.shape, 1 / like.shape[1], device=like.device)
    return weight / weight.sum(1, keepdim=True)


def attention_floor(
    k: Tensor, projection: Tensor, weight: Tensor | None = None, stabilizer: Stabilizer = "cell"
) -> Tensor:
    """Share of the keys' features that is `EPSILON` alone, (b,); near 1 attention is uniform."""
    floors = []
    for _, _, context in contexts(lambda *at: (k[at], None), k, projection, weight, stabilizer):
        n_genes = context.values.sum((1, 2, 3))  # (cells,) genes × heads
        floors.append(EPSILON * len(projection) * n_genes / context.total.sum((1, 2, 3)))
    return torch.cat(floors)


class _Attention(torch.autograd.Function):
    """`attention` that keeps inputs, output and contexts, and recomputes the rest for gradients.

    With E the exponentials and s the scale by length, phi = s E + EPSILON; sums = phi(q) total;
    out = sums / normaliser. What flows back through an exponent is G = s E ∘ (g totalᵀ), through
    the length the row sum of G, and through a maximum the sum of all G under it, which goes to the
    one exponent that is the maximum.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_tokens: Tensor,
        x: Tensor,
        qkv: Tensor,
        projection: Tensor,
        weight: Tensor | None,
        stabilizer: Stabilizer,
    ) -> Tensor:
        d, (to_q, to_k, to_v) = projection.shape[1], qkv.chunk(3)
        out, normalizers, ctx.parts = [], [], []

        def keys_values(*at: slice) -> tuple[Tensor, Tensor]:
            return heads(x[at], to_k, d), heads(x[at], to_v, d)

        for part in contexts(keys_values, x, projection, weight, stabilizer):
            cells, spans, context = part
            outputs, sums = zip(
                *(
                    context.attend(heads(query_tokens[cells, span], to_q, d))
                    for span in steps(query_tokens.shape[1], spans[0].stop)
                ),
                strict=True,
            )
            out.append(torch.cat(outputs, dim=1))
            normalizers.append(torch.cat(sums, dim=2))
            ctx.parts.append(part)
        result = torch.cat(out)
        ctx.save_for_backward(query_tokens, x, qkv, weight, result, torch.cat(normalizers))
        ctx.autocast = torch.is_autocast_enabled(x.device.type)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query_tokens, x, qkv, weight, out, normalizer = ctx.saved_tensors
        d, matrices = out.shape[-1], qkv.chunk(3)
        dquery, dx, dqkv = (
            torch.empty_like(query_tokens),
            torch.empty_like(x),
            torch.zeros_like(qkv),
        )
        dweight, dmatrices = x.new_empty(x.shape[:2], dtype=torch.float32), dqkv.chunk(3)

        def through(which: int, dheads: Tensor, source: Tensor) -> Tensor:
            """Gradient of the source of queries, keys or values; that of their matrix is added."""
            dheads = dheads.flatten(2)
            if ctx.needs_input_grad[2]:
                dmatrices[which].add_(dheads.flatten(0, 1).T @ source.flatten(0, 1))
            return dheads @ matrices[which]

        with torch.autocast(x.device.type, enabled=ctx.autocast):
            for cells, spans, context in ctx.parts:
                dtotal = torch.zeros_like(context.total)
                for span in steps(query_tokens.shape[1], spans[0].stop):
                    at, normal = (cells, span), normalizer[cells, :, span]
                    q = heads(query_tokens[at], matrices[0], d)
                    dq = _query_gradient(context, dtotal, q, out[at], normal, grad[at])
                    dquery[at] = through(0, dq, query_tokens[at])
                dtotal[:, :, context.n_features :] = 0
                peak = _Peak()
                for span in spans:
                    at = (cells, span)
                    k, v = (heads(x[at], matrix, d) for matrix in matrices[1:])
                    dk, dv, dweight[at] = _key_gradients(
                        context, dtotal, k, v, cut(weight, *at), peak, span.start
                    )
                    dx[at] = through(1, dk, x[at]).add_(through(2, dv, x[at]))
                if _FOLLOWS[context.stabilizer]:
                    token, dk = peak.gradient(context)
                    place = torch.arange(len(token), device=x.device) + cells.start, token
                    dx[place] += through(1, dk.to(grad.dtype), x[place].unsqueeze(1)).squeeze(1)
        return dquery, dx, dqkv, None, dweight if ctx.needs_input_grad[4] else None, None


@float32
def _query_gradient(
    context: Context, dtotal: Tensor, q: Tensor, out: Tensor, normalizer: Tensor, grad: Tensor
) -> Tensor:
    """Gradient of the queries (b, m, h, d); what flows to the context is added to `dtotal`."""
    out, grad = out.transpose(1, 2).float(), grad.transpose(1, 2).float()  # (b, h, m, d)
    dsums = torch.cat([grad, -(grad * out).sum(-1, keepdim=True)], dim=-1) / normalizer
    features, scale = context.queries(q)
    dtotal += product(features.transpose(-1, -2), scale * dsums, q.dtype)
    dtotal += EPSILON * dsums.sum(2, keepdim=True)
    sums = torch.cat([out, torch.ones_like(normalizer)], dim=-1) * normalizer - context.floor
    row_sum = (dsums * sums).sum(-1, keepdim=True)
    largest = features.max(-1, keepdim=True).indices if _FOLLOWS[context.stabilizer] else None
    dexponent = features.mul_(product(scale * dsums, context.total.transpose(-1, -2), q.dtype))
    if largest is not None:
        dexponent.scatter_add_(-1, largest, -row_sum)
    return _through_features(context, q, dexponent, row_sum)


@float32
def _key_gradients(
    context: Context,
    dtotal: Tensor,
    k: Tensor,
    v: Tensor,
    weight: Tensor | None,
    peak: _Peak,
    start: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of keys and values (b, n, h, d) from token `start` on, and of weights (b, n).

    What flows to the maximum goes to `peak`; the maximum is of the tokens with any weight, however
    small, so none flows to these.
    """
    features, scale, _ = context.keys(k, weight, context.largest)
    values, counts = with_ones(k, v), None if weight is None else weight[:, None, :, None]
    sums = product(features, dtotal, k.dtype).mul_(scale)  # (b, h, n, d + 1)
    dvalues = sums + EPSILON * dtotal.sum(2, keepdim=True)
    dweight = (values * dvalues).sum((1, 3))
    if counts is not None:
        scale, sums, dvalues = scale * counts, sums.mul_(counts), dvalues.mul_(counts)
    row_sum = (values * sums).sum(-1, keepdim=True)
    if _FOLLOWS[context.stabilizer]:
        peak.update(features, row_sum, start)
    dexponent = features.mul_(product(scale * values, dtotal.transpose(-1, -2), k.dtype))
    dk = _through_features(context, k, dexponent, row_sum)
    return dk, dvalues[..., :-1].transpose(1, 2).to(v.dtype), dweight


def _through_features(context: Context, x: Tensor, dexponent: Tensor, row_sum: Tensor) -> Tensor:
    """Gradient of x (b, n, h, d) from exponents (b, h, n, r) and their row sums (b, h, n, 1)."""
    dx = product(dexponent, context.features, x.dtype).transpose(1, 2)
    return dx.sub_(row_sum.transpose(1, 2) * x.shape[-1] ** -0.5 * x.float()).to(x.dtype)


class _Peak:
    """Where among the keys of some cells the largest exponential is, and what flows back to it."""

    def update(self, features: Tensor, row_sum: Tensor, start: int) -> None:
        """Add keys from token `start` on: exponentials (b, h, n, r), gradient sums (b, h, n, 1)."""
        value, flows = features.amax((2, 3)), row_sum.sum((2, 3))  # (b, h)
        if start == 0:
            self.value, self.flows = torch.full_like(value, -1.0), torch.zeros_like(value)
            self.token, self.feature = (torch.zeros_like(value, dtype=torch.long) for _ in range(2))
        self.flows += flows
        if (value > self.value).any():
            place = features.flatten(2).argmax(-1)
            larger = value > self.value
            self.token = torch.where(larger, start + place // features.shape[-1], self.token)
            self.feature = torch.where(larger, place % features.shape[-1], self.feature)
            self.value = torch.where(larger, value, self.value)

    def gradient(self, context: Context) -> tuple[Tensor, Tensor]:
        """A token of each cell (b,) and its keys' gradient (b, 1, h, d), 0 but for the largest."""
        b, h = self.value.shape
        if context.stabilizer == "batch":
            best, total = self.value.flatten().argmax().view(1), self.flows.sum().view(1)
        else:
            best = self.value.argmax(1) + h * torch.arange(b, device=self.value.device)
            total = self.flows.sum(1)
        flows = torch.zeros(b * h, device=self.value.device).index_copy_(0, best, total)
        token = self.token.flatten()[best].expand(b)
        dk = -flows.view(b, h, 1) * context.features[self.feature]  # (b, h, d)
        return token, dk.unsqueeze(1)


def _part_of(x: Tensor | Part) -> Part:
    return (lambda *at: x[at]) if isinstance(x, Tensor) else x
