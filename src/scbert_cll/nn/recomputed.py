"""FAVOR+ attention whose features are computed again for the gradients, span by span.

Letters in shapes are those of `favor`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scbert_cll.nn import context as over_keys
from scbert_cll.nn.context import Context, Kernel, cut, float32, heads, product, steps


class Recomputed(torch.autograd.Function):
    """`favor.attention` that keeps inputs, output and contexts; gradients recompute the rest.

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
        kernel: Kernel,
        weight: Tensor | None,
    ) -> Tensor:
        """Attention output of the query tokens; arguments as in `favor.attention`."""
        d, (to_q, to_k, to_v) = kernel.projection.shape[1], qkv.chunk(3)
        outputs, normalizers, ctx.parts = [], [], []

        def keys_values(*at: slice) -> tuple[Tensor, Tensor]:
            return heads(x[at], to_k, d), heads(x[at], to_v, d)

        for cells, spans, context in over_keys.contexts(keys_values, x, kernel, weight):
            queries = [
                context.attend(heads(query_tokens[cells, span], to_q, d))
                for span in steps(query_tokens.shape[1], spans[0].stop)
            ]
            of_spans, their_normalizers = zip(*queries, strict=True)
            outputs.append(torch.cat(of_spans, dim=1))
            normalizers.append(torch.cat(their_normalizers, dim=2))
            ctx.parts.append((cells, spans, context))
        result, normalizer = torch.cat(outputs), torch.cat(normalizers)
        ctx.save_for_backward(query_tokens, x, qkv, weight, result, normalizer)
        ctx.autocast = torch.is_autocast_enabled(x.device.type)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the arguments."""
        query_tokens, x, qkv, weight, out, normalizers = ctx.saved_tensors
        d, matrices = out.shape[-1], qkv.chunk(3)
        dquery, dx = torch.empty_like(query_tokens), torch.empty_like(x)
        dweight = x.new_empty(x.shape[:2], dtype=torch.float32)
        dqkv = torch.zeros_like(qkv)
        dmatrices = dqkv.chunk(3)

        def through(which: int, dheads: Tensor, source: Tensor) -> Tensor:
            """Gradient of the source of queries, keys or values; that of their matrix is added."""
            dheads = dheads.flatten(2)
            if ctx.needs_input_grad[2]:
                dmatrices[which].add_(dheads.flatten(0, 1).T @ source.flatten(0, 1))
            return dheads @ matrices[which]

        with torch.autocast(x.device.type, enabled=ctx.autocast):
            for cells, spans, context in ctx.parts:
                back = _Gradients(context)
                for span in steps(query_tokens.shape[1], spans[0].stop):
                    at = cells, span
                    q = heads(query_tokens[at], matrices[0], d)
                    norm = normalizers[cells, :, span]
                    dq = back.of_queries(q, out[at], norm, grad[at])
                    dquery[at] = through(0, dq, query_tokens[at])
                back.dtotal[:, :, context.n_features :] = 0
                for span in spans:
                    at = cells, span
                    k, v = (heads(x[at], matrix, d) for matrix in matrices[1:])
                    counts = cut(weight, *at)
                    dk, dv, dweight[at] = back.of_keys(k, v, counts, span.start)
                    dx[at] = through(1, dk, x[at]).add_(through(2, dv, x[at]))
                if back.follows:
                    token, dk = back.of_largest()
                    cell = torch.arange(len(token), device=x.device) + cells.start
                    source, dk = x[cell, token].unsqueeze(1), dk.to(grad.dtype)
                    dx[cell, token] += through(1, dk, source).squeeze(1)
        return dquery, dx, dqkv, None, dweight if ctx.needs_input_grad[4] else None


class _Gradients:
    """What flows back through the context of some cells: first of all queries, then of all keys.

    Also where among the keys the largest exponential is, and what flows back to it.
    """

    def __init__(self, context: Context) -> None:
        self.context, self.dtotal = context, torch.zeros_like(context.total)
        self.follows = over_keys.FOLLOWS[context.kernel.stabilizer]

    @float32
    def of_queries(self, q: Tensor, out: Tensor, norm: Tensor, grad: Tensor) -> Tensor:
        """Gradient of the queries (b, m, h, d); what flows to the context is added to `dtotal`."""
        context = self.context
        out, grad = (x.transpose(1, 2).float() for x in (out, grad))  # (b, h, m, d)
        of_norm = -(grad * out).sum(-1, keepdim=True)
        dsums = torch.cat([grad, of_norm], dim=-1) / norm
        features, scale = context.queries(q)
        self.dtotal += product(features.transpose(-1, -2), scale * dsums, q.dtype)
        self.dtotal += over_keys.EPSILON * dsums.sum(2, keepdim=True)
        sums = torch.cat([out, torch.ones_like(norm)], dim=-1) * norm
        sums = sums - context.floor
        row_sum = (dsums * sums).sum(-1, keepdim=True)
        largest = features.max(-1, keepdim=True).indices if self.follows else None
        total = context.total.transpose(-1, -2)
        dexponent = features.mul_(product(scale * dsums, total, q.dtype))
        if largest is not None:
            dexponent.scatter_add_(-1, largest, -row_sum)
        return self._through_features(q, dexponent, row_sum)

    @float32
    def of_keys(
        self, k: Tensor, v: Tensor, weight: Tensor | None, start: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of keys and values (b, n, h, d) from token `start` on, and of weights (b, n).

        The maximum is of the tokens with any weight, however small, so none flows to these from it.
        """
        features, scale, _ = self.context.keys(k, weight, self.context.largest)
        values = over_keys.with_ones(k, v)
        sums = product(features, self.dtotal, k.dtype).mul_(scale)  # (b, h, n, d + 1)
        dvalues = sums + over_keys.EPSILON * self.dtotal.sum(2, keepdim=True)
        dweight = (values * dvalues).sum((1, 3))
        if weight is not None:
            counts = weight[:, None, :, None]
            scale = scale * counts
            sums, dvalues = sums.mul_(counts), dvalues.mul_(counts)
        row_sum = (values * sums).sum(-1, keepdim=True)
        if self.follows:
            self._look_for_largest(features, row_sum, start)
        dtotal = self.dtotal.transpose(-1, -2)
        dexponent = features.mul_(product(scale * values, dtotal, k.dtype))
        dk = self._through_features(k, dexponent, row_sum)
        return dk, dvalues[..., :-1].transpose(1, 2).to(v.dtype), dweight

    def of_largest(self) -> tuple[Tensor, Tensor]:
        """A token of each cell (b,) and its keys' gradient (b, 1, h, d), 0 but for the largest."""
        b, h = self.value.shape
        if self.context.kernel.stabilizer == "batch":
            best = self.value.flatten().argmax().view(1)
            total = self.flows.sum().view(1)
        else:
            best = self.value.argmax(1) + h * torch.arange(b, device=self.value.device)
            total = self.flows.sum(1)
        flows = torch.zeros(b * h, device=self.value.device).index_copy_(0, best, total)
        dk = -flows.view(b, h, 1) * self.context.features[self.feature]  # (b, h, d)
        return self.token.flatten()[best].expand(b), dk.unsqueeze(1)

    def _look_for_largest(self, features: Tensor, row_sum: Tensor, start: int) -> None:
        """Add keys from token `start` on: exponentials (b, h, n, r), gradient sums (b, h, n, 1)."""
        value, flows = features.amax((2, 3)), row_sum.sum((2, 3))  # (b, h)
        if start == 0:
            self.value = torch.full_like(value, -1.0)
            self.flows = torch.zeros_like(value)
            self.token = torch.zeros_like(value, dtype=torch.long)
            self.feature = torch.zeros_like(self.token)
        self.flows += flows
        if (value > self.value).any():
            place, larger = features.flatten(2).argmax(-1), value > self.value
            r = features.shape[-1]
            self.token = torch.where(larger, start + place // r, self.token)
            self.feature = torch.where(larger, place % r, self.feature)
            self.value = torch.where(larger, value, self.value)

    def _through_features(self, x: Tensor, dexponent: Tensor, row: Tensor) -> Tensor:
        """Gradient of x (b, n, h, d) by exponents (b, h, n, r) and their row sums (b, h, n, 1)."""
        dx = product(dexponent, self.context.features, x.dtype).transpose(1, 2)
        of_length = row.transpose(1, 2) * x.shape[-1] ** -0.5 * x.float()
        return dx.sub_(of_length).to(x.dtype)
