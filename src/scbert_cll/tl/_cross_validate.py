"""tl.cross_validate: every model on the same folds, donors held out."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scbert_cll import _checks, _keys, _names, _record
from scbert_cll._bar import Bar
from scbert_cll._checks.words import choice, key_in, listed, number_in
from scbert_cll._counts import slot_name
from scbert_cll._evaluation import folds, intervals
from scbert_cll._evaluation import metrics as _metrics
from scbert_cll._evaluation.leakage import duplicates as leakage_duplicates
from scbert_cll._evaluation.store import Done, FoldStore, fingerprint
from scbert_cll._process import as_it_was
from scbert_cll._threads import calm
from scbert_cll._version import __version__
from scbert_cll.estimators import CellEstimator, ScBERTEstimator, as_estimator, available, seeded
from scbert_cll.estimators._base import named
from scbert_cll.model import _finite

_PROTEIN = "protein"  # where estimators look for it
_VERSION = __version__
DEFAULT_MODELS = ("majority", "gene_only", "logistic_l2", "scbert")


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
    layer
        Layer with the raw counts; None means `adata.X`, ``"raw"`` `adata.raw` (genes by name).
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
    key_added
        Name of the results.
    copy
        Return a new object instead of writing to `adata`.

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
    asked = _record.params(locals())
    _checks.slots.new_key(key_added, [protein_key], stems=("_proba", "_pred"))
    task = _task(adata, labels_key, donor_key, layer, protein_key)
    _check(
        scheme=scheme,
        n_splits=n_splits,
        n_repeats=n_repeats,
        metrics=metrics,
        n_bootstrap=n_bootstrap,
    )
    number_in(positive_from, "positive_from", 0, 100)
    number_in(rng, "rng", 0, np.inf, whole=True)
    chosen = _models(models, gene)
    parts = task.parts(scheme=scheme, n_splits=n_splits, n_repeats=n_repeats, seed=rng)
    _no_twins(task, parts)
    target = _checks.adata.target(adata, copy=copy)
    proba, seconds = _predict_all(task, chosen, parts, n_repeats, FoldStore(checkpoint), rng)
    baselines = [
        row
        for name, model in chosen.items()
        for row in _rows(name, model)
        if _is_baseline(row, name, model)
    ]
    found = task.out_of_fold(proba, baselines, parts)
    made = intervals.tables(
        found, metrics=list(metrics), n_bootstrap=n_bootstrap, positive_from=positive_from, seed=rng
    )
    params = (
        asked | {"models": list(proba), "baselines": baselines, "version": __version__} | task.note
    )
    record = {
        "params": params,
        "classes": np.array(task.classes),
        "folds": _fold_table(task, parts),
    }
    record |= {
        "seconds": pd.DataFrame({"model": list(seconds), "seconds": list(seconds.values())}).rename(
            index=str
        )
    }
    record |= {"ordered": task.ordered, "unit": made.unit, "n_units": made.n_units}
    _write(target, task, proba, record | made.tables, key_added)
    return target if copy else None


@dataclass(frozen=True)
class _Task:
    """Counts and what is known of the cells.

    Models see rows of it, and nothing else of the user's object.
    """

    cells: AnnData
    codes: np.ndarray
    classes: list[str]
    ordered: bool
    groups: np.ndarray | None
    note: dict[str, Any]  # of counts and donors, for the record

    def parts(self, **how: Any) -> list[folds.Fold]:
        """Folds of the cells that have a donor, where donors are asked for."""
        if self.groups is None:
            return folds.outer_folds(self.codes, None, **how)
        rows = np.flatnonzero(pd.notna(self.groups))
        found = folds.outer_folds(self.codes[rows], self.groups[rows].astype(str), **how)
        return [fold._replace(train=rows[fold.train], test=rows[fold.test]) for fold in found]

    def out_of_fold(
        self, proba: Mapping[str, np.ndarray], baselines: list[str], parts: Sequence[folds.Fold]
    ) -> intervals.OutOfFold:
        known = self.codes >= 0
        donors = None if self.groups is None else self.groups[known]
        kept = {name: values[:, known] for name, values in proba.items()}
        fold = np.full((len(next(iter(proba.values()))), len(known)), -1)
        for part in parts:
            fold[part.repeat, part.test] = part.fold
        return intervals.OutOfFold(
            self.classes, self.ordered, self.codes[known], donors, kept, baselines, fold[:, known]
        )

    @property
    def counts(self) -> sparse.csr_matrix:
        """Raw counts, cells × genes."""
        return sparse.csr_matrix(self.cells.X)

    def train(self, rows: np.ndarray) -> tuple[AnnData, pd.Series, pd.Series | None]:
        """Cells, labels and donors of a training part."""
        cells = self.cells[rows].copy()
        labels = pd.Categorical.from_codes(
            self.codes[rows], pd.Index(self.classes), ordered=self.ordered
        )
        y = pd.Series(labels, cells.obs_names)
        return (
            cells,
            y,
            None if self.groups is None else pd.Series(self.groups[rows], cells.obs_names),
        )


def _task(
    adata: AnnData,
    labels_key: str,
    donor_key: str | None,
    layer: str | None,
    protein_key: str | None,
) -> _Task:
    adata = _checks.adata.anndata(adata)
    labels = _checks.adata.obs_column(adata, labels_key)
    classes = _checks.adata.classes(labels, labels_key)
    codes = _checks.adata.labels(adata, labels_key, classes, np.arange(adata.n_obs))
    _checks.adata.no_resampled_rows(adata)
    donors = None if donor_key is None else _checks.people.donors(adata, donor_key)
    codes = codes if donors is None else np.where(donors.notna(), codes, -1)
    counts, note = _checks.counts.noted_counts(adata, layer)
    cells = named(counts, adata)
    totals = sparse.csr_matrix(cells.X).sum(axis=1).A1
    _checks.adata.no_empty_cells(totals, adata, slot_name(layer))
    if protein_key is not None:
        cells.obsm[_PROTEIN] = _checks.adata.protein_counts(adata, protein_key)
    ordered = isinstance(labels.dtype, pd.CategoricalDtype) and bool(labels.cat.ordered)
    groups = None if donors is None else donors.to_numpy(dtype=object)
    left_out = {} if donors is None else _checks.people.left_out(donors)
    return _Task(cells, codes, classes, ordered, groups, note | left_out)


def _check(
    *, scheme: str, n_splits: int, n_repeats: int, metrics: Sequence[str], n_bootstrap: int
) -> None:
    choice(scheme, folds.SCHEMES, "scheme")
    number_in(n_splits, "n_splits", 2, np.inf, whole=True)
    number_in(n_repeats, "n_repeats", 1, np.inf, whole=True)
    number_in(n_bootstrap, "n_bootstrap", 1, np.inf, whole=True)
    for name in metrics:
        choice(name, _metrics.METRICS, "metrics")


def _models(models: Sequence[str] | Mapping[str, Any], gene: str) -> dict[str, CellEstimator]:
    """Estimators by name, in the order asked for."""
    asked = dict(models) if isinstance(models, Mapping) else {name: name for name in models}
    if not asked:
        raise ValueError("models names no model; see scbert_cll.estimators.available().")
    for name in asked:
        if not isinstance(name, str) or not name or set(name) & set("|/"):
            raise ValueError(f"A model's name may be any text without | and /; found {name!r}.")
    known = available(gene)
    for what in asked.values():
        if isinstance(what, str):
            key_in(what, known, "the models that go by a name")
    found = {
        name: known[what] if isinstance(what, str) else as_estimator(what)
        for name, what in asked.items()
    }
    for model in found.values():
        model.check()
    return found


def _rows(name: str, model: CellEstimator) -> list[str]:
    """Rows of the tables that a model fills: its own, and one for each part of it."""
    return [name, *(f"{name}_{part}" for part in model.parts)]


def _is_baseline(row: str, name: str, model: CellEstimator) -> bool:
    """Whatever is no network of ours: other models, and the linear part of ours."""
    return not isinstance(model, ScBERTEstimator) or row == f"{name}_linear"


def _no_twins(task: _Task, parts: Sequence[folds.Fold]) -> None:
    """No expression profile may be on both sides of a fold."""
    twins = pd.factorize(leakage_duplicates.profile_hashes(task.counts))[0]
    for fold in parts:
        shared = np.intersect1d(twins[fold.train], twins[fold.test])
        if len(shared):
            names = task.cells.obs_names[np.isin(twins, shared)]
            raise ValueError(
                f"{len(names)} cells have the same counts as another one on the other side of "
                f"a fold ({listed(names)}): "
                "copies of a cell in training and test make any model look good. Remove them; "
                "tl.leakage_audit lists them."
            )


def _predict_all(
    task: _Task,
    models: Mapping[str, CellEstimator],
    parts: Sequence[folds.Fold],
    n_repeats: int,
    store: FoldStore,
    seed: int,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Out-of-fold probabilities (repeats, cells, classes) of every model, and its mean seconds per fold."""
    shape = (n_repeats, len(task.codes), len(task.classes))
    proba = {
        row: np.full(shape, np.nan, np.float32)
        for name, model in models.items()
        for row in _rows(name, model)
    }
    seconds = dict.fromkeys(models, 0.0)
    counts = task.counts
    protein = np.asarray(task.cells.obsm.get(_PROTEIN, np.zeros(0)))
    data = fingerprint(
        counts.data, counts.indices, counts.indptr, list(task.cells.var_names), protein
    )
    with Bar(total=len(parts) * len(models), unit="fit", disable=None) as bar:
        for fold in parts:
            own = int(
                np.random.SeedSequence([seed, fold.repeat, fold.fold]).generate_state(1)[0] % 2**31
            )
            for name, model in models.items():
                bar.set_description(f"{name}, repeat {fold.repeat + 1}, fold {fold.fold + 1}")
                done = _predict_fold(task, name, seeded(model, own), fold, store, data)
                for row, part in zip(_rows(name, model), done.proba, strict=True):
                    proba[row][fold.repeat, fold.test] = part
                seconds[name] += done.seconds / len(parts)
                bar.update()
    return proba, seconds


