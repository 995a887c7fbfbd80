"""Everything that shapes the network."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from scbert_cll.nn.context import Stabilizer

OLD_NAME: Final = "n_features"  # of n_random_features, for one release
_NAME: Final = "n_random_features"
_PACKAGE: Final = f"{Path(__file__).parents[1]}/"


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that shapes the network; plain values, so that it is saved as JSON.

    Parameters
    ----------
    n_genes
        Genes it knows.
    n_bins
        Bins of expression above zero; the token behind them hides a gene.
    n_hidden
        Width of a token.
    n_layers, n_heads, dim_head
        Blocks, attention heads of each, and their width.
    n_random_features
        Random features per head; 0 stands for int(dim_head · ln dim_head).
    n_feedforward
        Width of the feed-forward layer in multiples of `n_hidden`.
    dropout
        Share of activations dropped while training.
    gene_embedding
        What tells genes apart: vectors that start from ``"gene2vec"``, ``"learned"`` ones that
        start at random, ``"sinusoidal"`` ones of the gene's position, or ``"none"``: then tokens of
        one bin are one and the same, and cost next to nothing.
    train_gene_embedding
        Whether these vectors are trained.
    tokens
        Which genes attend: the ``"expressed"`` ones of a cell; with ``"background"`` also a random
        sample of the others, each weighted by how many it stands for, which comes close to
        ``"all"`` at a fraction of its cost.
    n_background
        Size of that sample.
    end_token
        Whether scBERT's constant token 0 stands behind the genes.
    out_bias
        Whether the attention's output has a bias (scBERT yes, performer-pytorch no).
    head
        ``"pool"`` classifies the mean token, ``"scbert"`` reads every gene and needs
        ``tokens="all"``.
    n_classes
        Classes of the head; 0 for a network that guesses hidden genes.
    attention
        ``"favor"`` is the Performer's, linear in the number of tokens; ``"exact"`` the softmax it
        approximates, quadratic, on the same weights: a control.
    stabilizer
        Scope of the maximum that keeps the exponentials small, a part of what is computed:
        ``"cell"`` (scBERT on one cell), ``"head"`` of a cell (performer-pytorch), or ``"batch"``
        (scBERT while training: a cell then depends on its companions).
    """

    n_genes: int
    n_bins: int = 5
    n_hidden: int = 32
    n_layers: int = 1
    n_heads: int = 4
    dim_head: int = 8
    n_random_features: int = 0
    n_feedforward: int = 4
    dropout: float = 0.1
    gene_embedding: Literal["gene2vec", "learned", "sinusoidal", "none"] = "gene2vec"
    train_gene_embedding: bool = True
    tokens: Literal["expressed", "background", "all"] = "expressed"
    n_background: int = 500
    end_token: bool = False
    out_bias: bool = True
    head: Literal["pool", "scbert"] = "pool"
    n_classes: int = 0
    attention: Literal["favor", "exact"] = "favor"
    stabilizer: Stabilizer = "cell"

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
        """Random features per head, where 0 is replaced by the default number."""
        return self.n_random_features or int(self.dim_head * math.log(self.dim_head))

    @property
    def n_features(self) -> int:
        """The old name of `n_random_features`."""
        _warn()
        return self.n_random_features


def renamed(network: Mapping[str, Any]) -> dict[str, Any]:
    """Choices that an earlier version saved, by the names of now."""
    return {_NAME if name == OLD_NAME else name: value for name, value in network.items()}


def _takes_old_name(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def run(self: Config, *args: Any, **choices: Any) -> None:
        if OLD_NAME in choices:
            if _NAME in choices:
                raise TypeError(
                    f"{OLD_NAME} is the old name of {_NAME}, and both are given. "
                    f"Leave {OLD_NAME} out."
                )
            _warn()
        init(self, *args, **renamed(choices))

    return run


def _warn() -> None:
    warnings.warn(
        f"{OLD_NAME} is now called {_NAME}; the next release refuses the old name.",
        FutureWarning,
        skip_file_prefixes=(_PACKAGE,),
    )


Config.__init__ = _takes_old_name(Config.__init__)  # type: ignore[method-assign]
