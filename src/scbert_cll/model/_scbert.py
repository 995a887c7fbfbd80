"""ScBERT: the Performer that guesses hidden genes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _keys
from scbert_cll._disk.formats import Json
from scbert_cll.model import _scvi
from scbert_cll.model._base import TokenModel
from scbert_cll.model.corpus.data import CorpusData
from scbert_cll.model.exchange import hub, scbert
from scbert_cll.model.training.fit import pretrain
from scbert_cll.model.training.options import BatchSize, Logging, Pretraining
from scbert_cll.vocab import Vocabulary


class ScBERT(TokenModel):
    """Masked-gene model: a Performer that learns the expression bin of hidden genes.

    It guesses them from the rest of the cell.

    Source: Yang et al. 2022 (doi:10.1038/s42256-022-00534-z), on Performer attention (Choromanski
    et al. 2021, arXiv:2009.14794).

    Parameters
    ----------
    adata
        Cells set up with :meth:`setup_anndata`.
    registry
        Instead of `adata`: the registry of a model loaded without data.
    preset
        ``"small"`` (default) trains on a laptop: one narrow block, only expressed genes attend.
        ``"scbert"`` is the published network: width 200, 6 blocks of 10 heads × 64, every gene
        attends.
    binning
        The `uns` record of :func:`~scbert_cll.pp.bin_expression`; taken from `adata` where there is
        one.
    rng
        Seed of the initial weights and random features.
    **network
        Single choices of :class:`scbert_cll.nn.Config`, e.g. ``n_hidden=64, n_layers=2,
        gene_embedding="learned"``.

    Raises
    ------
    KeyError
        ``gene_embedding="gene2vec"`` and `adata.varm` has no vectors.
    TypeError
        An unknown network parameter.

    Examples
    --------
    >>> ScBERT.setup_anndata(adata)
    >>> model = ScBERT(adata, gene_embedding="learned")
    >>> model.train(max_epochs=5)
    >>> adata.obsm["X_scbert"] = model.get_latent_representation()
    """

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: Json | None = None,
        *,
        preset: str = "small",
        binning: Mapping[str, Any] | None = None,
        rng: int | np.random.Generator | None = 0,
        **network: Any,
    ) -> None:
        super().__init__(adata, registry, network, preset, binning, rng)

    @classmethod
    def setup_anndata(
        cls, adata: AnnData, *, layer: str = _keys.BINNED, exclude_genes: Sequence[str] = ()
    ) -> None:
        """Register the token layer.

        Parameters
        ----------
        adata
            Cells × genes, in memory and not a view; scvi-tools adds its identifiers to `uns`.
        layer
            Layer that :func:`~scbert_cll.pp.bin_expression` wrote.
        exclude_genes
            Genes the network shall not see, e.g. ITGA4 when the labels come from its protein.
        """
        _scvi.register(cls, adata, cls._get_setup_method_args(**locals()))

    @classmethod
    def from_scbert_checkpoint(
        cls,
        path: str | os.PathLike[str],
        *,
        vocab: Vocabulary,
        gene2vec: pd.DataFrame | None = None,
        adata: AnnData | None = None,
        layer: str = _keys.BINNED,
        accelerator: str = "auto",
        **network: Any,
    ) -> Self:
        """Read a pretrained checkpoint that scBERT saved.

        The file knows positions, not genes; `vocab` names them, and from then on genes are found by
        name in any AnnData. Only weights are read, nothing in the file is executed. Cells are
        binned as scBERT does, which is the default of :func:`~scbert_cll.pp.bin_expression`.

        Parameters
        ----------
        path
            The file (``.pth``).
        vocab
            The genes in the checkpoint's order: a :class:`~scbert_cll.vocab.GeneVocab`, a file of
            them, or names.
        gene2vec
            Gene vectors, one row per gene name, as wide as the network; they take the place of the
            checkpoint's, and `vocab` may then be any genes that have one. From a word2vec file:
            ``kv = gensim.models.KeyedVectors.load_word2vec_format(file)``,
            ``pd.DataFrame(kv.vectors, index=kv.index_to_key)``.
        adata
            Cells to attach, binned.
        layer
            Layer of the tokens.
        accelerator
            As in :meth:`load`.
        **network
            Choices that do not change the weights: `dropout`, `train_gene_embedding`, `tokens`,
            `n_background`, `attention`, `stabilizer`; by default scBERT's.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        TypeError
            A choice that would not fit the weights.
        ValueError
            The file holds more than weights, or another network; tensors are missing, unknown or of
            another shape; or they do not fit `vocab` or `gene2vec`. Everything that does not fit is
            said at once.

        Warns
        -----
        UserWarning
            The network's attention is nearly uniform, measured on a few cells of `adata`, or on a
            simulated one.

        Examples
        --------
        >>> model = ScBERT.from_scbert_checkpoint("panglao_pretrain.pth", vocab="genes.txt")
        >>> classifier = ScBERTClassifier.from_pretrained(
        ...     model, adata, labels_key="cd49d", head="pool"
        ... )
        """
        return scbert.from_checkpoint(
            cls, path, vocab, gene2vec, adata, layer, accelerator, network
        )

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        adata: AnnData | None = None,
        *,
        revision: str | None = None,
        token: str | None = None,
        accelerator: str = "auto",
    ) -> Self:
        """Load a model from a folder or from Hugging Face.

        Of a repository only the files of :meth:`save` are downloaded: text and safetensors, nothing
        that is executed when it is read.

        Parameters
        ----------
        source
            A folder, or ``"org/name"``; a folder of that name comes first, and is loaded without
            network.
        adata
            Cells to attach, so that methods can be called without naming them.
        revision
            Branch, tag or commit. None: the latest of the main branch.
        token
            Of a private repository; None: the one of ``hf auth login``.
        accelerator
            As in :meth:`load`.

        Raises
        ------
        FileNotFoundError
            There is no such folder, repository or revision, or it is private.
        ImportError
            huggingface_hub is not installed.
        ValueError
            It holds something else, or the model is of another class, of a newer version, or
            damaged.

        Examples
        --------
        >>> model = ScBERT.from_pretrained("our-lab/cll-scbert")
        """
        folder = hub.model_folder(source, revision=revision, token=token)
        if (kind := hub.class_of(folder)) not in (None, cls.__name__):
            raise ValueError(
                f"{source} holds a {kind}, not a {cls.__name__}; use {kind}.from_pretrained."
            )
        return cls.load(folder, adata, accelerator=accelerator)

    def train(
        self,
        max_epochs: int = Pretraining.max_epochs,
        *,
        split_key: str | None = None,
        batch_size: BatchSize = Pretraining.batch_size,
        lr: float = Pretraining.lr,
        weight_decay: float = Pretraining.weight_decay,
        mask_fraction: float = Pretraining.mask_fraction,
        feature_redraw_interval: int | None = None,
        recompute: bool = False,
        early_stopping: bool = Pretraining.early_stopping,
        early_stopping_patience: int = Pretraining.early_stopping_patience,
        rng: int | np.random.Generator | None = 0,
        datamodule: CorpusData | None = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        checkpoint_minutes: float | None = Pretraining.checkpoint_minutes,
        checkpoint_steps: int | None = None,
        resume: bool = True,
        logger: Logging | Sequence[Logging] = None,
        **trainer: Any,
    ) -> None:
        """Train on hidden genes.

        Parameters
        ----------
        max_epochs
            Passes over the training cells.
        split_key
            `obs` column of :func:`~scbert_cll.pp.split_donors`; test cells are then never seen.
            None: a random tenth of the cells validates.
        batch_size
            Cells per step, of all devices together. ``"auto"``: as many as fit, a power of two up
            to 256.
        lr, weight_decay
            Of AdamW, with 10 % warm-up and cosine decay.
        mask_fraction
            Share of a cell's expressed genes that is hidden.
        feature_redraw_interval
            Draw the random features of the attention anew after so many steps (1000 in
            performer-pytorch); None keeps them.
        recompute
            Keep only what enters each block and compute the rest again for the gradients: less than
            half of the memory for about a quarter more time.
        early_stopping, early_stopping_patience
            Stop after so many epochs without a lower validation loss, and keep the epoch with the
            lowest; else the last one is kept.
        rng
            Seed of batches, masks and dropout. The same seed gives the same weights, with
            `checkpoint_dir` or without, on one machine with one number of threads. Trainings in
            several threads of a process wait for each other.
        datamodule
            Train on the cells of a corpus instead of those in memory; its donors that were held out
            validate.
        checkpoint_dir
            Folder for checkpoints. Where it has some of the same run, this goes on from the newest,
            to the same weights and history as if it had never been interrupted. A run is the same
            with the same cells, labels, weights and arguments.
        checkpoint_minutes, checkpoint_steps
            Write one every so many minutes, and every so many steps of the optimiser; None: not by
            that. The last two are kept. When the system asks for the machine (SIGTERM, or SIGUSR1
            from SLURM, whose job is then queued again), one is written at once.
        resume
            Go on where `checkpoint_dir` has checkpoints; False refuses such a folder.
        logger
            Beside :attr:`history`: ``"csv"``, ``"tensorboard"`` (in `checkpoint_dir`, which they
            need), or loggers of Lightning.
        **trainer
            Passed to Lightning's trainer: `accelerator`, `devices`, `num_nodes`, `strategy`,
            `precision`, `max_steps`, `accumulate_grad_batches`, `gradient_clip_val`,
            `val_check_interval`, `limit_val_batches`, …

        Returns
        -------
        None; :attr:`history` holds `train_loss`, `validation_loss`, `masked_accuracy_*` and beside
        it `majority_accuracy_*`, what guessing each cell's commonest bin gets, by epoch from 1 on.
        ``kept_epoch_`` is the epoch whose weights the model has.

        Raises
        ------
        RuntimeError
            Another run is writing to `checkpoint_dir`.
        ValueError
            Numbers of the training, gene vectors or weights of the network are not finite. Or the
            training diverged, its loss or weights becoming NaN or infinite: it ends there, and the
            sentence names step, epoch and learning rate. The model then has the weights of the
            epoch with the lowest validation loss before (of the last one, where nothing validates),
            as ``kept_epoch_`` says, or, where there is no good epoch, is as it was.
            `checkpoint_dir` holds checkpoints of another run: the data or an argument differs,
            which is named; or ``logger="csv"`` has no `checkpoint_dir` to write into.
        FileExistsError
            `checkpoint_dir` is a file, or has checkpoints and `resume` is False.
        """
        options = Pretraining.of("ScBERT.train", locals(), trainer)
        pretrain(self, options, datamodule)
