"""Random features of FAVOR+, and sums over the keys of a cell that are gathered span by span.

Letters in shapes and the meaning of `weight` and `stabilizer` are those of `favor`, whose fast
paths are built on this.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Concatenate, Final, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

Stabilizer = Literal["cell", "head", "batch"]
type KeysValues = Callable[[slice, slice], tuple[Tensor, Tensor | None]]

EPSILON: Final = 1e-4
# axes of a maximum beyond tokens and features
SCOPE: Final[dict[str, tuple[int, ...]]] = {"cell": (1,), "head": (), "batch": (0, 1)}
# whether gradients flow through the maxima
FOLLOWS: Final = {"cell": True, "batch": True, "head": False}
LEAST: Final = torch.finfo(torch.float32).min
# Features held at a time: what stays in the cache of a CPU core, or fills a GPU.
_AT_A_TIME: Final = {"cpu": 2**20, "cuda": 2**27}
_PAD_TO: Final = 16  # matrix kernels like round numbers


class Kernel(NamedTuple):
    """What approximates the softmax: random features (r, d), and the scope of their maximum."""

    projection: Tensor
    stabilizer: Stabilizer = "cell"


def contexts(
    keys_values: KeysValues, like: Tensor, kernel: Kernel, weight: Tensor | None = None
) -> Iterator[tuple[slice, list[slice], Context]]:
    """Groups of cells, their spans of tokens and their context, with few features at a time.

    `keys_values` makes the keys and values (cells, span, h, d) of a part of the tokens (b, n, …).
    """
    b, n = like.shape[:2]
    n_heads = keys_values(slice(0, 1), slice(0, 1))[0].shape[2]
    tokens = max(_PAD_TO, at_a_time(like.device) // (len(kernel.projection) * n_heads))
    group = b if kernel.stabilizer == "batch" else max(1, tokens // n)
    spans = list(steps(n, max(_PAD_TO, tokens // group // _PAD_TO * _PAD_TO)))
    for cells in steps(b, group):
        context = Context(kernel)
        for span in spans:
            context.add(*keys_values(cells, span), cut(weight, cells, span))
        yield cells, spans, context.finalize()


def at_a_time(device: torch.device) -> int:
    """Features to hold at a time."""
    return _AT_A_TIME.get(device.type, _AT_A_TIME["cuda"])


def largest_exponents(k: Tensor, kernel: Kernel, valid: Tensor | None = None) -> Tensor:
    """Largest exponent of each key (b, n, h, d): (b, n, h), least where `valid` (b, n) is False."""
    with torch.autocast(k.device.type, enabled=False):
        largest = _project(k, _features(kernel.projection)).amax(-1).transpose(1, 2)
    if valid is None:
        return largest
    return largest.masked_fill(~valid.unsqueeze(-1), LEAST)


def steps(n: int, step: int) -> Iterator[slice]:
    """Cut n things in slices of `step`."""
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def take(x: Tensor, index: Tensor) -> Tensor:
    """Tokens `index` (b, m) of x (b, n, w): (b, m, w)."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def cut(weight: Tensor | None, cells: slice, span: slice) -> Tensor | None:
    """Weights of a part of the tokens, where there are any."""
    return None if weight is None else weight[cells, span]


