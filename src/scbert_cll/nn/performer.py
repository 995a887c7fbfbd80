"""The whole network: scBERT's Performer over genes, with one `Config`.

A cell is a set of genes, each a token: its bin of expression (0 not expressed … `n_bins`, then the mask token) plus a
vector that says which gene it is. Pre-LayerNorm blocks of FAVOR+ attention and a feed-forward layer refine the tokens; one
head guesses hidden bins (pretraining), another the class of the cell.

Sources: Choromanski et al. 2021 (arXiv:2009.14794) for the attention; Yang et al. 2022, scBERT (doi:10.1038/s42256-022-00534-z)
for tokens and heads. Letters in shapes: b cells, n tokens, w width, h heads, d width of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from scbert_cll.nn import favor


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that shapes the network; plain values, so that it is saved as JSON."""

    n_genes: int
    n_bins: int = 5
    n_hidden: int = 32
    n_layers: int = 1
    n_heads: int = 4
    dim_head: int = 8
    n_features: int = 0  # random features per head; 0 stands for int(dim_head * ln(dim_head))
    n_feedforward: int = 4  # width of the feed-forward layer in multiples of n_hidden
    dropout: float = 0.1
    gene_embedding: Literal["gene2vec", "learned", "sinusoidal", "none"] = "gene2vec"
    train_gene_embedding: bool = True
    tokens: Literal["expressed", "all"] = "expressed"
    end_token: bool = False  # scBERT's constant token 0 behind the genes
    out_bias: bool = True  # bias of the attention's output (scBERT yes, performer-pytorch no)
    head: Literal["pool", "scbert"] = "pool"
    n_classes: int = 0
    stabilizer: favor.Stabilizer = "cell"

    @property
    def mask_token(self) -> int:
        """Token that hides a gene."""
        return self.n_bins + 1

    @property
    def n_positions(self) -> int:
        """Tokens of a cell when all genes attend."""
        return self.n_genes + self.end_token

    @property
    def features(self) -> int:
        """Random features per head."""
        return self.n_features or int(self.dim_head * math.log(self.dim_head))


class Attention(nn.Module):
    """Multi-head FAVOR+ attention with fixed random features (a saved buffer)."""

    projection: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.n_heads, self.stabilizer = config.n_heads, config.stabilizer
        inner = config.n_heads * config.dim_head
        self.qkv = nn.Linear(config.n_hidden, 3 * inner, bias=False)
        self.out = nn.Linear(inner, config.n_hidden, bias=config.out_bias)
        self.dropout = nn.Dropout(config.dropout)
        self.register_buffer("projection", favor.orthogonal_features(config.features, config.dim_head))

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x (b, n, w), each (b, h, n, d)."""
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        return q, k, v

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(b, n, w) -> (b, n, w)."""
        q, k, v = self.split(x)
        heads = favor.attention(q, k, v, self.projection, keep, self.stabilizer)  # (b, h, n, d)
        return self.dropout(self.out(heads.transpose(1, 2).flatten(2)))

    def received(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Attention each token receives, (b, h, n), in float32."""
        q, k, _ = self.split(x)
        return favor.received_attention(q.float(), k.float(), self.projection, keep, self.stabilizer)


class Block(nn.Module):
    """Pre-LayerNorm attention and feed-forward layer, each added to the residual stream."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, inner = config.n_hidden, config.n_feedforward * config.n_hidden
        self.attention_norm, self.feedforward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(config)
        self.feedforward = nn.Sequential(
            nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width), nn.Dropout(config.dropout)
        )

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """(b, n, w) -> (b, n, w)."""
        x = x + self.attention(self.attention_norm(x), keep)
        return x + self.feedforward(self.feedforward_norm(x))


class PoolHead(nn.Module):
    """Class logits from the mean over a cell's tokens. BatchNorm is what lets it learn weak signals."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(config.n_hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(config.n_hidden, config.n_classes)

    def forward(self, encodings: Tensor, keep: Tensor | None = None) -> Tensor:
        """(b, n, w) -> (b, classes)."""
        return self.classify(self.dropout(self.norm(mean_tokens(encodings, keep))))


class ScBERTHead(nn.Module):
    """The published head: one scalar per position, then 512 and 128 units. It reads every gene, expressed or not."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.tokens != "all":
            raise ValueError(
                'head="scbert" reads every gene and needs tokens="all"; with tokens="expressed" use head="pool".'
            )
        self.collapse = nn.Linear(config.n_hidden, 1)
        self.layers = nn.Sequential(
            nn.Linear(config.n_positions, 512),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(512, 128),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(128, config.n_classes),
        )

    def forward(self, encodings: Tensor, keep: Tensor | None = None) -> Tensor:
        """(b, n, w) -> (b, classes)."""
        return self.layers(torch.relu(self.collapse(encodings).squeeze(-1)))


