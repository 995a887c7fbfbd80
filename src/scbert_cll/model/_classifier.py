"""ScBERTClassifier: the Performer that names a cell's class."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.special import softmax
from torch import Tensor

from scbert_cll import _checks, _keys
from scbert_cll._checks.words import choice
from scbert_cll.model import _scvi
from scbert_cll.model.corpus.data import CorpusData
from scbert_cll.model.exchange.pretrained import Pretrained
from scbert_cll.model.linear.ensemble import COMBINE, Combine, LinearBeside, Predictions
from scbert_cll.model.training.arguments import check_training, names_of_training
from scbert_cll.model.training.batches import TokenSplits
from scbert_cll.model.training.fit import Training, as_seed, check_numbers, seeded
from scbert_cll.model.training.labelled import Labelled
from scbert_cll.model.training.plans import ClassifyPlan
from scbert_cll.model.training.policy import Freeze, leave_trainable, usual_epochs
from scbert_cll.model.training.run_settings import arguments
from scbert_cll.nn.performer import mean_tokens
from scbert_cll.vocab import Vocabulary


class ScBERTClassifier(Pretrained, Labelled, LinearBeside):
    """Classifier of cells: a Performer with a classification head, pretrained by :class:`ScBERT` or not.

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
        registry: dict[str, Any] | None = None,
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
            classes = _checks.adata.classes(_checks.adata.obs_column(adata, labels_key), labels_key)
        if labels_key is None or classes is None:
            raise ValueError("A classifier without adata needs labels_key= and classes=.")
        self.labels_key, self.classes = labels_key, list(classes)
        super().__init__(
            adata, registry, network, preset=preset, binning=binning, classes=self.classes, rng=rng
        )

    _of_a_training = (*Training._of_a_training, "linear_", "combine", "_not_donors")

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
        setup_args = cls._get_setup_method_args(**locals())
        _checks.adata.target(_checks.adata.anndata(adata), copy=False)
        _checks.tokens.tokens(adata, layer)
        _checks.adata.obs_column(adata, labels_key)
        _checks.genes.known_genes(exclude_genes, adata)
        setup_args["setup_args"] |= {"exclude_genes": list(exclude_genes)}
        _scvi.register(cls, adata, layer, setup_args)

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
        return cls._from_checkpoint(
            path,
            vocab,
            gene2vec,
            adata,
            layer=layer,
            accelerator=accelerator,
            network=network,
            labels=labels,
        )

    def train(
        self,
        max_epochs: int | None = None,
        *,
        split_key: str | None = None,
        weight_key: str | None = None,
        donor_key: str | None = None,
        protein_key: str | None = None,
        combine: Combine = "none",
        freeze: Freeze = "none",
        batch_size: int | Literal["auto"] = 16,
        lr: float = 2e-3,
        weight_decay: float = 0.01,
        token_drop: float = 0.3,
        recompute: bool = False,
        early_stopping: bool = False,
        early_stopping_patience: int = 10,
        rng: int | np.random.Generator | None = 0,
        datamodule: CorpusData | None = None,
        **trainer: Any,
    ) -> None:
        """Train on the labelled cells, for a fixed number of epochs with a learning rate that falls to zero.

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
            `obs` column of donors: what the linear part needs held-out cells for is then decided on
            other donors.
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
        asked = arguments(locals())
        numbers = {"lr": lr, "weight_decay": weight_decay}
        check_training(
            trainer | numbers, names_of_training(ScBERTClassifier.train), "ScBERTClassifier.train"
        )
        check_numbers(max_epochs or 1, batch_size, token_drop=token_drop)
        seed = as_seed(rng)
        choice(combine, COMBINE, "combine")
        keys = {
            "split_key": split_key,
            "weight_key": weight_key,
            "donor_key": donor_key,
            "protein_key": protein_key,
        }
        with self._trained_or_as_before():
            data: TokenSplits | CorpusData
            if datamodule is None:
                data, start = self._labelled(seed, combine, **keys)
            else:
                data, start = self._labelled_corpus(datamodule, seed, combine, keys), math.inf
            leave_trainable(self.module, freeze)
            with seeded(seed):
                plan = ClassifyPlan(
                    self.module,
                    lr=lr,
                    weight_decay=weight_decay,
                    token_drop=token_drop,
                    n_proteins=data.n_proteins,
                    seed=seed,
                )
            with self._calm():
                self._fit(
                    plan,
                    data,
                    asked,
                    max_epochs=max_epochs or usual_epochs(data.n_labelled),
                    batch_size=batch_size,
                    recompute=recompute,
                    early_stopping=early_stopping,
                    early_stopping_patience=early_stopping_patience,
                    seed=seed,
                    start=start,
                    **trainer,
                )

    def predict(
        self, adata: AnnData | None = None, *, soft: bool = False, batch_size: int | None = None
    ) -> pd.Series | pd.DataFrame:
        """Class of each cell; labels are not read.

        Parameters
        ----------
        adata, batch_size
            As in :meth:`get_latent_representation`.
        soft
            Return the probabilities of all classes instead.

        Returns
        -------
        Categorical Series over the cells, or with `soft` a float32 DataFrame cells × classes whose
        rows sum to 1.

        Raises
        ------
        RuntimeError
            The model has not been trained.
        """
        probabilities, _ = self.predict_and_embed(adata, batch_size=batch_size)
        if soft:
            return probabilities
        best = probabilities.to_numpy().argmax(1)
        return pd.Series(
            pd.Categorical.from_codes(best, pd.Index(self.classes)), index=probabilities.index
        )

    def predict_and_embed(
        self, adata: AnnData | None = None, *, batch_size: int | None = None
    ) -> tuple[pd.DataFrame, np.ndarray]:
        """Probabilities (cells × classes) and embeddings (cells, n_hidden) in one pass over the cells."""
        found = self.predict_parts(adata, batch_size=batch_size)
        return found.joined, found.latent

    def predict_parts(
        self, adata: AnnData | None = None, *, batch_size: int | None = None
    ) -> Predictions:
        """Probabilities as they are predicted, of the network and of the logistic regression beside it; and embeddings.

        Parameters
        ----------
        adata, batch_size
            As in :meth:`get_latent_representation`.

        Returns
        -------
        Named tuple of ``joined``, ``network`` and ``linear`` (None in a model trained without),
        each a float32 DataFrame cells × classes, and ``latent``, float32 (cells, n_hidden).

        Raises
        ------
        RuntimeError
            The model has not been trained.
        """
        if not self.is_trained_:
            raise RuntimeError(
                "This classifier has not been trained; call .train() first, or load a trained one."
            )
        adata = self._cells(adata)
        network, latent = self._logits(adata, batch_size)
        linear = self._linear_logits(adata)

        def table(proba: np.ndarray) -> pd.DataFrame:
            return pd.DataFrame(
                proba.astype(np.float32), index=adata.obs_names, columns=self.classes
            )

        alone = None if linear is None else table(softmax(linear, axis=1))
        return Predictions(
            table(self._joined_proba(network, linear)),
            table(softmax(network, axis=1)),
            alone,
            latent,
        )

    def _logits(self, adata: AnnData, batch_size: int | None = None) -> list[np.ndarray]:
        """Logits (cells, classes) and embeddings (cells, n_hidden)."""
        return self._collect(
            adata, batch_size, [len(self.classes), self.config.n_hidden], self._classify
        )

    def _classify(
        self, tokens: Tensor, genes: Tensor | None = None, weight: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        encodings = self.module.encode(tokens, genes, weight)
        return self.module.head_logits(encodings, weight).float(), mean_tokens(encodings, weight)

    def _labels(self) -> dict[str, Any]:
        return {"labels_key": self.labels_key, "classes": self.classes}
