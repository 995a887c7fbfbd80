"""A trained classifier with some of its weights drawn anew: what an attribution that knows the training must not survive."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final, Literal, Self

import numpy as np

from scbert_cll._checks.words import choice
from scbert_cll.model import _scvi
from scbert_cll.model._inference import Inference
from scbert_cll.model.training.fit import as_seed

Part = Literal["head", "blocks", "all"]
_PARTS: Final[dict[str, tuple[str, ...]]] = {
    "head": ("head.",),
    "blocks": ("head.", "norm.", "blocks."),
    "all": ("",),
}
_OTHER: Final = 1810  # sets the draw apart from that of a classifier made with the same seed
_GENES: Final = "gene_embedding."


class Randomized(Inference):
    """A classifier that can forget what it has learned."""

    def randomized(self, part: Part, rng: int | np.random.Generator | None = 0) -> Self:
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
        new = self._untrained(np.random.default_rng([as_seed(rng), _OTHER]))
        trains_genes = self.config.train_gene_embedding
        old = self.module.state_dict()
        kept = {
            name
            for name in old
            if not name.startswith(anew) or (name.startswith(_GENES) and not trains_genes)
        }
        new.module.load_state_dict(new.module.state_dict() | {name: old[name] for name in kept})
        new.module.to(self.module.device)
        return new

    def _untrained(self, rng: int | np.random.Generator | None) -> Self:
        """The same classifier with a network of random weights, without scvi-tools' registration of the cells."""
        setup: dict[str, Any] = dict(self.registry["setup_args"]) | {
            "exclude_genes": []
        }  # `genes` are without them
        registry = _scvi.detached_registry(type(self).__name__, list(self.genes), setup)
        network = {
            k: v
            for k, v in asdict(self.config).items()
            if k not in ("n_genes", "n_bins", "n_classes")
        }
        labels = {"labels_key": self.labels_key, "classes": self.classes}
        new = type(self)(registry=registry, binning=self.binning, rng=rng, **labels, **network)
        new._adata, new.is_trained_, new.history_ = self._adata, self.is_trained_, self.history_
        new.kept_epoch_ = self.kept_epoch_
        new.combine, new.linear_ = self.combine, self.linear_
        return new
