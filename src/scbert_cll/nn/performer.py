"""The network: scBERT's Performer over genes, shaped by one `Config`.

A cell is a set of genes, each a token: its bin of expression (0 not expressed … `n_bins`, then the
mask token) plus a vector that says which gene it is. Pre-LayerNorm blocks of FAVOR+ attention and a
feed-forward layer refine the tokens; one head guesses hidden bins (pretraining), another the class
of the cell.

Sources: Choromanski et al. 2021 (arXiv:2009.14794) for the attention; Yang et al. 2022, scBERT
(doi:10.1038/s42256-022-00534-z) for tokens and heads. Letters in shapes: b cells, n tokens, w
width, h heads, d width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, cast

import torch
from torch import Tensor, nn

from scbert_cll.nn import background, favor
from scbert_cll.nn.block import Block
from scbert_cll.nn.config import Config

_FEW: Final = 0.3  # share of expressed genes below which the others are worth sharing


class PoolHead(nn.Module):
    """Class logits from the mean over a cell's tokens; BatchNorm lets it learn weak signals."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(config.n_hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(config.n_hidden, config.n_classes)

    def summarize(self, encodings: Tensor, weight: Tensor | None = None) -> Tensor:
        """One vector per cell, whatever its number of tokens: (b, n, w) -> (b, w)."""
        return mean_tokens(encodings, weight)

    def penultimate(self, summary: Tensor) -> Tensor:
        """Input of the last layer: (b, w) -> (b, w)."""
        return self.dropout(self.norm(summary))

    @property
    def last(self) -> nn.Linear:
        """The layer whose outputs are the logits."""
        return self.classify