def _predict_fold(
    task: _Task, name: str, model: CellEstimator, fold: folds.Fold, store: FoldStore, data: str
) -> Done:
    """Fit to the training part, predict the test part; or take both over from an earlier run."""
    key = fingerprint(
        data,
        task.codes[fold.train],
        fold.train,
        fold.test,
        _donors(task, fold.train),
        model,
        _VERSION,
    )
    shape = (len(_rows(name, model)), len(fold.test), len(task.classes))
    if (
        (found := store.load(name, key)) is not None
        and found.proba.shape == shape
        and np.isfinite(found.proba).all()
    ):
        return found
    start = time.perf_counter()
    with _told(name, fold), calm(), as_it_was():  # whoever's model it is
        train, y, groups = task.train(fold.train)
        test = task.cells[fold.test].copy()
        test.obsm.clear()
        test.obs_names = [f"cell{i}" for i in range(test.n_obs)]  # a name may tell its donor
        fitted = model.fit(train, y, groups)
        proba = np.zeros(shape, np.float32)
        proba[:, :, [task.classes.index(str(c)) for c in fitted.classes_]] = fitted.predict_parts(
            test
        )
        _finite.probabilities(proba, type(model).__name__)
    done = Done(proba, time.perf_counter() - start)
    store.save(name, key, done)
    return done


