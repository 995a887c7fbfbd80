"""The plain O(n²) twin of FAVOR+ attention."""

from __future__ import annotations

from torch import Tensor

from scbert_cll.nn import favor
from scbert_cll.nn.context import EPSILON, Kernel


def naive_features(
    x: Tensor, kernel: Kernel, weight: Tensor | None = None, *, of_keys: bool = True
) -> Tensor:
    """Positive features (b, h, n, r) of keys or queries x (b, n, h, d), with their floor."""
    return favor.features(x, kernel, weight, of_keys=of_keys) + EPSILON


def naive_attention_matrix(
    q: Tensor, k: Tensor, kernel: Kernel, weight: Tensor | None = None
) -> Tensor:
    """The whole attention matrix (b, h, m, n); a row sums to 1."""
    scores = naive_features(q, kernel, of_keys=False) @ naive_features(k, kernel, weight).mT
    scores = scores if weight is None else scores * weight[:, None, None, :]
    return scores / scores.sum(-1, keepdim=True)
