"""What the rooms of `model` know of a model: attributes, and no class that would import them."""

from __future__ import annotations

from typing import Any, Protocol

import pandas as pd
from anndata import AnnData

from scbert_cll._disk.formats import Json
from scbert_cll.model.linear.regression import Combine, LinearPart
from scbert_cll.nn import Config, Performer


class Network(Protocol):
    """A network, its genes and its binning: a `ScBERT` or a `ScBERTClassifier`."""

    module: Performer
    layer: str
    genes: pd.Index  # in the order of the network, without excluded genes
    binning: Json  # what `pp.bin_expression` recorded
    labels: Json | None  # of a classifier: labels_key and classes
    linear_: LinearPart | None
    combine: Combine  # how `linear_` takes part in predictions
    is_trained_: bool
    history_: dict[str, pd.DataFrame] | None
    # epoch of the history whose weights the model has; 0: before the first
    kept_epoch_: int | None
    # of PyTorch in training: they change the last digits of weights
    n_threads_: int | None
    # words in the column of donors, and the cells left out for each
    not_donors_: Json
    # number of genes that the last cells lack, and the first cell's name
    missing_: tuple[int, str]

    def __init__(
        self, adata: AnnData | None = None, registry: Json | None = None, **choices: Any
    ) -> None: ...

    @property
    def adata(self) -> AnnData | None:
        """Cells that the model was made with."""

    @property
    def registry(self) -> Json:
        """What scvi-tools keeps of `setup_anndata`."""

    @property
    def config(self) -> Config:
        """Dimensions and choices of the network."""


class Classifier(Network, Protocol):
    """A model that names classes."""

    labels_key: str
    classes: list[str]