def float32[S, **P, R](
    method: Callable[Concatenate[S, Tensor, P], R],
) -> Callable[Concatenate[S, Tensor, P], R]:
    """Switch autocast off: precision is decided here."""

    @functools.wraps(method)
    def run(self: S, x: Tensor, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with torch.autocast(x.device.type, enabled=False):
            return method(self, x, *args, **kwargs)

    return run


class Context:
    """Sums over the keys of some cells, gathered by span: `total` = sum_j w_j phi(k_j) [v_j, 1]ᵀ.

    While it gathers, `EPSILON` is left out and the stabiliser is the largest exponent so far: when
    a larger one comes, the sum is rescaled. `finalize` rescales to the scope of the stabiliser and
    adds `EPSILON`, a rank-one term.
    """

    total: Tensor  # (b, h, r, d + 1), float32
    values: Tensor  # (b, h, 1, d + 1): sum_j w_j [v_j, 1]
    largest: Tensor  # (b, h, 1, 1)

    def __init__(self, kernel: Kernel) -> None:
        self.kernel, self.empty = kernel, True
        self.features = _features(kernel.projection)
        self.n_features = len(kernel.projection)
        self.collected: Tensor | float = 0.0  # (b, h, r, 1), see `collect`

    @float32
    def add(self, k: Tensor, v: Tensor | None, weight: Tensor | None = None) -> Self:
        """Add keys and values (b, n, h, d) of tokens; without values for the normaliser alone."""
        exponent, scale, largest = self.keys(k, weight)
        if not self.empty:
            largest = torch.maximum(largest, self.largest)
        scale = scale if weight is None else scale * weight[:, None, :, None]
        values = with_ones(k, v)
        features = exponent.sub_(largest).exp_().transpose(-1, -2)
        gathered = product(features, scale * values, k.dtype)
        counts = None if weight is None else weight[:, None, None, :]
        values = values.sum(2, True) if counts is None else counts @ values
        if self.empty:
            self.total, self.values, self.empty = gathered, values, False
        else:
            self.total = self.total.mul_((self.largest - largest).exp_()).add_(gathered)
            self.values += values
        self.largest = largest
        return self

    def repeat(self, n: int) -> None:
        """Make the context of one cell that of n cells."""
        self.total, self.values, self.largest = (
            x.repeat(n, 1, 1, 1) for x in (self.total, self.values, self.largest)
        )

    def finalize(self, largest: Tensor | None = None) -> Self:
        """Rescale the complete sum to the stabiliser's scope, or to a maximum that is known."""
        if largest is None:
            scope = SCOPE[self.kernel.stabilizer]
            largest = self.largest.amax(scope, keepdim=True) if scope else self.largest
        self.total.mul_((self.largest - largest).exp_())
        self.total.add_(self.values, alpha=EPSILON)
        self.total[:, :, self.n_features :] = 0  # the features that only fill up
        self.largest = largest
        self.floor = EPSILON * self.total.sum(2, keepdim=True)  # (b, h, 1, d + 1)
        return self

    @float32
    def attend(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Attention output of queries (b, m, h, d), and their normalisers (b, h, m, 1).

        Queries of one cell (1, m, h, d) serve all cells.
        """
        features, scale = self.queries(q)
        if len(q) == len(self.total):
            sums = product(features, self.total, q.dtype)  # (b, h, m, d + 1)
        else:
            one, total = features[0].to(q.dtype), self.total.to(q.dtype)
            sums = torch.einsum("hmr,bhrd->bhmd", one, total).float()
        sums = sums.mul_(scale).add_(self.floor)
        normalizer = sums[..., -1:]
        return (sums[..., :-1] / normalizer).transpose(1, 2).to(q.dtype), normalizer

    @float32
    def collect(self, q: Tensor, query_weight: Tensor) -> None:
        """Add queries for `received`: sum_i w_i phi(q_i) / normaliser_i, w the `query_weight`."""
        features, scale = self.queries(q)
        normalizer = along(features, self.total[..., -1:]).mul_(scale)
        normalizer.add_(self.floor[..., -1:])
        counts = query_weight[:, None, :, None] / normalizer  # (b, h, m, 1)
        u = along(features.transpose(-1, -2), scale * counts)
        u = u + EPSILON * counts.sum(2, True)
        u[:, :, self.n_features :] = 0
        self.collected = self.collected + u

    @float32
    def received(self, k: Tensor, weight: Tensor | None = None) -> Tensor:
        """Attention that the keys (b, n, h, d) get from the collected queries: (b, h, n)."""
        features, scale, _ = self.keys(k, weight, self.largest)
        u = torch.as_tensor(self.collected)
        received = along(features, u).mul_(scale)
        received = received.add_(EPSILON * u.sum(2, keepdim=True)).squeeze(-1)
        return received if weight is None else received * (weight > 0)[:, None, :]

    def queries(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Exponentials (b, h, m, r) under their own maximum; scale by length (b, h, m, 1)."""
        exponent = _project(q, self.features)
        return exponent.sub_(exponent.amax(-1, keepdim=True)).exp_(), _length_scale(q)

    def keys(
        self, k: Tensor, weight: Tensor | None, largest: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Exponents (b, h, n, r), or exponentials under a known maximum; scale; maximum."""
        exponent = _project(k, self.features)
        if weight is not None:  # padding must not raise the maximum
            exponent.masked_fill_((weight == 0)[:, None, :, None], LEAST)
        if largest is not None:
            return exponent.sub_(largest).exp_(), _length_scale(k), largest
        return exponent, _length_scale(k), exponent.amax((2, 3), keepdim=True)


def _features(projection: Tensor) -> Tensor:
    """The projection scaled by d^-1/4, padded with copies of a row, which leave maxima alone."""
    features = projection.float() * projection.shape[1] ** -0.25
    return torch.cat([features, features[:1].expand(-len(features) % _PAD_TO, -1)])


def _project(x: Tensor, features: Tensor) -> Tensor:
    """Projections (b, h, n, r) of x (b, n, h, d), float32 whatever the precision of x."""
    x = x.transpose(1, 2)
    if x.is_cuda and x.dtype != torch.float32:
        # tensor cores that hand their float32 sums over
        rows, matrix = x.reshape(-1, x.shape[-1]), features.T.to(x.dtype)
        flat = torch.mm(rows, matrix, out_dtype=torch.float32)
        return flat.view(*x.shape[:-1], -1)
    return x.float() @ features.T


def _length_scale(x: Tensor) -> Tensor:
    """exp(-|x|² / 2) of the scaled x (b, n, h, d): (b, h, n, 1)."""
    squares = x.transpose(1, 2).float().square().sum(-1, keepdim=True)
    return squares.mul_(-(x.shape[-1] ** -0.5) / 2).exp_()


def heads(x: Tensor, matrix: Tensor, dim_head: int) -> Tensor:
    """Queries, keys or values (b, n, h, d) of tokens x (b, n, w) by a matrix (h d, w)."""
    return F.linear(x, matrix).view(*x.shape[:-1], -1, dim_head)


def with_ones(k: Tensor, v: Tensor | None) -> Tensor:
    """Values, where there are any, and a one for the normaliser: (b, h, n, d + 1) float32."""
    ones = torch.ones(k.shape[0], k.shape[2], k.shape[1], 1, device=k.device)
    return ones if v is None else torch.cat([v.transpose(1, 2).float(), ones], dim=-1)


def product(a: Tensor, b: Tensor, precision: torch.dtype) -> Tensor:
    """Multiply in `precision`, hand on in float32."""
    return (a.to(precision) @ b.to(precision)).float()


def along(matrix: Tensor, column: Tensor) -> Tensor:
    """Matrix times one column, as row times transpose: many times faster with row kernels."""
    return (column.transpose(-1, -2) @ matrix.transpose(-1, -2)).transpose(-1, -2)