class Performer(nn.Module):
    """The network. Inputs are always a triple (tokens, genes, keep), see `encode`."""

    def __init__(self, config: Config, gene_vectors: Tensor | None = None) -> None:
        """Build the network with random weights; `gene_vectors` (genes, any width) start the gene embedding."""
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.n_bins + 2, config.n_hidden)
        self.gene_embedding = _gene_embedding(config, gene_vectors)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.n_hidden)
        self.to_bins = nn.Linear(config.n_hidden, config.n_bins + 2)
        self.head = {"pool": PoolHead, "scbert": ScBERTHead}[config.head](config) if config.n_classes else None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.norm.weight.device

    def embed(self, tokens: Tensor, genes: Tensor | None = None) -> Tensor:
        """What enters the first block: (b, n) -> (b, n, w)."""
        x = self.token_embedding(tokens)
        if self.gene_embedding is not None:
            table = self.gene_embedding.weight
            x = x + (table[: tokens.shape[1]] if genes is None else self.gene_embedding(genes))
        return x

    def encode(self, tokens: Tensor, genes: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """Refine the tokens of each cell.

        Parameters
        ----------
        tokens
            Bins, int64 (b, n).
        genes
            Which gene each token is, int64 (b, n); None when position j is gene j.
        keep
            False where a token is padding, bool (b, n); None when there is none.

        Returns
        -------
        Encodings after the last LayerNorm, (b, n, w).
        """
        x = self.embed(tokens, genes)
        for block in self.blocks:
            x = block(x, keep)
        return self.norm(x)

    def forward(self, tokens: Tensor, genes: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """Class logits (b, classes), or logits of the bins (b, n, n_bins + 2) in a network without classes."""
        return self.read(self.encode(tokens, genes, keep), keep)

    def read(self, encodings: Tensor, keep: Tensor | None = None) -> Tensor:
        """Read the logits off the encodings (b, n, w): of the classes, or of the bins in a network without classes."""
        return self.to_bins(encodings) if self.head is None else self.head(encodings, keep)

    def gene_attention(self, tokens: Tensor, genes: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """Attention each token receives in each layer and head: (layers, b, h, n); sums to 1 over tokens."""
        x, received = self.embed(tokens, genes), []
        for block in cast("list[Block]", self.blocks):
            received.append(block.attention.received(block.attention_norm(x), keep))
            x = block(x, keep)
        return torch.stack(received)

    def attention_floor(self, tokens: Tensor, genes: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """Share of each layer's key features that is the constant floor: (layers, b)."""
        x, floors = self.embed(tokens, genes), []
        for block in cast("list[Block]", self.blocks):
            attention = block.attention
            _, k, _ = attention.split(block.attention_norm(x))
            floors.append(favor.attention_floor(k, attention.projection, keep, attention.stabilizer))
            x = block(x, keep)
        return torch.stack(floors)


def mean_tokens(encodings: Tensor, keep: Tensor | None = None) -> Tensor:
    """Mean over the tokens that are not padding: (b, n, w) -> (b, w)."""
    if keep is None:
        return encodings.mean(1)
    weight = keep.to(encodings.dtype).unsqueeze(-1)
    return (encodings * weight).sum(1) / weight.sum(1)


def _gene_embedding(config: Config, vectors: Tensor | None) -> nn.Embedding | None:
    """The vector per gene (and for the end token); frozen where nothing is to be learned."""
    if config.gene_embedding == "none":
        return None
    embedding = nn.Embedding(config.n_positions, config.n_hidden)
    if config.gene_embedding == "sinusoidal":
        embedding.weight.data.copy_(_sinusoids(config.n_positions, config.n_hidden))
    elif config.gene_embedding == "gene2vec" and vectors is not None:
        embedding.weight.data.zero_()  # scBERT's end token has the zero vector
        embedding.weight.data[: config.n_genes] = _fit_width(vectors, config.n_hidden)
    embedding.weight.requires_grad_(config.train_gene_embedding and config.gene_embedding != "sinusoidal")
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
