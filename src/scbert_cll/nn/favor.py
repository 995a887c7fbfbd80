"""FAVOR+ attention: the softmax kernel by positive orthogonal random features, linear in the number of tokens.

Source: Choromanski et al. 2021, "Rethinking Attention with Performers" (arXiv:2009.14794). Letters in shapes: b cells,
h heads, n tokens, d width of a head, r random features.

The factor r^-1/2 of the paper cancels between numerator and normaliser and is left out. The stabiliser, a constant
subtracted in the exponent, would cancel too were it not for `EPSILON`; so its scope is part of the function computed:

``"cell"``   maximum over all heads, tokens and features of one cell: a cell's output never depends on its companions.
``"head"``   maximum over tokens and features of one head of one cell (performer-pytorch).
``"batch"``  maximum over the whole batch: what scBERT does while training; kept for exact comparison only.
"""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor

Stabilizer = Literal["cell", "head", "batch"]

EPSILON: Final = 1e-4
_SCOPE: Final[dict[str, tuple[int, ...]]] = {"cell": (1, 2), "head": (2,), "batch": (0, 1, 2)}


def orthogonal_features(n_features: int, dim: int, generator: torch.Generator | None = None) -> Tensor:
    """Rows of stacked random orthogonal matrices, each as long as a Gaussian vector: (r, d)."""
    blocks = []
    for start in range(0, n_features, dim):
        q, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator))
        blocks.append(q.T[: n_features - start])
    lengths = torch.randn(n_features, dim, generator=generator).norm(dim=1, keepdim=True)
    return lengths * torch.cat(blocks)


def query_features(q: Tensor, projection: Tensor) -> Tensor:
    """Positive features of the queries, (b, h, n, d) -> (b, h, n, r); each row is stabilised by its own maximum."""
    return _query_exponentials(q, projection) + EPSILON


def key_features(k: Tensor, projection: Tensor, keep: Tensor | None = None, stabilizer: Stabilizer = "cell") -> Tensor:
    """Positive features of the keys, (b, h, n, d) -> (b, h, n, r); zero where `keep` (b, n) is False."""
    features = _key_exponentials(k, projection, keep, stabilizer) + EPSILON
    return features if keep is None else features * keep[:, None, :, None]


def attention(
    q: Tensor, k: Tensor, v: Tensor, projection: Tensor, keep: Tensor | None = None, stabilizer: Stabilizer = "cell"
) -> Tensor:
    """Attention output (b, h, n, d) in O(n r d) time, without a matrix of tokens x tokens.

    Two exact rewritings spare passes over the large (n, r) features: the normaliser is one more value column, of ones,
    and `EPSILON` is a rank-one term added to the small products. Padding is blotted out in the values.
    """
    values = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1).float()  # (b, h, n, d + 1)
    if keep is not None:
        values = values * keep[:, None, :, None]
    with torch.autocast(q.device.type, enabled=False):
        keys = _key_exponentials(k, projection, keep, stabilizer)
        context = keys.transpose(-1, -2) @ values + EPSILON * values.sum(-2, keepdim=True)  # (b, h, r, d + 1)
        out = _query_exponentials(q, projection) @ context + EPSILON * context.sum(-2, keepdim=True)
        return (out[..., :-1] / out[..., -1:]).to(v.dtype)


def received_attention(
    q: Tensor, k: Tensor, projection: Tensor, keep: Tensor | None = None, stabilizer: Stabilizer = "cell"
) -> Tensor:
    """Attention each token receives, averaged over the queries: (b, h, n); sums to 1 over the tokens.

    The column mean of the attention matrix A is phi(k_j) . u with u = mean_i phi(q_i) / (phi(q_i) . sum_j phi(k_j)), so
    O(n r) time and O(r) state replace the n x n matrix.
    """
    phi_q, phi_k = query_features(q, projection), key_features(k, projection, keep, stabilizer)
    weight = 1.0 / (phi_q @ phi_k.sum(-2).unsqueeze(-1))  # (b, h, n, 1)
    if keep is not None:
        weight = weight * keep[:, None, :, None]
        n_tokens = keep.sum(-1)[:, None, None]  # (b, 1, 1)
    else:
        n_tokens = torch.tensor(q.shape[-2], device=q.device)
    u = phi_q.transpose(-1, -2) @ weight  # (b, h, r, 1)
    return (phi_k @ u).squeeze(-1) / n_tokens


def naive_attention_matrix(
    q: Tensor, k: Tensor, projection: Tensor, keep: Tensor | None = None, stabilizer: Stabilizer = "cell"
) -> Tensor:
    """The whole attention matrix (b, h, n, n), O(n^2): the plain twin of `attention` and `received_attention`."""
    phi_q, phi_k = query_features(q, projection), key_features(k, projection, keep, stabilizer)
    scores = phi_q @ phi_k.transpose(-1, -2)
    return scores / scores.sum(-1, keepdim=True)


def attention_floor(
    k: Tensor, projection: Tensor, keep: Tensor | None = None, stabilizer: Stabilizer = "cell"
) -> Tensor:
    """Share of the keys' features that is `EPSILON` alone, per cell: near 1 attention is uniform and says nothing."""
    phi_k = key_features(k, projection, keep, stabilizer)
    n_tokens = keep.sum(-1) if keep is not None else torch.full((len(k),), k.shape[-2], device=k.device)
    return EPSILON * n_tokens * k.shape[1] * len(projection) / phi_k.sum((1, 2, 3))


def _query_exponentials(q: Tensor, projection: Tensor) -> Tensor:
    exponent, half_norm = _exponent(q, projection)
    return torch.exp(exponent - (half_norm + exponent.detach().amax(-1, keepdim=True)))


def _key_exponentials(k: Tensor, projection: Tensor, keep: Tensor | None, stabilizer: Stabilizer) -> Tensor:
    exponent, half_norm = _exponent(k, projection)
    largest = exponent.detach().amax(-1, keepdim=True)  # (b, h, n, 1)
    if keep is not None:  # padding must not raise the maximum
        largest = largest.masked_fill(~keep[:, None, :, None], -torch.inf)
    return torch.exp(exponent - (half_norm + largest.amax(_SCOPE[stabilizer], keepdim=True)))


def _exponent(x: Tensor, projection: Tensor) -> tuple[Tensor, Tensor]:
    """Projections (b, h, n, r) and half squared norms (b, h, n, 1) of x / d^(1/4), in float32 whatever the precision around."""
    with torch.autocast(x.device.type, enabled=False):
        x, scale = x.float(), x.shape[-1] ** -0.25
        return x @ (scale * projection.float()).T, x.square().sum(-1, keepdim=True) * (scale**2 / 2)
