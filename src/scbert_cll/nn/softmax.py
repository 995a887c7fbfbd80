"""Exact softmax attention, quadratic in the number of tokens: the control for FAVOR+.

Shapes and the meaning of `weight` are those of `favor`; the same weights of a network serve both.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

_QUERIES_AT_A_TIME: Final = 128


def attention(q: Tensor, k: Tensor, v: Tensor, weight: Tensor | None = None) -> Tensor:
    """Attention output (b, m, h, d) of q (b, m, h, d) over k and v (b, n, h, d)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    bias = None if weight is None else _bias(weight).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2)


def received_attention(
    q: Tensor, k: Tensor, query_weight: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Attention one gene behind each key receives, queries counted by `query_weight`: (b, h, n)."""
    received = torch.zeros(k.shape[0], k.shape[2], k.shape[1], device=k.device)
    for start in range(0, q.shape[1], _QUERIES_AT_A_TIME):
        span = slice(start, start + _QUERIES_AT_A_TIME)
        matrix = attention_matrix(q[:, span], k, weight)
        received += (query_weight[:, None, None, span] @ matrix).squeeze(2)
    if weight is None:
        return received
    return received * (1 / weight).where(weight > 0, 0.0)[:, None, :]


def attention_matrix(q: Tensor, k: Tensor, weight: Tensor | None = None) -> Tensor:
    """The whole attention matrix (b, h, m, n); a row sums to 1."""
    scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1) * q.shape[-1] ** -0.5
    return (scores if weight is None else scores + _bias(weight)).softmax(-1)


def _bias(weight: Tensor) -> Tensor:
    """Log-weight of each key, so that it counts once per gene: (b, 1, 1, n); -inf hides padding."""
    return weight.log()[:, None, None, :]