def _donors(task: _Task, rows: np.ndarray) -> list[str] | None:
    return None if task.groups is None else task.groups[rows].tolist()


@contextmanager
def _told(name: str, fold: folds.Fold) -> Iterator[None]:
    """Say which model and fold an error came from."""
    try:
        yield
    except Exception as error:
        error.add_note(
            f"While cross-validating {name!r}, repeat {fold.repeat + 1}, fold {fold.fold + 1}."
        )
        raise


def _fold_table(task: _Task, parts: Sequence[folds.Fold]) -> pd.DataFrame:
    """Who trained and who was tested in each fold."""
    rows = []
    for fold in parts:
        tested, trained = (
            set() if (d := _donors(task, r)) is None else set(d) for r in (fold.test, fold.train)
        )
        labelled = fold.train[task.codes[fold.train] >= 0]
        absent = [c for i, c in enumerate(task.classes) if not (task.codes[labelled] == i).any()]
        rows.append(
            {
                "repeat": fold.repeat,
                "fold": fold.fold,
                "test_donors": ", ".join(sorted(tested)),
                "n_train_donors": len(trained),
                "n_test_donors": len(tested),
                "n_train": len(labelled),
                "n_test": len(fold.test),
                "note": f"no training cell of {listed(absent)}" if absent else "",
            }
        )
    return pd.DataFrame(rows).rename(index=str)


def _write(
    adata: AnnData, task: _Task, proba: Mapping[str, np.ndarray], record: dict[str, Any], key: str
) -> None:
    columns = {
        (name, repeat, label): values[repeat, :, i]
        for name, values in proba.items()
        for repeat in range(len(values))
        for i, label in enumerate(task.classes)
    }
    classes = pd.Index(task.classes)
    calls = {}
    for name, values in proba.items():
        best = np.where(task.codes >= 0, values.mean(0).argmax(1), -1)
        calls[name] = pd.Categorical.from_codes(best, classes, ordered=task.ordered)
    table = pd.DataFrame(dict(enumerate(columns.values())), index=adata.obs_names)
    table = table.set_axis(_names.columns_of(*zip(*columns, strict=True)), axis=1)
    tables = {f"{key}_proba": table, f"{key}_pred": pd.DataFrame(calls, index=adata.obs_names)}
    _record.write(adata, obsm=tables, uns={key: record})
