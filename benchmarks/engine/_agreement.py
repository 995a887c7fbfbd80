"""What must agree before `engine.py` times anything, and how far the approximate modes are from the
exact one.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks._measure import spread
from benchmarks.engine._workloads import (
    Scene,
    dense_received,
    encode,
    encode_levels,
    first_block,
    from_peer,
    one_layer,
)
from scbert_cll.nn import Performer, mask_tokens

CHECKED_AT = 1_000  # tokens
LIMITS = {
    "logits, largest difference": 1e-4,
    "gradients, relative": 1e-3,
    "gene attention, relative": 1e-5,
    "encodings of hidden genes alone, largest difference": 1e-4,
    "first block with shared sums, largest difference": 1e-4,
    "encodings of levels, largest difference": 1e-4,
}


def check(scene: Scene) -> dict[str, float]:
    """Differences from performer-pytorch, dense attention and the long way round; ends the program
    where one is too large.
    """
    scene = replace(scene, length=min(scene.length, CHECKED_AT))
    values = (
        *_against_peer(scene),
        _attention(scene),
        _where_guessed(scene),
        _shared(scene),
        _levels(scene),
    )
    found = dict(zip(LIMITS, values, strict=True))
    wrong = [
        f"{name} {found[name]:.1e}, allowed {most:.0e}"
        for name, most in LIMITS.items()
        if not found[name] <= most
    ]
    if wrong:
        raise SystemExit(f"Nothing is timed, because results differ: {'; '.join(wrong)}.")
    return found


def _against_peer(scene: Scene) -> tuple[float, float]:
    """Largest difference of logits, and of a parameter's gradients relative to their norm."""
    tokens, peer, ours = scene.tokens(), scene.peer(), scene.as_peer()
    difference = _largest(_backward(ours, tokens), _backward(peer, tokens))
    theirs = from_peer(peer.state_dict() | {name: p.grad for name, p in peer.named_parameters()})
    return difference, max(_relative(p.grad, theirs[name]) for name, p in ours.named_parameters())


def _backward(network: nn.Module, tokens: Tensor) -> Tensor:
    logits = network(tokens)
    F.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
    return logits.detach()


def _attention(scene: Scene) -> float:
    """Largest relative difference between the column means of dense matrices and ours, over layers,
    heads and genes.
    """
    tokens, network = scene.tokens(), scene.as_peer()
    with torch.inference_mode():
        x, expected = network.embed(tokens), []
        for block in network.blocks:
            expected.append(dense_received(block.attention, block.attention_norm(x)))
            x = block(x)
        found = network.gene_attention(tokens)[:, 0]
        first = one_layer(network, tokens, dense=False)
    whole = torch.stack(expected)
    return max(_largest(found / whole, torch.ones(())), _largest(first / whole[0], torch.ones(())))


def _where_guessed(scene: Scene) -> float:
    tokens, network = scene.tokens(), _short(scene)
    seen, chosen = mask_tokens(tokens, 6, generator=torch.Generator().manual_seed(0))
    return _largest(network.encode(seen, at=chosen).detach(), network.encode(seen).detach()[chosen])


def _shared(scene: Scene) -> float:
    network, tokens = _short(scene), scene.batch("all")["tokens"][:, : scene.length]
    return _largest(*(first_block(network, tokens, apart=apart) for apart in (False, True)))


def _levels(scene: Scene) -> float:
    tokens, network = scene.tokens(), _short(scene, gene_embedding="none")
    return _largest(*(encode_levels(network, tokens, apart=apart) for apart in (False, True)))


def _short(scene: Scene, **changes: str) -> Performer:
    return scene.published(tokens="all", **changes)


def _largest(a: Tensor, b: Tensor) -> float:
    return float((a.to(b.device) - b).abs().max())


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def errors(scene: Scene, n_cells: int = 4) -> dict[str, dict[str, float]]:
    """Root mean square difference of the expressed genes' encodings to those with all genes,
    relative, over some cells.
    """
    network, tokens = scene.published(tokens="all"), scene.batch("all")["tokens"][:n_cells]
    exact = [encode(network, {"tokens": cell[None]})[0, cell > 0] for cell in tokens]
    found = {}
    for mode in list(scene.settings.modes)[1:]:
        batch = {name: values[:n_cells] for name, values in scene.batch(mode).items()}
        for suffix, bf16 in (("", False), (" bf16", True))[: 1 + (mode == "expressed")]:
            encodings = encode(network, batch, bf16=bf16).float()
            parts = [e[t > 0] for e, t in zip(encodings, batch["tokens"], strict=True)]
            found[mode + suffix] = spread(
                [_relative(a, b) for a, b in zip(parts, exact, strict=True)]
            )
    return found
