"""FAVOR+ attention: the softmax kernel by positive orthogonal random features, linear in the number of tokens.

Source: Choromanski et al. 2021, "Rethinking Attention with Performers" (arXiv:2009.14794). Letters in shapes: b cells,
m queries, n keys, h heads, d width of a head, r random features.

The factor r^-1/2 of the paper cancels between numerator and normaliser and is left out. The stabiliser, a constant
subtracted in the exponent, would cancel too were it not for `EPSILON`; so its scope is part of the function computed:

``"cell"``   maximum over all heads, tokens and features of one cell: a cell's output never depends on its companions.
``"head"``   maximum over tokens and features of one head of one cell (performer-pytorch).
``"batch"``  maximum over the whole batch: what scBERT does while training; kept for exact comparison only.

A `weight` (b, n) says how many genes a key stands for: 0 is padding, None is 1 for all.

No tensor of tokens × features is kept. `Context` sees the tokens a span at a time and holds O(r d) per head; `attention` is
built on it, and for gradients computes queries, keys, values and features again, span by span. `naive_attention_matrix` is
the plain O(n²) twin of everything here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

Stabilizer = Literal["cell", "head", "batch"]
Part = Callable[[slice, slice], Tensor]  # makes the part (cells, span, h, d) of a tensor (b, n, h, d)

EPSILON: Final = 1e-4
UNIFORM: Final = 0.9  # with a larger share of `EPSILON` in the features (`attention_floor`), attention says nothing
_SCOPE: Final[dict[str, tuple[int, ...]]] = {"cell": (1,), "head": (), "batch": (0, 1)}  # beyond tokens and features
_LEAST: Final = torch.finfo(torch.float32).min
# Features held at a time: what stays in the cache of a CPU core, or fills a GPU.
_AT_A_TIME: Final = {"cpu": 2**20, "cuda": 2**27}
_PAD_TO: Final = 16  # matrix kernels like round numbers


def orthogonal_features(n_features: int, dim: int, generator: torch.Generator | None = None) -> Tensor:
    """Rows of stacked random orthogonal matrices, each as long as a Gaussian vector: (r, d)."""
    blocks = []
    for start in range(0, n_features, dim):
        q, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator))
        blocks.append(q.T[: n_features - start])
    lengths = torch.randn(n_features, dim, generator=generator).norm(dim=1, keepdim=True)
    return lengths * torch.cat(blocks)


def naive_features(
    x: Tensor, projection: Tensor, weight: Tensor | None = None, stabilizer: Stabilizer | None = None
) -> Tensor:
    """Positive features (b, h, n, r) of x (b, n, h, d): of queries, or with a stabiliser of keys."""
    x = x.transpose(1, 2).float() * x.shape[-1] ** -0.25
    exponent = x @ projection.float().T
    seen = exponent.detach()
    if stabilizer is None:
        largest = seen.amax(-1, keepdim=True)
    else:
        if weight is not None:
            seen = seen.masked_fill(weight[:, None, :, None] == 0, _LEAST)
        largest = seen.amax((*_SCOPE[stabilizer], 2, 3), keepdim=True)
    return torch.exp(exponent - x.square().sum(-1, keepdim=True) / 2 - largest) + EPSILON


def naive_attention_matrix(
    q: Tensor, k: Tensor, projection: Tensor, weight: Tensor | None = None, stabilizer: Stabilizer = "cell"
) -> Tensor:
    """The whole attention matrix (b, h, m, n), O(n²); a row sums to 1."""
    scores = naive_features(q, projection) @ naive_features(k, projection, weight, stabilizer).transpose(-1, -2)
    scores = scores if weight is None else scores * weight[:, None, None, :]
    return scores / scores.sum(-1, keepdim=True)


def attention(
    x: Tensor,
    qkv: Tensor,
    projection: Tensor,
    weight: Tensor | None = None,
    stabilizer: Stabilizer = "cell",
    asking: Tensor | None = None,
) -> Tensor:
    """Attention among tokens x (b, n, w), in O(n r d) time: (b, n, h, d), or (b, m, h, d) of the tokens `asking` (b, m, w).

    `qkv` (3 h d, w) makes queries, keys and values.
    """
    return _Attention.apply(x if asking is None else asking, x, qkv, projection, weight, stabilizer)


def heads(x: Tensor, matrix: Tensor, dim_head: int) -> Tensor:
    """Queries, keys or values (b, n, h, d) of tokens x (b, n, w) by a matrix (h d, w)."""
    return F.linear(x, matrix).view(*x.shape[:-1], -1, dim_head)


def received_attention(
    q: Tensor | Part,
    k: Tensor | Part,
    projection: Tensor,
    share: Tensor,
    weight: Tensor | None = None,
    stabilizer: Stabilizer = "cell",
) -> Tensor:
    """Attention one gene behind each key receives, averaged over the queries: (b, h, n); times `weight` it sums to 1.

    The column mean of the attention matrix A is phi(k_j) · u with u = sum_i share_i phi(q_i) / (phi(q_i) · sum_j phi(k_j)), so
    O(n r) time and O(r) state replace the n × n matrix. `share` (b, n) is what a query counts; it sums to 1 over a cell.
    """
    query, key = _part_of(q), _part_of(k)
    found = []
    for cells, spans, context in contexts(lambda *at: (key(*at), None), share, projection, weight, stabilizer):
        for span in spans:
            context.collect(query(cells, span), share[cells, span])
        parts = [context.received(key(cells, span), _cut(weight, cells, span)) for span in spans]
        found.append(torch.cat(parts, dim=-1))
    return torch.cat(found)


def mean_share(like: Tensor, weight: Tensor | None) -> Tensor:
    """What each of the tokens (b, n) counts in a mean over the genes: (b, n)."""
    if weight is None:
        return torch.full(like.shape, 1 / like.shape[1], device=like.device)
    return weight / weight.sum(1, keepdim=True)


def attention_floor(
    k: Tensor, projection: Tensor, weight: Tensor | None = None, stabilizer: Stabilizer = "cell"
) -> Tensor:
    """Share of the keys' features that is `EPSILON` alone, per cell (b,): near 1 attention is uniform and says nothing."""
    floors = []
    for _, _, context in contexts(lambda *at: (k[at], None), k, projection, weight, stabilizer):
        n_genes = context.values.sum((1, 2, 3))  # (cells,) genes × heads
        floors.append(EPSILON * len(projection) * n_genes / context.total.sum((1, 2, 3)))
    return torch.cat(floors)


