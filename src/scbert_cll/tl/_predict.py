"""tl.predict: classes of new cells."""

from __future__ import annotations

from anndata import AnnData

from scbert_cll import _checks, _docs, _keys, _record
from scbert_cll._checks.words import is_model, share
from scbert_cll.model import ScBERTClassifier
from scbert_cll.model._named import named_as
from scbert_cll.tl import _write


@_docs.shared
def predict(
    adata: AnnData,
    model: ScBERTClassifier,
    *,
    unassigned_below: float | None = None,
    batch_size: int | None = None,
    key_added: str = _keys.SCBERT,
    copy: bool = False,
) -> AnnData | None:
    """Predict the class of each cell.

    Labels are never read; a cell's result does not depend on the other cells.

    Genes are matched by name, so their order does not matter; under former or other symbols,
    Ensembl ids, or in a column such as ``feature_name`` they are found as
    :func:`~scbert_cll.pp.align_genes` finds them. Bring new counts to the model's genes with that
    and bin them the same way (``edges=model.binning``) before: a cell's tokens depend on the total
    of its genes, and those of other genes are refused.

    Parameters
    ----------
    %(adata_as_trained)s
    model
        A trained classifier, e.g. ``ScBERTClassifier.load("model")``.
    unassigned_below
        Call a cell ``"unassigned"`` when its largest probability is below this (0 to 1). A class
        may be called so, too; a warning says it.
    %(batch_size)s
    key_added
        In place of ``scbert`` in the names of the results, so that those of two models stand side
        by side: with ``"other"`` ``other_pred``, ``other_score``, ``other_proba``, ``X_other``,
        ``other_predict``, and ``other_linear_proba``. :func:`get.predictions
        <scbert_cll.get.predictions>` then takes ``pred_key="other_pred"``.
    %(copy)s

    Returns
    -------
    None, or with `copy` the new object, which then holds:

    ``adata.obs['scbert_pred']`` : categorical
        Most probable class.
    ``adata.obs['scbert_score']`` : float32
        Its probability.
    ``adata.obsm['scbert_proba']`` : DataFrame (cells × classes), float32
        Probability of every class.
    ``adata.obsm['linear_proba']`` : DataFrame (cells × classes), float32
        The same of the logistic regression beside the network.
    ``adata.obsm['X_scbert']`` : float32 array (cells, n_hidden)
        Mean of a cell's refined tokens.
    ``adata.uns['scbert_predict']`` : dict
        Parameters, network, version and training history of the model; ``n_genes_missing`` and
        ``n_genes_renamed`` genes of the model (not in the data, and there under another name),
        ``named_by`` (the column of `var` with the names, or ``index``) and ``tokens_renamed``
        (share of the tokens above bin 0 that are those genes'). What
        :func:`~scbert_cll.tl.finetune` wrote to ``adata.uns['scbert']`` stays.

    Columns of the tables are the classes, with what no file can hold in a name written as in
    ``T%2FNK``; :func:`get.predictions <scbert_cll.get.predictions>` gives the classes' own names.

    Raises
    ------
    KeyError
        The layer is missing.
    ValueError
        Fewer than half of the model's genes are present, symbols and Ensembl ids are mixed, or the
        layer was binned in another way or with other genes.
        Weights of the model are not finite.
    RuntimeError
        The model has not been trained.
    """
    params = _record.params(locals())
    _checks.adata.anndata(adata)
    is_model(model, ("ScBERTClassifier",))
    slots = _write.Slots.of(key_added)
    slots.check(model.layer)
    if unassigned_below is not None:
        share(unassigned_below, "unassigned_below")
        _checks.people.warn_of_a_class_called_unassigned(model.classes)
    target = _checks.adata.target(adata, copy=copy)
    named = named_as(model, adata)
    parts = model.predict_parts(named.adata, batch_size=batch_size)
    record = _write.record(model, params | {"labels_key": model.labels_key}) | named.record
    results = _write.predictions(model, parts, slots, unassigned_below)
    old = [("obsm", slots.linear_proba)]
    _record.write(target, **results, uns={slots.predict: record}, replaces=old)
    return target if copy else None
