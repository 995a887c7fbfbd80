"""A classifier that starts from a pretrained model, or comes ready from a repository."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from anndata import AnnData

from scbert_cll import _checks
from scbert_cll._checks.words import UnknownArgumentError, hint, is_model, listed
from scbert_cll.model import _scvi
from scbert_cll.model._scbert import ScBERT
from scbert_cll.model.corpus.data import CorpusData
from scbert_cll.model.exchange.hub import Shared, class_of, model_folder

_HEAD_CHOICES: Final = {
    "dropout",
    "head",
    "train_gene_embedding",
}  # everything else shapes pretrained weights
_OWN: Final = ("adata", "labels_key", "revision", "token", "accelerator", "rng")
_DERIVED: Final = {"n_genes", "n_bins", "n_classes"}


class Pretrained(Shared):
    """What a classifier takes over from a pretrained model."""

    labels_key: str

    @classmethod
    def from_pretrained(
        cls,
        model: ScBERT | str | os.PathLike[str],
        adata: AnnData | CorpusData | None = None,
        *,
        labels_key: str | None = None,
        revision: str | None = None,
        token: str | None = None,
        accelerator: str = "auto",
        rng: int | np.random.Generator | None = 0,
        **network: Any,
    ) -> Self:
        """Start from a pretrained model's genes, binning and weights; only the head is new.

        A published classifier is ready at once.

        Parameters
        ----------
        model
            The pretrained model, its folder, or ``"org/name"`` on Hugging Face. A folder or
            repository that holds a classifier is loaded as it is, ready to predict.
        adata
            Labelled cells, in memory or a corpus; None: the pretrained model's. Genes are matched
            by name.
        labels_key
            `obs` column of the classes. Of a classifier that is loaded: leave it out.
        revision, token, accelerator
            Of a model that is read from a folder or repository, as in
            :meth:`ScBERT.from_pretrained`.
        rng
            Seed of the head's initial weights.
        **network
            Choices that do not change the pretrained weights: `dropout`, `head`,
            `train_gene_embedding`.

        Raises
        ------
        FileNotFoundError
            As in :meth:`ScBERT.from_pretrained`.
        TypeError
            `model` is not a ScBERT, `labels_key` is missing, or a choice that would not fit its
            weights.
        ValueError
            Fewer than two classes, or no cells: the model was loaded without and none are given.
            Other labels than a classifier was trained on.

        Examples
        --------
        >>> classifier = ScBERTClassifier.from_pretrained("our-lab/cll-cd49d")
        """
        if isinstance(model, (str, os.PathLike)):
            folder = model_folder(model, revision=revision, token=token)
            if class_of(folder) == cls.__name__:
                cells = adata if isinstance(adata, AnnData) else None
                return cls._ready(
                    folder, cells, accelerator, labels_key=labels_key, network=network
                )
            model = ScBERT.load(folder, accelerator=accelerator)
        return cls._started(model, adata, labels_key, rng, network)

    @classmethod
    def _ready(
        cls,
        folder: Path,
        adata: AnnData | None,
        accelerator: str,
        *,
        labels_key: str | None,
        network: dict[str, Any],
    ) -> Self:
        """Load a classifier that somebody trained."""
        model = cls.load(folder, adata, accelerator=accelerator)
        if network:
            raise TypeError(
                f"{folder} holds a classifier, whose network is as it is: leave out "
                f"{listed(network)}."
            )
        if labels_key not in (None, model.labels_key):
            raise ValueError(
                f"{folder} holds a classifier of {model.labels_key!r}, found "
                f"labels_key={labels_key!r}. Leave labels_key out to predict; "
                "to learn other labels start from a ScBERT."
            )
        return model

    @classmethod
    def _started(
        cls,
        model: ScBERT,
        adata: AnnData | CorpusData | None,
        labels_key: str | None,
        rng: int | np.random.Generator | None,
        network: dict[str, Any],
    ) -> Self:
        """Put a new head on pretrained weights."""
        is_model(model, ("ScBERT",))
        if labels_key is None:
            raise TypeError("A new classifier needs labels_key=, the obs column of its classes.")
        if other := sorted(set(network) - _HEAD_CHOICES):
            raise UnknownArgumentError(
                f"{listed(other)} would not fit the pretrained weights; a classifier "
                f"may choose {listed(sorted(_HEAD_CHOICES))}."
                f"{hint(other, [*_HEAD_CHOICES, *_OWN])}"
            )
        if isinstance(adata, CorpusData):
            classes = adata.classes(labels_key)
        else:
            adata = model._cells(adata)
            classes = _checks.adata.classes(_checks.adata.obs_column(adata, labels_key), labels_key)
        excluded = model.registry["setup_args"]["exclude_genes"]
        setup = {"labels_key": labels_key, "layer": model.layer, "exclude_genes": list(excluded)}
        registry = _scvi.detached_registry(cls.__name__, list(model.genes), setup)
        kept = {k: v for k, v in asdict(model.config).items() if k not in _DERIVED}
        choices = kept | network | {"labels_key": labels_key, "classes": classes}
        new = cls(registry=registry, binning=model.binning, rng=rng, **choices)
        new._adata = None if isinstance(adata, CorpusData) else adata
        new.module.load_state_dict(new.module.state_dict() | model.module.state_dict())
        new.module.to(model.module.device)
        return new