def contexts(
    keys_values: Callable[[slice, slice], tuple[Tensor, Tensor | None]],
    like: Tensor,
    projection: Tensor,
    weight: Tensor | None = None,
    stabilizer: Stabilizer = "cell",
) -> Iterator[tuple[slice, list[slice], Context]]:
    """Go through the tokens (b, n, …) with few features at a time: groups of cells, spans of tokens, and the cells' context.

    `keys_values` makes the keys and values (cells, span, h, d) of a part when they are needed.
    """
    b, n = like.shape[:2]
    n_heads = keys_values(slice(0, 1), slice(0, 1))[0].shape[2]
    tokens = max(_PAD_TO, _AT_A_TIME.get(like.device.type, _AT_A_TIME["cuda"]) // (len(projection) * n_heads))
    group = b if stabilizer == "batch" else max(1, tokens // n)
    spans = list(steps(n, max(_PAD_TO, tokens // group // _PAD_TO * _PAD_TO)))
    for cells in steps(b, group):
        context = Context(projection, stabilizer)
        for span in spans:
            context.add(*keys_values(cells, span), _cut(weight, cells, span))
        yield cells, spans, context.close()


def steps(n: int, step: int) -> Iterator[slice]:
    """Cut n things in slices of `step`."""
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def _float32(method: Callable[..., Any]) -> Callable[..., Any]:
    """Switch autocast off: precision is decided here."""

    @functools.wraps(method)
    def run(self: Context, x: Tensor, *args: Any) -> Any:
        with torch.autocast(x.device.type, enabled=False):
            return method(self, x, *args)

    return run


class Context:
    """What the keys of some cells say together, gathered span by span: `total` = sum_j w_j phi(k_j) [v_j, 1]ᵀ.

    While it gathers, `EPSILON` is left out and the stabiliser is the largest exponent so far: when a larger one comes, the
    sum is rescaled. `close` rescales to the scope of the stabiliser and adds `EPSILON`, a rank-one term.
    """

    total: Tensor  # (b, h, r, d + 1), float32
    values: Tensor  # (b, h, 1, d + 1): sum_j w_j [v_j, 1]
    largest: Tensor  # (b, h, 1, 1)

    def __init__(self, projection: Tensor, stabilizer: Stabilizer = "cell") -> None:
        self.features, self.n_features = _features(projection), len(projection)
        self.stabilizer = stabilizer
        self.empty = True
        self.collected: Tensor | float = 0.0  # (b, h, r, 1), see `collect`

    @_float32
    def add(self, k: Tensor, v: Tensor | None, weight: Tensor | None = None) -> Self:
        """Keys and values (b, n, h, d) of some more tokens; without values only the normaliser is gathered."""
        exponent, scale, largest = self._keys(k, weight)
        if not self.empty:
            largest = torch.maximum(largest, self.largest)
        scale = scale if weight is None else scale * weight[:, None, :, None]
        values = _with_ones(k, v)
        gathered = _product(exponent.sub_(largest).exp_().transpose(-1, -2), scale * values, k.dtype)
        values = values.sum(2, keepdim=True) if weight is None else weight[:, None, None, :] @ values
        if self.empty:
            self.total, self.values, self.empty = gathered, values, False
        else:
            self.total = self.total.mul_((self.largest - largest).exp_()).add_(gathered)
            self.values += values
        self.largest = largest
        return self

    def close(self) -> Self:
        """All keys are in: bring the sum to the stabiliser's scope."""
        scope = _SCOPE[self.stabilizer]
        largest = self.largest.amax(scope, keepdim=True) if scope else self.largest
        self.total.mul_((self.largest - largest).exp_()).add_(self.values, alpha=EPSILON)
        self.total[:, :, self.n_features :] = 0  # the features that only fill up
        self.largest = largest
        self.floor = EPSILON * self.total.sum(2, keepdim=True)  # (b, h, 1, d + 1)
        return self

    @_float32
    def read(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """What queries (b, m, h, d) hear: (b, m, h, d), and their normalisers (b, h, m, 1)."""
        features, scale = self._queries(q)
        heard = _product(features, self.total, q.dtype).mul_(scale).add_(self.floor)  # (b, h, m, d + 1)
        normalizer = heard[..., -1:]
        return (heard[..., :-1] / normalizer).transpose(1, 2).to(q.dtype), normalizer

    @_float32
    def collect(self, q: Tensor, share: Tensor) -> None:
        """Queries of some more tokens, for `received`: sum_i share_i phi(q_i) / normaliser_i."""
        features, scale = self._queries(q)
        normalizer = (features @ self.total[..., -1:]).mul_(scale).add_(self.floor[..., -1:])
        counts = share[:, None, :, None] / normalizer  # (b, h, m, 1)
        u = features.transpose(-1, -2) @ (scale * counts) + EPSILON * counts.sum(2, keepdim=True)
        u[:, :, self.n_features :] = 0
        self.collected = self.collected + u

    @_float32
    def received(self, k: Tensor, weight: Tensor | None = None) -> Tensor:
        """Attention that each of the keys (b, n, h, d) gets from the queries that were collected: (b, h, n)."""
        features, scale, _ = self._keys(k, weight, self.largest)
        u = torch.as_tensor(self.collected)
        received = (features @ u).mul_(scale).add_(EPSILON * u.sum(2, keepdim=True)).squeeze(-1)
        return received if weight is None else received * (weight > 0)[:, None, :]

    def _queries(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Exponentials (b, h, m, r) under their own maximum, and the scale (b, h, m, 1) by the queries' lengths."""
        exponent = _project(q, self.features)
        return exponent.sub_(exponent.amax(-1, keepdim=True)).exp_(), _length_scale(q)

    def _keys(self, k: Tensor, weight: Tensor | None, largest: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Exponents (b, h, n, r), or exponentials under a known maximum; the scale by length; the maximum."""
        exponent = _project(k, self.features)
        if weight is not None:  # padding must not raise the maximum
            exponent.masked_fill_((weight == 0)[:, None, :, None], _LEAST)
        if largest is not None:
            return exponent.sub_(largest).exp_(), _length_scale(k), largest
        return exponent, _length_scale(k), exponent.amax((2, 3), keepdim=True)


class _Attention(torch.autograd.Function):
    """`attention`, which remembers its inputs, its output and the context, and for gradients computes the rest again.

    With E the exponentials and s the scale by length, phi = s E + EPSILON; heard = phi(q) total; out = heard / normaliser. The
    maxima are constants. What flows back through an exponent is s E ∘ (g totalᵀ), and through the length its row sum.
    """

    @staticmethod
    def forward(
        ctx: Any,
        asking: Tensor,
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
            found = [
                context.read(heads(asking[cells, span], to_q, d)) for span in steps(asking.shape[1], spans[0].stop)
            ]
            out.append(torch.cat([heard for heard, _ in found], dim=1))
            normalizers.append(torch.cat([normalizer for _, normalizer in found], dim=2))
            ctx.parts.append(part)
        result = torch.cat(out)
        ctx.save_for_backward(asking, x, qkv, weight, result, torch.cat(normalizers))
        ctx.autocast = torch.is_autocast_enabled(x.device.type)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        asking, x, qkv, weight, out, normalizer = ctx.saved_tensors
        d, matrices = out.shape[-1], qkv.chunk(3)
        dasking, dx, dqkv = torch.empty_like(asking), torch.empty_like(x), torch.zeros_like(qkv)
        dmatrices = dqkv.chunk(3)

        def through(which: int, dheads: Tensor, source: Tensor) -> Tensor:
            """From the gradient of queries, keys or values to that of their source, and of the matrix between."""
            dheads = dheads.flatten(2)
            if ctx.needs_input_grad[2]:
                dmatrices[which].add_(dheads.flatten(0, 1).T @ source.flatten(0, 1))
            return dheads @ matrices[which]

        with torch.autocast(x.device.type, enabled=ctx.autocast):
            for cells, spans, context in ctx.parts:
                dtotal = torch.zeros_like(context.total)
                for span in steps(asking.shape[1], spans[0].stop):
                    at, normal = (cells, span), normalizer[cells, :, span]
                    q = heads(asking[at], matrices[0], d)
                    dq = _query_gradient(context, dtotal, q, out[at], normal, grad[at])
                    dasking[at] = through(0, dq, asking[at])
                dtotal[:, :, context.n_features :] = 0
                for span in spans:
                    at = (cells, span)
                    k, v = (heads(x[at], matrix, d) for matrix in matrices[1:])
                    dk, dv = _key_gradients(context, dtotal, k, v, _cut(weight, *at))
                    dx[at] = through(1, dk, x[at]).add_(through(2, dv, x[at]))
        return dasking, dx, dqkv, None, None, None


@_float32
def _query_gradient(
    context: Context, dtotal: Tensor, q: Tensor, out: Tensor, normalizer: Tensor, grad: Tensor
) -> Tensor:
    """Gradient of the queries (b, m, h, d); what flows to the context is added to `dtotal`."""
    out, grad = out.transpose(1, 2).float(), grad.transpose(1, 2).float()  # (b, h, m, d)
    dheard = torch.cat([grad, -(grad * out).sum(-1, keepdim=True)], dim=-1) / normalizer
    features, scale = context._queries(q)
    dtotal += _product(features.transpose(-1, -2), scale * dheard, q.dtype)
    dtotal += EPSILON * dheard.sum(2, keepdim=True)
    dexponent = features.mul_(_product(scale * dheard, context.total.transpose(-1, -2), q.dtype))
    heard = torch.cat([out, torch.ones_like(normalizer)], dim=-1) * normalizer - context.floor
    return _through_features(context, q, dexponent, (dheard * heard).sum(-1, keepdim=True))


@_float32
def _key_gradients(
    context: Context, dtotal: Tensor, k: Tensor, v: Tensor, weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Gradients of the keys and the values (b, n, h, d)."""
    features, scale, _ = context._keys(k, weight, context.largest)
    values, counts = _with_ones(k, v), None if weight is None else weight[:, None, :, None]
    scale = scale if counts is None else scale * counts
    heard = _product(features, dtotal, k.dtype).mul_(scale)  # (b, h, n, d + 1)
    floor = EPSILON * dtotal.sum(2, keepdim=True)
    dvalues = heard + (floor if counts is None else floor * counts)
    dexponent = features.mul_(_product(scale * values, dtotal.transpose(-1, -2), k.dtype))
    dk = _through_features(context, k, dexponent, (values * heard).sum(-1, keepdim=True))
    return dk, dvalues[..., :-1].transpose(1, 2).to(v.dtype)


def _through_features(context: Context, x: Tensor, dexponent: Tensor, row_sum: Tensor) -> Tensor:
    """From exponents (b, h, n, r), and their row sums (b, h, n, 1), to what was projected (b, n, h, d)."""
    dx = _product(dexponent, context.features, x.dtype)
    return dx.transpose(1, 2).sub_(row_sum.transpose(1, 2) * x.shape[-1] ** -0.5 * x.float()).to(x.dtype)


def _part_of(x: Tensor | Part) -> Part:
    return (lambda *at: x[at]) if isinstance(x, Tensor) else x


def _cut(weight: Tensor | None, cells: slice, span: slice) -> Tensor | None:
    return None if weight is None else weight[cells, span]


def _features(projection: Tensor) -> Tensor:
    """The projection scaled by d^-1/4, filled up to a round number with copies of a row, which leave maxima as they are."""
    features = projection.float() * projection.shape[1] ** -0.25
    return torch.cat([features, features[:1].expand(-len(features) % _PAD_TO, -1)])


def _project(x: Tensor, features: Tensor) -> Tensor:
    """Projections (b, h, n, r) of x (b, n, h, d), float32 whatever the precision of x."""
    x = x.transpose(1, 2)
    if x.is_cuda and x.dtype != torch.float32:  # tensor cores that hand their float32 sums over
        flat = torch.mm(x.reshape(-1, x.shape[-1]), features.T.to(x.dtype), out_dtype=torch.float32)
        return flat.view(*x.shape[:-1], -1)
    return x.float() @ features.T


def _length_scale(x: Tensor) -> Tensor:
    """exp(-|x|² / 2) of the scaled x (b, n, h, d): (b, h, n, 1)."""
    return x.transpose(1, 2).float().square().sum(-1, keepdim=True).mul_(-(x.shape[-1] ** -0.5) / 2).exp_()


def _with_ones(k: Tensor, v: Tensor | None) -> Tensor:
    """Values and a one, from which the normaliser comes: (b, h, n, d + 1) float32; without values the one alone."""
    ones = torch.ones(k.shape[0], k.shape[2], k.shape[1], 1, device=k.device)
    return ones if v is None else torch.cat([v.transpose(1, 2).float(), ones], dim=-1)


def _product(a: Tensor, b: Tensor, precision: torch.dtype) -> Tensor:
    """Multiply in `precision`, hand on in float32."""
    return (a.to(precision) @ b.to(precision)).float()
