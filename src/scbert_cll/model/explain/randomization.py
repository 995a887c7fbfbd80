"""A trained classifier with weights drawn anew, which no honest attribution survives."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from anndata import AnnData

from scbert_cll._checks.words import choice
from scbert_cll.model import _scvi
from scbert_cll.model._protocols import Classifier
from scbert_cll.model.training.options import Rng, as_seed, choices

Part = Literal["head", "blocks", "all"]
_PARTS: Final[dict[str, tuple[str, ...]]] = {
    "head": ("head.",),
    "blocks": ("head.", "norm.", "blocks."),
    "all": ("",),
}
# sets the draw apart from that of a classifier made with the same seed
_OTHER: Final = 1810
_GENES: Final = "gene_embedding."


def randomized[M: Classifier](model: M, part: Part, rng: Rng = 0) -> M:
    """Copy the classifier and draw part of the copy's network anew, as before any training.

    From the output towards the input, as in Adebayo et al. 2018 (arXiv:1810.03292): an
    attribution that stays what it was says nothing about what was learned. The linear part
    stays.

    Parameters
    ----------
    part
        ``"head"``; ``"blocks"``, these and the head; ``"all"``, also the vectors of tokens and
        of genes, but for gene vectors that are not trained.
    rng
        Seed of the new weights; they are never those that the classifier itself started from,
        to which a trained head stays close.

    Returns
    -------
    The copy, with the same cells; the classifier stays as it is.

    Raises
    ------
    ValueError
        Unknown part.
    """
    anew = _PARTS[choice(part, list(_PARTS), "part")]
    new = _untrained(model, np.random.default_rng([as_seed(rng), _OTHER]))
    keeps_genes = not model.config.train_gene_embedding
    weights = new.module.state_dict()
    for name, tensor in model.module.state_dict().items():
        if not name.startswith(anew) or (keeps_genes and name.startswith(_GENES)):
            weights[name] = tensor
    new.module.load_state_dict(weights)
    new.module.to(model.module.device)
    return new


def untrained_on[M: Classifier](model: M, adata: AnnData, rng: Rng = 0) -> M:
    """Copy the classifier with all weights drawn anew and other cells, to be trained on these."""
    new = randomized(model, "all", rng)
    _scvi.attach(new, adata)
    new.is_trained_, new.history_ = False, None
    return new


def _untrained[M: Classifier](model: M, rng: np.random.Generator) -> M:
    """The same classifier with a network of random weights, not registered with scvi-tools."""
    # `genes` are without them
    setup = model.registry["setup_args"] | {"exclude_genes": []}
    network = {**choices(model.config), "binning": model.binning, "rng": rng}
    new = _scvi.detached(type(model), model.genes, setup, model.labels, **network)
    _scvi.attach(new, model.adata)
    for name in ("is_trained_", "history_", "kept_epoch_", "combine", "linear_"):
        setattr(new, name, getattr(model, name))
    return new
