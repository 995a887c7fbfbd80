"""tl.cross_validate: checks, folds, predictions, tables, and what is written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _docs, _keys, _names, _record
from scbert_cll._checks.words import choice, key_in, number_in
from scbert_cll._evaluation import folds, intervals
from scbert_cll._evaluation import metrics as _metrics
from scbert_cll._evaluation.store import FoldStore
from scbert_cll._gene_names import resolver
from scbert_cll._version import __version__
from scbert_cll.estimators import as_estimator, available
from scbert_cll.tl._cross_validate.task import PROTEIN, Model, Task, predict

DEFAULT_MODELS = ("majority", "gene_only", "logistic_l2", "scbert")


@_docs.shared
def cross_validate(
    adata: AnnData,
    *,
    labels_key: str = _keys.CD49D,
    donor_key: str | None = _keys.DONOR,
    models: Sequence[str] | Mapping[str, Any] = DEFAULT_MODELS,
    scheme: folds.Scheme = "leave_one_donor_out",
    n_splits: int = 5,
    n_repeats: int = 5,
    metrics: Sequence[str] = _metrics.METRICS,
    layer: str | None = None,
    protein_key: str | None = None,
    gene: str = "ITGA4",
    n_bootstrap: int = 2000,
    positive_from: float = 30.0,
    checkpoint: str | os.PathLike[str] | None = None,
    rng: int = 0,
    key_added: str = _keys.CV,
    copy: bool = False,
) -> AnnData | None:
    """Compare models on donors they have not seen, all of them on the same folds.

    For every fold, each model is made anew from the raw counts of the training donors: tokens, gene
    vectors, scaling, choice of genes, balancing, penalties and the number of epochs are found
    there, on inner folds by donor where a choice is to be made. A model is handed nothing but these
    counts, their labels and their donors; what it predicts for the donors held out, at the
    prevalence that nature gave them, is all that is scored. Every labelled cell is scored once per
    repeat. Intervals resample donors, not cells: a thousand cells of one patient are one patient.

    Parameters
    ----------
    adata
        Cells × genes with raw counts and labels.
    labels_key
        `obs` column of the classes; the last one is "positive". Cells without a label are not
        scored; those of training donors may be pretrained on.
    donor_key
        `obs` column of donors; None for cells of one donor (``scheme="random_cell"``).
    models
        Names (:func:`scbert_cll.estimators.available`), or a dict of a name of your own to such a
        name, a :class:`~scbert_cll.estimators.CellEstimator`, or any classifier of scikit-learn,
        which gets log2(1 + counts per 10,000) as a sparse matrix. scBERT's network and logistic
        regression are shown alone, too: ``"scbert_network"``, ``"scbert_linear"``.
    scheme
        ``"leave_one_donor_out"``; ``"group_kfold"``, `n_splits` folds of whole donors, stratified
        by class, others in each repeat; ``"random_cell"``, folds of cells, with every donor on both
        sides: optimistic, and all that is left with one donor.
    n_splits
        Folds of the latter two.
    n_repeats
        How often everything is repeated, each time with another seed. Five or more show how much is
        chance.
    metrics
        Any of accuracy, macro_f1, balanced_accuracy, mcc, auroc (all cells in one line, though
        several models scored them), auroc_within (over pairs of cells of the same donor, which is
        what to look at where donors are held out), auprc, kappa_quadratic (ordered labels), brier,
        log_loss and ece (15 equal-mass bins).
    %(counts_layer)s
    protein_key
        `obsm` with the raw counts of all proteins: training cells hand them to the models that can
        learn from them (scBERT); test cells never do.
    gene
        Gene of the model ``"gene_only"`` and of those without it, *ITGA4* for CD49d.
    n_bootstrap
        Draws of donors (and repeats) behind an interval.
    positive_from
        Percentage of positive cells from which a donor is called positive.
    checkpoint
        Folder for finished folds: a run that was interrupted, or is to have a further model,
        computes none of them twice.
    rng
        Seed of folds, models and bootstrap.
    %(key_of_results)s
    %(copy)s

    Returns
    -------
    None, or with `copy` the new object, with

    ``adata.obsm['cv_proba']`` : DataFrame (cells × "model|repeat|class"), float32
        Out-of-fold probabilities; missing for cells without a label.
    ``adata.obsm['cv_pred']`` : DataFrame (cells × models), categorical
        Class of the mean over repeats.
    ``adata.uns['cv']`` : dict
        Tables, see :func:`scbert_cll.get.evaluation`: ``summary`` (estimate and 95 % interval per
        model and metric), ``differences`` (to the best baseline, paired), ``scores`` (per repeat),
        ``per_class``, ``donors`` (percentage positive, predicted and observed), ``agreement`` (with
        the 30 % rule), ``reliability``, ``folds``, ``seconds``; ``classes``, ``unit`` and
        ``params``.

    Raises
    ------
    KeyError
        A column or layer is missing, or a model has no such name.
    TypeError
        A model is none of the above.
    ValueError
        Fewer than two classes or donors, rows that were resampled, the same profile on both sides
        of a fold, no raw counts, or a parameter out of range.

    Notes
    -----
    What cannot be computed (AUROC of a donor with one class, an interval of a single donor) is
    missing, with its reason in the column ``note``. The reference of the differences is the best
    model that is not scBERT, found on the same data: with many baselines this favours them
    slightly.

    Examples
    --------
    >>> import scbert_cll as sc_cll
    >>> adata = sc_cll.datasets.cll_toy(n_cells=400, n_genes=200)["rna"]
    >>> models = ["majority", "logistic_l2"]
    >>> sc_cll.tl.cross_validate(adata, labels_key="cd49d_true", models=models, n_repeats=1)
    >>> sc_cll.get.evaluation(adata, metric="macro_f1")["model"].tolist()
    ['logistic_l2', 'majority']
    """
    params = _record.params(locals())
    _checks.adata.new_key(key_added, [protein_key], stems=("_proba", "_pred"))
    task = Task.of(adata, labels_key, donor_key, layer)
    if protein_key is not None:
        task.cells.obsm[PROTEIN] = _checks.adata.protein_counts(adata, protein_key)
    choice(scheme, folds.SCHEMES, "scheme")
    number_in(n_splits, "n_splits", 2, np.inf, whole=True)
    number_in(n_repeats, "n_repeats", 1, np.inf, whole=True)
    number_in(n_bootstrap, "n_bootstrap", 1, np.inf, whole=True)
    for name in metrics:
        choice(name, _metrics.METRICS, "metrics")
    number_in(positive_from, "positive_from", 0, 100)
    number_in(rng, "rng", 0, np.inf, whole=True)
    gene = params["gene"] = resolver.gene_in_data(gene, task.cells.var_names)
    chosen = _models(models, gene)
    parts = task.folds(scheme, n_splits, n_repeats, rng)
    target = _checks.adata.target(adata, copy=copy)
    proba, seconds = predict(task, chosen, parts, FoldStore(checkpoint), rng)
    baselines = [row for model in chosen for row in model.baselines]
    scored = task.out_of_fold(proba, baselines, parts)
    evaluation = intervals.tables(scored, list(metrics), n_bootstrap, positive_from, rng)
    params |= {"models": list(proba), "baselines": baselines, "version": __version__}
    times = pd.DataFrame(seconds.items(), columns=["model", "seconds"])
    record = {
        "params": params | task.note,
        "classes": np.array(task.classes),
        "folds": task.fold_table(parts),
        "seconds": times.rename(index=str),
        "ordered": task.ordered,
        "unit": evaluation.unit,
        "n_units": evaluation.n_units,
        **evaluation.tables,
    }
    called = {name: task.called(values.mean(0)) for name, values in proba.items()}
    obsm = {_keys.beside(key_added, "proba"): _proba_table(task, proba)}
    obsm[_keys.beside(key_added, "pred")] = pd.DataFrame(called, target.obs_names)
    _record.write(target, obsm=obsm, uns={key_added: record})
    return target if copy else None


def _models(models: Sequence[str] | Mapping[str, Any], gene: str) -> list[Model]:
    """Estimators by name, in the order in which they are given."""
    named = models if isinstance(models, Mapping) else {name: name for name in models}
    if not named:
        offer = "scbert_cll.estimators.available()"
        raise ValueError(f"models names no model; see {offer}.")
    ready, chosen = available(gene), []
    for name, model in named.items():
        if not isinstance(name, str) or not name or set(name) & set("|/"):
            what = "any text without | and /"
            raise ValueError(f"A model's name may be {what}; found {name!r}.")
        if isinstance(model, str):
            key_in(model, ready, "the models that go by a name")
        estimator = ready[model] if isinstance(model, str) else as_estimator(model)
        chosen.append(Model(name, estimator))
    for _, estimator in chosen:
        estimator.check()
    return chosen


def _proba_table(task: Task, proba: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Probabilities of each cell (cells × "model|repeat|class")."""
    repeats = range(len(next(iter(proba.values()))))
    columns = list(product(proba, repeats, task.classes))
    values = [part for of_model in proba.values() for part in of_model]
    names = _names.columns_of(*zip(*columns, strict=True))
    return pd.DataFrame(np.hstack(values), task.cells.obs_names, names)
