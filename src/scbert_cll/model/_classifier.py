"""ScBERTClassifier: the Performer that names a cell's class."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys
from scbert_cll._disk.formats import Json
from scbert_cll.model import _inference, _scvi
from scbert_cll.model._base import TokenModel
from scbert_cll.model._scbert import ScBERT
from scbert_cll.model.corpus.data import CorpusData
from scbert_cll.model.exchange import hub, pretrained, scbert
from scbert_cll.model.explain import attribution, perturbation, randomization
from scbert_cll.model.linear.regression import Combine
from scbert_cll.model.training.fit import finetune
from scbert_cll.model.training.options import BatchSize, Finetuning, Freeze
from scbert_cll.vocab import Vocabulary


class ScBERTClassifier(TokenModel):
    """Classifier of cells: a Performer with a classification head.

    It starts from random weights, or from those of a :class:`ScBERT` (:meth:`from_pretrained`).

    Parameters
    ----------
    adata
        Cells set up with :meth:`setup_anndata`.
    registry
        Instead of `adata`: the registry of a model loaded without data.
    preset, binning, rng, **network
        As in :class:`ScBERT`. ``head="pool"`` classifies the mean token after BatchNorm;
        ``head="scbert"`` is the published head, which needs ``tokens="all"``.
    labels_key, classes
        Of a model without `adata`: the label column it was trained on, and its classes in order.

    Raises
    ------
    ValueError
        Fewer than two classes.

    Examples
    --------
    >>> model = ScBERTClassifier.from_pretrained(pretrained, adata, labels_key="cd49d")
    >>> model.train(split_key="split")
    >>> model.predict()
    """

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: Json | None = None,
        *,
        preset: str = "small",
        binning: Mapping[str, Any] | None = None,
        labels_key: str | None = None,
        classes: Sequence[str] | None = None,
        rng: int | np.random.Generator | None = 0,
        **network: Any,
    ) -> None:
        if adata is not None:
            manager = self._get_most_recent_anndata_manager(adata, required=True)
            labels_key = manager.registry["setup_args"]["labels_key"]
            column = _checks.adata.obs_column(adata, labels_key)
            classes = _checks.adata.classes(column, labels_key)
        if labels_key is None or classes is None:
            raise ValueError("A model without adata needs labels_key= and classes=.")
        self.labels_key, self.classes = labels_key, list(classes)
        n = len(self.classes)
        super().__init__(adata, registry, network, preset, binning, rng, n)

    @property
    def labels(self) -> Json:
        """Label column and classes."""
        return {"labels_key": self.labels_key, "classes": self.classes}

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        labels_key: str,
        layer: str = _keys.BINNED,
        exclude_genes: Sequence[str] = (),
    ) -> None:
        """Register the token layer and name the label column.

        Parameters
        ----------
        adata
            Cells × genes, in memory and not a view; scvi-tools adds its identifiers to `uns`.
        labels_key
            `obs` column of the classes; cells without one are not trained on.
        layer, exclude_genes
            As in :meth:`ScBERT.setup_anndata`.
        """
        _scvi.register(cls, adata, cls._get_setup_method_args(**locals()))

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
            folder = hub.model_folder(model, revision=revision, token=token)
            if hub.class_of(folder) == cls.__name__:
                cells = adata if isinstance(adata, AnnData) else None
                ready = cls.load(folder, cells, accelerator=accelerator)
                pretrained.refuse_changes(ready, folder, labels_key, network)
                return ready
            model = ScBERT.load(folder, accelerator=accelerator)
        return pretrained.started(cls, model, adata, labels_key, rng, network)

    @classmethod
    def from_scbert_checkpoint(
        cls,
        path: str | os.PathLike[str],
        *,
        vocab: Vocabulary,
        classes: Sequence[str],
        labels_key: str = _keys.CD49D,
        gene2vec: pd.DataFrame | None = None,
        adata: AnnData | None = None,
        layer: str = _keys.BINNED,
        accelerator: str = "auto",
        **network: Any,
    ) -> Self:
        """Read a checkpoint that scBERT fine-tuned; it can predict at once, or be trained on.

        Parameters
        ----------
        path, gene2vec, adata, layer, accelerator, **network
            As in :meth:`ScBERT.from_scbert_checkpoint`.
        vocab
            As there; the published head reads every position, so `vocab` must name the checkpoint's
            genes with `gene2vec`, too.
        classes
            Names of the classes, in the order of the checkpoint's outputs.
        labels_key
            `obs` column of the labels, if it is trained on.

        Raises
        ------
        FileNotFoundError, TypeError, ValueError
            As in :meth:`ScBERT.from_scbert_checkpoint`; or `classes` do not fit the head.

        Warns
        -----
        UserWarning
            As in :meth:`ScBERT.from_scbert_checkpoint`.
        """
        labels = {"labels_key": labels_key, "classes": list(classes)}
        return scbert.from_checkpoint(
            cls, path, vocab, gene2vec, adata, layer, accelerator, network, labels
        )

    def train(
        self,
        max_epochs: int | None = None,
        *,
        split_key: str | None = None,
        weight_key: str | None = None,
        donor_key: str | None = Finetuning.donor_key,
        protein_key: str | None = None,
        combine: Combine = Finetuning.combine,
        freeze: Freeze = Finetuning.freeze,
        batch_size: BatchSize = Finetuning.batch_size,
        lr: float = Finetuning.lr,
        weight_decay: float = Finetuning.weight_decay,
        token_drop: float = Finetuning.token_drop,
        recompute: bool = False,
        early_stopping: bool = Finetuning.early_stopping,
        early_stopping_patience: int = Finetuning.early_stopping_patience,
        rng: int | np.random.Generator | None = 0,
        datamodule: CorpusData | None = None,
        **trainer: Any,
    ) -> None:
        """Train on the labelled cells.

        The number of epochs is fixed, and the learning rate falls to zero.

        A logistic regression is always fitted to the same tokens of the same training cells, with
        its penalty chosen on the validation cells: without it nobody knows what the network is
        worth.

        Parameters
        ----------
        max_epochs
            Passes over the training cells; None: 10,000 / number of labelled training cells, but 8
            to 20.
        split_key
            `obs` column of :func:`~scbert_cll.pp.split_donors`. None: a random tenth of the
            labelled cells validates.
        weight_key
            `obs` column of :func:`~scbert_cll.pp.balance`: how much a training cell counts. None:
            all the same.
        donor_key
            `obs` column of donors: what the linear part needs held-out cells for is decided on
            other donors. None: all cells count as one donor's, as they do, with a warning, for one
            more release where the column is missing and nobody named it.
        protein_key
            `obsm` with the raw counts of all measured proteins: the network learns to predict their
            levels, too, which tells it more about a cell than its class; training cells without a
            label take part in that. Prediction needs no protein. Proteins with missing or negative
            values are left out, with a warning.
        combine
            ``"none"`` predicts with the network alone; ``"average"`` with the mean of its
            log-probabilities and the linear part's; with ``"residual"`` the network learns what the
            linear part, frozen, leaves to be learned, and is left out if that does not help.
        freeze
            ``"none"`` trains everything; ``"encoder"`` only the head; ``"scbert"`` the published
            recipe: the head, the last LayerNorm and the last block but one.
        token_drop
            Largest share of a training cell's tokens left out at random, 0 to 1 (not with
            ``tokens="all"``).
        early_stopping
            Stop when the validation loss no longer falls, and keep the best epoch. Needs many
            validation cells: with few, the last epoch was better.
        datamodule
            Train on the labelled cells of a corpus instead of those in memory; its donors that were
            held out validate. The logistic regression is then fitted to a sample of 20,000 of them.
            `split_key`, `weight_key`, `donor_key`, `protein_key` and ``combine="residual"`` are for
            cells in memory; to balance name columns in ``CorpusData(balance=…)``.
        batch_size, lr, weight_decay, recompute, early_stopping_patience, rng, **trainer
            As in :meth:`ScBERT.train`, `checkpoint_dir` and the arguments that belong to it among
            them.

        Returns
        -------
        None; :attr:`history` holds `train_loss` and `validation_loss`, the cross-entropy of the
        classes, `accuracy_*` and `macro_f1_*`, and with `protein_key` `protein_loss_*`, the mean
        squared error of the standardised protein levels, by epoch from 1 on. Training cells are
        measured while the epoch lasts, with tokens left out; all of the network alone.
        ``kept_epoch_`` is the epoch whose weights the model has.

        Raises
        ------
        ValueError
            A class without a labelled training cell, labels the model does not know, or no training
            cell at all. Or, as in :meth:`ScBERT.train`, something is not finite, or the training
            diverged.
        """
        options = Finetuning.of("ScBERTClassifier.train", locals(), trainer)
        finetune(self, options, datamodule)

    predict = _inference.predict
    predict_and_embed = _inference.predict_and_embed
    predict_parts = _inference.predict_parts

    get_gene_attribution = attribution.get_gene_attribution
    get_gene_occlusion = perturbation.get_gene_occlusion
    get_set_effects = perturbation.get_set_effects
    perturb_genes = perturbation.perturb_genes
    randomized = randomization.randomized
