"""scBERT as an estimator: from raw counts of training donors to a classifier, in the fit."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, get_args

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.utils.validation import check_is_fitted

from scbert_cll import _binning, _checks, _docs, _keys, pp
from scbert_cll._checks.words import choice, number_in
from scbert_cll._evaluation.folds import inner_folds
from scbert_cll.estimators import _base
from scbert_cll.estimators._base import CellEstimator, Donors, Examples
from scbert_cll.estimators._baselines import baselines, optional_baselines
from scbert_cll.estimators._resampled import Method, donors_of_all, smote_neighbours

Genes = Literal["svd", "gene2vec", "shuffled", "learned", "sinusoidal", "none"]

type Choices = Mapping[str, Any]

_VECTORS_OF_CELLS: Final = ("svd", "gene2vec", "shuffled")
_VALIDATION: Final = 5  # a fifth of the training donors, where a validation is needed
_LABEL, _DONOR, _PROTEIN = "label", "donor", "protein"
_RUN: Final[Choices] = {"split_key": _keys.SPLIT, "enable_progress_bar": False}


@_docs.shared
@dataclass(eq=False, repr=False, kw_only=True)
class ScBERTEstimator(CellEstimator):
    """Tokens, gene vectors, pretraining where wished, and a classifier.

    Each is made of the training cells alone.

    All training donors are learned from; the penalty of the linear part is chosen on inner folds by
    donor. Where a validation is asked for (``combine="residual"``, or early stopping in `train`), a
    fifth of the donors is kept for it, of the cells where donors do not suffice. Its parameters are
    the variants of an ablation.

    Parameters
    ----------
    combine
        How the network and the logistic regression are joined, see :meth:`ScBERTClassifier.train
        <scbert_cll.model.ScBERTClassifier.train>`.
    n_members
        Networks of different seeds whose probabilities are averaged.
    pretrain_epochs
        Epochs of masked pretraining on the training donors' cells, labelled or not; 0 for none.
    extra
        Further cells to pretrain on, raw counts in ``X``; genes are matched by name, and absent
        ones count as not expressed.
    protein_key
        `obsm` with the raw counts of all proteins, learned beside the class where it is there; None
        leaves them aside.
    gene_embedding
        ``"svd"`` and ``"gene2vec"`` (skip-gram) start from co-expression in the training cells
        (:func:`~scbert_cll.tl.gene2vec`), ``"shuffled"`` gives every gene another's vector of the
        former (a control: an identity, but no meaning), the others as in
        :class:`~scbert_cll.nn.Config`.
    balance
        Method of :func:`~scbert_cll.pp.balance`, on training cells only; ``"none"`` leaves the
        classes as they are.
    freeze
        ``"none"``, ``"encoder"`` or ``"scbert"``.
    exclude_genes
        Genes it shall not see, e.g. ``["ITGA4"]``.
    binning
        Method of :func:`~scbert_cll.pp.bin_expression`; edges are learned from training cells.
    max_epochs
        Epochs of fine-tuning; None: 8 to 20, more for fewer cells.
    network
        Choices of the network, e.g. ``{"dropout": 0.3, "tokens": "background"}``, or ``{"preset":
        "scbert"}``.
    train
        Choices of the training, e.g. ``{"lr": 1e-3, "token_drop": 0.3}``.
    accelerator
        ``"auto"`` takes a GPU where there is one.
    rng
        Seed.

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> rna = sc_cll.datasets.cll_toy(n_cells=400, n_genes=200)["rna"]
    >>> variant = sc_cll.estimators.ScBERTEstimator(max_epochs=2, gene_embedding="learned")
    >>> variant.fit(rna, rna.obs["cd49d_true"], rna.obs["donor"]).predict_proba(rna).shape
    (400, 2)
    """

    combine: str = "average"
    n_members: int = 1
    pretrain_epochs: int = 0
    extra: AnnData | None = None
    protein_key: str | None = "protein"
    gene_embedding: Genes = "svd"
    balance: Method = "weights"
    freeze: str = "none"
    exclude_genes: Sequence[str] = ()
    binning: _binning.Method = "log2"
    max_epochs: int | None = None
    network: Choices | None = None
    train: Choices | None = None
    accelerator: str = "auto"
    rng: int = 0

    def fit(self, adata: AnnData, y: pd.Series, groups: Donors = None) -> Self:
        """Learn from the labelled cells.

        Parameters
        ----------
        %(training_cells)s

        Notes
        -----
        Cells without a class serve the gene vectors, the proteins' levels and pretraining.

        Raises
        ------
        ValueError
            No cell has a class, a parameter is out of range, there is no such device, or the
            training diverged. With cells of one class only, this class is all that is predicted.
        """
        self.check()
        labelled = _base.examples(adata, y, groups)
        self.genes_, self.classes_ = adata.var_names, labelled.classes
        self.members_: list[Any] = []
        if len(self.classes_) == 1:
            return self
        cells = self._cells(adata, y, groups, labelled)
        with _quiet():
            seeds = range(self.rng, self.rng + self.n_members)
            self.members_ = [self._member(cells, seed) for seed in seeds]
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        """The logistic regression, and the network where the two are averaged."""
        return ("network", "linear") if self.combine == "average" else ("linear",)

    def predict_proba(self, adata: AnnData) -> np.ndarray:
        """Probability of each class (cells × ``classes_``); a cell's depends on that cell alone.

        Parameters
        ----------
        %(raw_cells)s
        """
        return self.predict_parts(adata)[0]

    def predict_parts(self, adata: AnnData) -> list[np.ndarray]:
        """Probabilities (cells × ``classes_``) of the whole, then of each of its :attr:`parts`.

        Parameters
        ----------
        %(raw_cells)s
        """
        check_is_fitted(self, "members_")
        cells = _base.counts_only(_base.of_genes(adata, self.genes_))
        names = ("joined", *self.parts)
        if not self.members_:
            return [np.ones((cells.n_obs, 1)) for _ in names]
        pp.bin_expression(cells, edges=self.members_[0].binning)
        with _quiet():
            members = [member.predict_parts(cells) for member in self.members_]
        by_name = ([getattr(member, name) for member in members] for name in names)
        return [_base.sum_to_one(np.mean(proba, axis=0)) for proba in by_name]

    def check(self) -> None:
        """Refuse parameters that cannot be, before anything is fitted."""
        from scbert_cll.model.training.options import Finetuning, check_network

        choice(self.balance, get_args(Method), "balance")
        choice(self.gene_embedding, get_args(Genes), "gene_embedding")
        number_in(self.n_members, "n_members", 1, np.inf, whole=True)
        number_in(self.pretrain_epochs, "pretrain_epochs", 0, np.inf, whole=True)
        if self.max_epochs is not None:
            number_in(self.max_epochs, "max_epochs", 1, np.inf, whole=True)
        check_network(dict(self.network or {}), "preset")
        further = {"accelerator": self.accelerator, **dict(self.train or {})}
        Finetuning.of("train of ScBERTEstimator", {}, further, "max_epochs")

    def _cells(self, adata: AnnData, y: pd.Series, groups: Donors, labelled: Examples) -> AnnData:
        """Training cells with labels, split, tokens, weights or further rows, and gene vectors."""
        cells = _base.counts_only(adata)
        if self.protein_key is not None and self.protein_key in adata.obsm:
            cells.obsm[_PROTEIN] = _checks.adata.protein_counts(adata, self.protein_key)
        labels = y.astype(object).to_numpy()
        cells.obs[_LABEL] = pd.Categorical(labels, labelled.classes)
        cells.obs[_DONOR] = "one" if groups is None else groups.astype(str).to_numpy()
        cells.obs[_keys.SPLIT] = self._split(cells, labelled)
        if self.balance != "none":
            trains = np.flatnonzero(cells.obs[_keys.SPLIT] == _keys.TRAIN)
            fewest = int(cells.obs[_LABEL].iloc[trains].value_counts().min())
            k, method = smote_neighbours(fewest), self.balance
            pp.balance(cells, _LABEL, method=method, k_neighbors=k, rng=self.rng)
            cells.obs[_DONOR] = donors_of_all(pd.Series(cells.obs[_DONOR]), groups)
        pp.bin_expression(cells, method=self.binning, fit_on=_keys.SPLIT)
        if self.gene_embedding in _VECTORS_OF_CELLS:
            cells.varm[_keys.GENE2VEC] = self._vectors(cells)
        return cells

    def _split(self, cells: AnnData, labelled: Examples) -> pd.Categorical:
        """Donors that train and donors that validate, with their unlabelled cells.

        Or cells, where donors do not suffice.
        """
        split = np.full(cells.n_obs, _keys.TRAIN, dtype=object)
        codes, rows = labelled.codes, labelled.rows
        stops_early = (self.train or {}).get("early_stopping")
        validates = self.combine == "residual" or stops_early
        if validates and np.bincount(codes).min() > 1:
            train, val = inner_folds(codes, labelled.donors, _VALIDATION, self.rng)[0]
            split[rows[val]] = _keys.VAL
            donors = cells.obs[_DONOR].to_numpy()
            whole = set(donors[rows[val]]) - set(donors[rows[train]])
            split[np.isin(donors, list(whole))] = _keys.VAL
        return pd.Categorical(split, categories=list(_keys.SPLIT_ORDER))

    def _vectors(self, cells: AnnData) -> np.ndarray:
        """Co-expression vectors of the genes, from the cells that train."""
        from scbert_cll.model import _gene_vectors
        from scbert_cll.model.training.options import width

        train = cells[(cells.obs[_keys.SPLIT] == _keys.TRAIN).to_numpy()]
        genes = cells.var_names
        counts, rng = sparse.csr_matrix(train.X), np.random.default_rng(self.rng)
        if self.gene_embedding == "gene2vec":
            donors = pd.factorize(train.obs[_DONOR].to_numpy())[0]
            seed, options = int(rng.integers(2**31)), _gene_vectors.SKIP_GRAM
            vectors, _ = _gene_vectors.co_expression_vectors(counts, genes, donors, options, seed)
        else:
            n = width(**dict(self.network or {}))
            vectors = _gene_vectors.principal_vectors(counts, genes, n, 0.0, self.rng)
        if self.gene_embedding == "shuffled":
            vectors = vectors.set_axis(rng.permutation(vectors.index), axis=0)
        vectors = vectors.reindex(genes, fill_value=0.0)
        return vectors.to_numpy(dtype=np.float32)

    def _member(self, cells: AnnData, seed: int) -> Any:
        """One trained classifier."""
        from scbert_cll.model import ScBERT, ScBERTClassifier

        cells = cells.copy()  # scvi-tools notes in it what was set up
        excluded: Choices = {"exclude_genes": list(self.exclude_genes)}
        starts_from_cells = self.gene_embedding in _VECTORS_OF_CELLS
        genes = "gene2vec" if starts_from_cells else self.gene_embedding
        network: Choices = {"gene_embedding": genes, **(self.network or {})}
        training: Choices = {**_RUN, "rng": seed, "accelerator": self.accelerator}
        if self.pretrain_epochs:
            corpus = cells if self.extra is None else self._corpus(cells, self.extra)
            ScBERT.setup_anndata(corpus, **excluded)
            pretrained = ScBERT(corpus, rng=seed, **network)
            pretrained.train(self.pretrain_epochs, **training)
            from_pretrained = ScBERTClassifier.from_pretrained
            classifier = from_pretrained(pretrained, cells, labels_key=_LABEL, rng=seed)
        else:
            ScBERTClassifier.setup_anndata(cells, labels_key=_LABEL, **excluded)
            classifier = ScBERTClassifier(cells, rng=seed, **network)
        protein = _PROTEIN if _PROTEIN in cells.obsm else None
        weight = _keys.BALANCE_WEIGHT if self.balance == "weights" else None
        keys = {"donor_key": _DONOR, "protein_key": protein, "weight_key": weight}
        parts = {"combine": self.combine, "freeze": self.freeze}
        options: Choices = {**training, **keys, **parts, **(self.train or {})}
        classifier.train(self.max_epochs, **options)
        return classifier

    def _corpus(self, cells: AnnData, extra: AnnData) -> AnnData:
        """The training cells and the further ones, which train, too."""
        further = pp.align_genes(_base.counts_only(extra), list(cells.var_names))
        further = _base.counts_only(further)
        further = further[sparse.csr_matrix(further.X).sum(axis=1).A1 > 0].copy()
        further.obs[_keys.SPLIT] = _keys.TRAIN
        training = _base.counts_only(cells)  # without labels and proteins
        training.obs[_keys.SPLIT] = np.asarray(cells.obs[_keys.SPLIT], dtype=object)
        corpus = ad.concat({"own": training, "extra": further}, index_unique="-")
        pp.bin_expression(corpus, edges=cells.uns[_keys.BINNED])
        corpus.varm.update(cells.varm)
        return corpus


# the variants of an ablation: what each changes in the default
VARIANTS: Final[Mapping[str, Choices]] = {
    "scbert": {},
    "scbert_residual": {"combine": "residual"},
    "scbert_pretrained": {"pretrain_epochs": 10},
    "scbert_frozen": {"pretrain_epochs": 10, "freeze": "encoder"},
    "scbert_frozen_random": {"freeze": "encoder"},
    "scbert_gene2vec": {"gene_embedding": "gene2vec"},
    "scbert_learned_genes": {"gene_embedding": "learned"},
    "scbert_shuffled_genes": {"gene_embedding": "shuffled"},
    "scbert_background": {"network": {"tokens": "background"}},
    "scbert_deep": {"network": {"n_layers": 2}},
    "scbert_wide": {"network": {"n_hidden": 64}},
    "scbert_ensemble": {"n_members": 3},
    "scbert_no_protein": {"protein_key": None},
    "scbert_early_stopping": {"train": {"early_stopping": True}, "max_epochs": 30},
    "scbert_unweighted": {"balance": "none"},
    "scbert_oversample": {"balance": "oversample"},
    "scbert_undersample": {"balance": "undersample"},
    "scbert_smote": {"balance": "smote"},
}


def scbert_variants(gene: str = "ITGA4") -> dict[str, ScBERTEstimator]:
    """ScBERT and its ablations, by name.

    Parameters
    ----------
    gene
        The gene that ``"scbert_without_gene"`` does not see.

    Returns
    -------
    Unfitted estimators. Each differs from ``"scbert"`` in one thing (early stopping brings a limit
    of 30 epochs). The predictions of the network and of the linear part alone are shown with them.

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> sc_cll.estimators.scbert_variants()["scbert_deep"].network
    {'n_layers': 2}
    """
    variants = {name: ScBERTEstimator(**choices) for name, choices in VARIANTS.items()}
    return variants | {"scbert_without_gene": ScBERTEstimator(exclude_genes=[gene])}


def scbert_arms(gene: str = "ITGA4") -> dict[str, ScBERTEstimator]:
    """The former name of :func:`scbert_variants`, for one more release.

    Parameters
    ----------
    gene
        As there.

    Returns
    -------
    As there.

    Warns
    -----
    FutureWarning
        Always.
    """
    text = "scbert_arms is now scbert_variants; the next release has the new name only."
    warnings.warn(text, FutureWarning, stacklevel=2)
    return scbert_variants(gene)


def available(gene: str = "ITGA4") -> dict[str, CellEstimator]:
    """Every estimator that goes by a name, unfitted: baselines, optional ones, scBERT's variants.

    Parameters
    ----------
    gene
        The gene of ``"gene_only"`` and ``"scbert_without_gene"``.

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> sorted(sc_cll.estimators.available())[:3]
    ['gene_only', 'gradient_boosting', 'knn']
    """
    return {**baselines(gene), **optional_baselines(), **scbert_variants(gene)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's remarks on devices, of which there would be a page per fold."""
    import lightning.pytorch

    logger = logging.getLogger(lightning.pytorch.__name__)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)
