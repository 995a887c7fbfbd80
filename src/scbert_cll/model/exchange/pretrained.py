"""A classifier that starts from a pretrained model, or comes ready from a repository."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from anndata import AnnData

from scbert_cll import _checks
from scbert_cll._checks.words import UnknownArgumentError, hint, is_model, listed
from scbert_cll._disk.formats import Json
from scbert_cll.model import _scvi
from scbert_cll.model._inference import cells_of, hidden_genes
from scbert_cll.model._protocols import Classifier, Network
from scbert_cll.model.corpus.data import CorpusData
from scbert_cll.model.training.options import Rng, choices

# everything else shapes pretrained weights
_HEAD_CHOICES: Final = {"dropout", "head", "train_gene_embedding"}
_OWN: Final = ("adata", "labels_key", "revision", "token", "accelerator", "rng")


def refuse_changes(model: Classifier, folder: Path, labels_key: str | None, network: Json) -> None:
    """Refuse another network or other labels for a classifier that somebody trained."""
    if network:
        raise TypeError(
            f"{folder} holds a classifier, whose network is as it is: leave out {listed(network)}."
        )
    if labels_key not in (None, model.labels_key):
        raise ValueError(
            f"{folder} holds a classifier of {model.labels_key!r}, found "
            f"labels_key={labels_key!r}. Leave labels_key out to predict; to learn other labels "
            f"start from a ScBERT."
        )


def started[M: Classifier](
    cls: type[M],
    model: Network,
    adata: AnnData | CorpusData | None,
    labels_key: str | None,
    rng: Rng,
    network: Json,
) -> M:
    """Put a new head on pretrained weights."""
    is_model(model, ("ScBERT",))
    if labels_key is None:
        raise TypeError("A new classifier needs labels_key=, the column of classes.")
    if other := sorted(set(network) - _HEAD_CHOICES):
        raise UnknownArgumentError(
            f"{listed(other)} would not fit the pretrained weights; a classifier may choose "
            f"{listed(sorted(_HEAD_CHOICES))}.{hint(other, [*_HEAD_CHOICES, *_OWN])}"
        )
    if isinstance(adata, CorpusData):
        classes = adata.classes(labels_key)
    else:
        adata = cells_of(model, adata)
        column = _checks.adata.obs_column(adata, labels_key)
        classes = _checks.adata.classes(column, labels_key)
    labels: Json = {"labels_key": labels_key, "classes": classes}
    setup: Json = {"labels_key": labels_key, "layer": model.layer}
    setup["exclude_genes"] = hidden_genes(model)
    network = {**choices(model.config), **network, "binning": model.binning, "rng": rng}
    new = _scvi.detached(cls, model.genes, setup, labels, **network)
    if not isinstance(adata, CorpusData):
        _scvi.attach(new, adata)
    new.module.load_state_dict(new.module.state_dict() | model.module.state_dict())
    new.module.to(model.module.device)
    return new
