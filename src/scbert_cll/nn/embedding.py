"""The vector that says which gene a token is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scbert_cll.nn.config import Config


def gene_embedding(config: Config, vectors: Tensor | None) -> nn.Embedding | None:
    """The vector per gene (and for the end token); frozen where nothing is to be learned."""
    if config.gene_embedding == "none":
        return None
    embedding = nn.Embedding(config.n_positions, config.n_hidden)
    if config.gene_embedding == "sinusoidal":
        embedding.weight.data.copy_(_sinusoids(config.n_positions, config.n_hidden))
    elif config.gene_embedding == "gene2vec" and vectors is not None:
        embedding.weight.data.zero_()  # scBERT's end token has the zero vector
        embedding.weight.data[: config.n_genes] = _fit_width(vectors, config.n_hidden)
    embedding.weight.requires_grad_(
        config.train_gene_embedding and config.gene_embedding != "sinusoidal"
    )
    return embedding


def _fit_width(vectors: Tensor, width: int) -> Tensor:
    """Gene vectors as wide as the network: unchanged, or their leading principal directions at unit scale."""
    vectors = vectors.float()
    if vectors.shape[1] == width:
        return vectors
    u, s, _ = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    scores = nn.functional.pad((u * s)[:, :width], (0, max(0, width - u.shape[1])))
    return scores / scores.square().mean().sqrt().clamp(min=1e-12)


def _sinusoids(n: int, width: int) -> Tensor:
    """Sines then cosines of the position at geometric wavelengths (Vaswani et al. 2017): (n, width)."""
    wavelength = 10000 ** (torch.arange(0, width, 2) / width)
    angle = torch.arange(n).unsqueeze(1) / wavelength
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :width]