class ScBERTHead(nn.Module):
    """The published head over every gene: one scalar per position, then 512 and 128 units."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        if not config.every_gene:
            raise ValueError(
                f'head="scbert" reads every gene and needs tokens="all"; with '
                f'tokens="{config.tokens}" use head="pool".'
            )
        self.collapse = nn.Linear(config.n_hidden, 1)
        layers = list[nn.Module]()
        for n, units in ((config.n_positions, 512), (512, 128)):
            layers += [nn.Linear(n, units), nn.ReLU(), nn.Dropout(config.dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(128, config.n_classes))

    def summarize(self, encodings: Tensor, weight: Tensor | None = None) -> Tensor:
        """(b, n, w) -> (b, n)."""
        return torch.relu(self.collapse(encodings).squeeze(-1))

    def penultimate(self, summary: Tensor) -> Tensor:
        """Input of the last layer: (b, n) -> (b, 128)."""
        return self.layers[:-1](summary)

    @property
    def last(self) -> nn.Linear:
        """The layer whose outputs are the logits."""
        return cast("nn.Linear", self.layers[-1])


class Performer(nn.Module):
    """The network. Inputs are always a triple (tokens, genes, weight), see `encode`."""

    blocks: Sequence[Block]  # an nn.ModuleList

    def __init__(self, config: Config, gene_vectors: Tensor | None = None) -> None:
        """Build the network with random weights.

        `gene_vectors` (genes, any width) start the gene embedding.
        """
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.n_bins + 2, config.n_hidden)
        self.gene_embedding = _gene_embedding(config, gene_vectors)
        blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.blocks = cast("Sequence[Block]", blocks)
        self.norm = nn.LayerNorm(config.n_hidden)
        self.to_bins = nn.Linear(config.n_hidden, config.n_bins + 2)
        head = {"pool": PoolHead, "scbert": ScBERTHead}[config.head]
        self.head = head(config) if config.n_classes else None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.norm.weight.device

    @property
    def _head(self) -> PoolHead | ScBERTHead:
        return cast("PoolHead | ScBERTHead", self.head)

    def embed(self, tokens: Tensor, genes: Tensor | None = None) -> Tensor:
        """What enters the first block: (b, n) -> (b, n, w)."""
        x = self.token_embedding(tokens)
        if self.gene_embedding is not None:
            if genes is None:
                return x + self.gene_embedding.weight[: tokens.shape[1]]
            x = x + self.gene_embedding(genes)
        return x

    def encode(
        self,
        tokens: Tensor,
        genes: Tensor | None = None,
        weight: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """Refine the tokens of each cell.

        Parameters
        ----------
        tokens
            Bins, int64 (b, n).
        genes
            Which gene each token is, int64 (b, n); None when position j is gene j.
        weight
            How many genes a token stands for, float32 (b, n): 0 is padding; None when every token
            is one gene.
        at
            Tokens whose encodings are wanted, bool (b, n); None is all. The last block then works
            for these alone.

        Returns
        -------
        Encodings after the last LayerNorm, (b, n, w), or with `at` (number wanted, w), cell by
        cell.
        """
        drops = self.training and self.config.dropout > 0
        if self.gene_embedding is None and not drops:  # tokens of one level are the same
            encodings = self._encode_levels(tokens, weight)
            return encodings if at is None else encodings[at]
        index, wanted = (None, None) if at is None else _index(at)
        x, blocks = self.embed(tokens, genes), list(self.blocks)
        if genes is None and weight is None and self._shares_zeros(x, tokens):
            first = self._first_block(tokens, x)
            x, blocks = (x, blocks) if first is None else (first, blocks[1:])
        for block in blocks:
            x = block(x, weight, index if block is blocks[-1] else None)
        return self.norm(x if wanted is None else x[wanted])

    def forward(
        self, tokens: Tensor, genes: Tensor | None = None, weight: Tensor | None = None
    ) -> Tensor:
        """Class logits (b, classes), or without classes those of the bins (b, n, n_bins + 2)."""
        return self.head_logits(self.encode(tokens, genes, weight), weight)

    def head_logits(self, encodings: Tensor, weight: Tensor | None = None) -> Tensor:
        """Logits of the classes, or of the bins in a network without classes, from (b, n, w)."""
        if self.head is None:
            return self.to_bins(encodings)
        summary = self._head.summarize(encodings, weight)
        return self.logits(self._head.penultimate(summary))

    def summarize(
        self, tokens: Tensor, genes: Tensor | None = None, weight: Tensor | None = None
    ) -> Tensor:
        """One vector per cell, the head's own, or without classes the mean token: (b, …)."""
        encodings = self.encode(tokens, genes, weight)
        if self.head is None:
            return mean_tokens(encodings, weight)
        return self._head.summarize(encodings, weight)

    def penultimate(self, cells: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Input of the last layer for a batch in several tensors, whose cells differ in length.

        (b, w), or (b, 128) of the published head.
        """
        summary = torch.cat([self.summarize(**part) for part in cells])
        return self._head.penultimate(summary)

    @property
    def penultimate_width(self) -> int:
        """Width of the last layer's input."""
        return self._head.last.in_features

    def logits(self, penultimate: Tensor) -> Tensor:
        """(b, w) -> (b, classes)."""
        return self._head.last(penultimate)

    def zero_head(self) -> None:
        """Let the head start from logits of zero, whatever the cell."""
        nn.init.zeros_(self._head.last.weight)
        nn.init.zeros_(self._head.last.bias)

    def gene_attention(
        self,
        tokens: Tensor,
        genes: Tensor | None = None,
        weight: Tensor | None = None,
        *,
        query_weight: Tensor | None = None,
        original: bool = False,
    ) -> Tensor:
        """Attention a gene behind each token receives, by layer and head: (layers, b, h, n).

        Averaged over the tokens that attend, counted by `query_weight` (b, n), None for all alike;
        times `weight` a row sums to 1. With `original` the attention is evaluated a second time
        behind the residual connection, as scBERT returns it.
        """
        if query_weight is None:
            query_weight = favor.mean_weight(tokens, weight)
        received = []
        with torch.autocast(tokens.device.type, enabled=False):
            for block, x in self.stages(tokens, genes, weight):
                normed = block.attention_norm(x)
                if original:
                    normed = block.attention_norm(x + block.attention(normed, weight))
                received.append(block.attention.received(normed, query_weight, weight))
        return torch.stack(received)

    def attention_floor(
        self, tokens: Tensor, genes: Tensor | None = None, weight: Tensor | None = None
    ) -> Tensor:
        """Share of each layer's key features that is the constant floor: (layers, b)."""
        floors = []
        for block, x in self.stages(tokens, genes, weight):
            keys = block.attention.keys(block.attention_norm(x))
            floors.append(favor.attention_floor(keys, block.attention.kernel, weight))
        return torch.stack(floors)

    def stages(
        self, tokens: Tensor, genes: Tensor | None, weight: Tensor | None
    ) -> Iterator[tuple[Block, Tensor]]:
        """Each block, and the tokens (b, n, w) that enter it."""
        x = self.embed(tokens, genes)
        for block in self.blocks:
            yield block, x
            x = block(x, weight)

    def set_recompute(self, recompute: bool) -> None:
        """Whether training keeps only the blocks' inputs: a third more time, half of the memory."""
        for block in self.blocks:
            block.recompute = recompute

    def redraw_features(self, generator: torch.Generator) -> None:
        """Draw the random features of all layers anew, as pretraining does."""
        r, d = self.config.features, self.config.dim_head
        for block in self.blocks:
            features = favor.orthogonal_features(r, d, generator)
            block.attention.projection.copy_(features)

    def _shares_zeros(self, x: Tensor, tokens: Tensor) -> bool:
        """Whether the first of several blocks gets several cells of few genes, no gradients."""
        return (
            len(tokens) >= background.MIN_CELLS
            and len(self.blocks) > 1
            and self.blocks[0].attention.can_stream(x)
            and self.config.stabilizer != "batch"
            and not (torch.is_grad_enabled() or self.training)
            and bool((tokens != 0).float().mean() < _FEW)
        )

    def _first_block(self, tokens: Tensor, x: Tensor) -> Tensor | None:
        """The first block's output; None where sharing the zeros would lose precision."""
        zeros = self.embed(torch.zeros_like(tokens[:1]))
        return background.first_block(self.blocks[0], zeros, x, *_index(tokens != 0))

    def _encode_levels(self, tokens: Tensor, weight: Tensor | None) -> Tensor:
        """Encode each level once, weighted by how many genes of the cell have it: exact."""
        # (b, n, levels)
        level = nn.functional.one_hot(tokens, self.config.n_bins + 2).float()
        counts = level.sum(1)
        if weight is not None:
            counts = (weight.unsqueeze(1) @ level).squeeze(1)
        x = self.token_embedding.weight.expand(len(tokens), -1, -1)
        for block in self.blocks:
            x = block(x, counts)
        return self.norm(x).gather(1, tokens.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def mean_tokens(encodings: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over the genes the tokens stand for: (b, n, w) -> (b, w)."""
    if weight is None:
        return encodings.mean(1)
    weight = weight.to(encodings.dtype).unsqueeze(-1)
    return (encodings * weight).sum(1) / weight.sum(1)


def _index(at: Tensor) -> tuple[Tensor, Tensor]:
    """Places where `at` (b, n) is True, padded (b, m), and which of them are no padding."""
    place = at.nonzero()[:, 1]
    counts = at.sum(1)
    m = int(counts.max())
    wanted = torch.arange(m, device=at.device) < counts.unsqueeze(1)  # (b, m)
    index = torch.zeros_like(wanted, dtype=torch.long)
    index[wanted] = place
    return index, wanted


def _gene_embedding(config: Config, vectors: Tensor | None) -> nn.Embedding | None:
    """One vector per gene (and for the end token), frozen where nothing is to be learned."""
    if config.gene_embedding == "none":
        return None
    embedding = nn.Embedding(config.n_positions, config.n_hidden)
    if config.gene_embedding == "sinusoidal":
        embedding.weight.data.copy_(_sinusoids(config.n_positions, config.n_hidden))
    elif config.gene_embedding == "gene2vec" and vectors is not None:
        embedding.weight.data.zero_()  # scBERT's end token has the zero vector
        embedding.weight.data[: config.n_genes] = _fit_width(vectors, config.n_hidden)
    trains = config.train_gene_embedding and config.gene_embedding != "sinusoidal"
    embedding.weight.requires_grad_(trains)
    return embedding


def _fit_width(vectors: Tensor, width: int) -> Tensor:
    """Gene vectors of the network's width: unchanged, or leading principal scores at unit scale."""
    vectors = vectors.float()
    if vectors.shape[1] == width:
        return vectors
    u, s, _ = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    scores = nn.functional.pad((u * s)[:, :width], (0, max(0, width - u.shape[1])))
    return scores / scores.square().mean().sqrt().clamp(min=1e-12)


def _sinusoids(n: int, width: int) -> Tensor:
    """Sines, cosines of positions at geometric wavelengths (Vaswani et al. 2017): (n, width)."""
    wavelength = 10000 ** (torch.arange(0, width, 2) / width)
    angle = torch.arange(n).unsqueeze(1) / wavelength
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :width]
