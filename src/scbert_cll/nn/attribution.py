"""Contribution of each token to a cell's logit: by gradients, along a path, by attention rollout.

Leaving tokens out is measured in `model/explain/perturbation.py`. Captum (a test compares the two)
has the same gate gradient, gradient × input and integrated gradients for whoever brings it the
forward function; its path holds all its points at once, and it has neither rollout in linear time
nor sums per gene over cells that differ in their tokens.

Everything takes cells as the network does, (tokens, genes, weight), and gives float32 (b, n), one
number per token. `contrast` (classes,) says which combination of the logits is meant. Cells do not
touch each other: the network must be in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from scbert_cll.nn import favor
from scbert_cll.nn.performer import Performer

Cells = Mapping[str, Tensor]


def contrast_of(n_classes: int, target: int) -> Tensor:
    """One class against the mean of the others: (classes,)."""
    contrast = torch.full((n_classes,), -1 / (n_classes - 1))
    contrast[target] = 1.0
    return contrast


def gate_gradient(module: Performer, cells: Cells, contrast: Tensor) -> Tensor:
    """Change of the logit when a token's weight grows, in attention and pooling.

    To first order the negative effect of dropping the token.
    """
    weight = cells.get("weight", torch.ones_like(cells["tokens"], dtype=torch.float32))
    with torch.enable_grad():
        weight = weight.clone().requires_grad_()
        logit = _logit(module, {**cells, "weight": weight}, contrast).sum()
        (gradient,) = torch.autograd.grad(logit, weight)
    return gradient.where(weight > 0, 0.0)


def gradient_input(module: Performer, cells: Cells, contrast: Tensor) -> Tensor:
    """Gradient by a token's expression part, times its distance from the token of no expression."""
    return _along_path(module, cells, contrast, np.ones(1), np.ones(1))[0]


def integrated_gradients(
    module: Performer, cells: Cells, contrast: Tensor, n_steps: int = 32
) -> tuple[Tensor, Tensor, Tensor]:
    """Integrated gradients from no expression to the cell, by Gauss-Legendre quadrature.

    Also the change of the logit along the path (b,), to which a row should sum, and the sum's
    difference from it. Source: Sundararajan et al. 2017 (arXiv:1703.01365).
    """
    at, weight = np.polynomial.legendre.leggauss(n_steps)
    gradients, change = _along_path(module, cells, contrast, (at + 1) / 2, weight / 2)
    return gradients, change, gradients.sum(1) - change


@torch.no_grad()
def rollout(module: Performer, cells: Cells) -> Tensor:
    """Share of each token in the cell's mean token by attention rollout; a row sums to 1.

    Half of each step stays where it is (Abnar and Zuidema 2020, arXiv:2005.00928). The product of
    the attention matrices is never made: the row vector that starts from the mean over the tokens
    goes through them one after the other, each time in linear time.
    """
    tokens, weight = cells["tokens"], cells.get("weight")
    share = favor.mean_weight(tokens, weight)
    for block, x in reversed(list(module.stages(tokens, cells.get("genes"), weight))):
        normed = block.attention_norm(x)
        received = block.attention.received(normed, share, weight).mean(1)
        share = 0.5 * (received if weight is None else received * weight) + 0.5 * share
    return share


def _logit(module: Performer, cells: Cells, contrast: Tensor) -> Tensor:
    return module(**cells).float() @ contrast.to(module.device)


def _along_path(
    module: Performer, cells: Cells, contrast: Tensor, at: np.ndarray, share: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Weighted gradients along the path times its direction, and the logit's change over it."""
    zero = module.token_embedding.weight[0].detach()
    direction = (module.token_embedding(cells["tokens"]) - zero).detach()
    total = torch.zeros(cells["tokens"].shape, device=module.device)
    for place, part in zip(at, share, strict=True):
        with torch.enable_grad():
            expression = (zero + float(place) * direction).requires_grad_()
            with _expressing(module, expression):
                logit = _logit(module, cells, contrast).sum()
                (gradient,) = torch.autograd.grad(logit, expression)
        total += float(part) * (gradient * direction).sum(-1)
    ends = []
    for place in (0.0, 1.0):
        with torch.no_grad(), _expressing(module, zero + place * direction):
            ends.append(_logit(module, cells, contrast))
    return total, ends[1] - ends[0]


@contextmanager
def _expressing(module: Performer, expression: Tensor) -> Iterator[None]:
    """Let the network read these vectors (b, n, w) in the place of those of its tokens."""
    hook: Callable[..., Tensor] = lambda *_: expression  # noqa: E731
    handle = module.token_embedding.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
