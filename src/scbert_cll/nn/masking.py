"""Which genes are hidden while pretraining."""

from __future__ import annotations

import torch
from torch import Tensor


def mask_tokens(
    tokens: Tensor,
    mask_token: int,
    *,
    fraction: float = 0.15,
    replace: float = 0.9,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Hide a share of each cell's non-zero genes.

    Of the chosen genes `replace` become the mask token and the rest keep their value, so that the
    network cannot rely on the mask token alone. Every cell with a non-zero gene has at least one
    chosen.

    Parameters
    ----------
    tokens
        Bins (b, n); zeros (not expressed, padding) are never chosen.
    mask_token
        The token that hides a gene.
    fraction
        Share of the non-zero genes to choose.
    replace
        Share of the chosen genes that become the mask token.
    generator
        Source of randomness; lives on the CPU so that the same genes are hidden on every device.

    Returns
    -------
    The tokens the network sees (b, n), and which of them it has to guess, bool (b, n).
    """
    draw = torch.rand(tokens.shape, generator=generator).to(tokens.device)
    hide = torch.rand(tokens.shape, generator=generator).to(tokens.device) < replace
    draw = draw.masked_fill(tokens == 0, torch.inf)
    n_chosen = (fraction * (tokens > 0).sum(-1, keepdim=True)).round().clamp(min=1)
    ranks = draw.argsort(-1).argsort(-1)
    chosen = (ranks < n_chosen) & (tokens > 0)
    return tokens.masked_fill(chosen & hide, mask_token), chosen
