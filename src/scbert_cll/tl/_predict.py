"""tl.predict: classes of new cells."""

from __future__ import annotations

from anndata import AnnData

from scbert_cll import _checks, _keys
from scbert_cll.model import ScBERTClassifier
from scbert_cll.tl import _write


def predict(
    adata: AnnData,
    model: ScBERTClassifier,
    *,
    unassigned_below: float | None = None,
    batch_size: int | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Predict the class of each cell. Labels are never read; a cell's result does not depend on the other cells.

    Genes are matched by name, so their order does not matter. Bring new counts to the model's genes with
    :func:`~scbert_cll.pp.align_genes` and bin them the same way (``edges=model.binning``) before.

    Parameters
    ----------
    adata
        Cells × genes with the layer the model was trained on.
    model
        A trained classifier, e.g. ``ScBERTClassifier.load("model")``.
    unassigned_below
        Call a cell ``"unassigned"`` when its largest probability is below this (0 to 1).
    batch_size
        Cells at a time; affects speed and memory, not results.
    copy
        Return a new object instead of writing to `adata`.

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
    ``adata.uns['scbert']`` : dict
        Parameters, network and version.

    Raises
    ------
    KeyError
        The layer is missing.
    ValueError
        Fewer than half of the model's genes are present, or the layer was binned in another way.
    RuntimeError
        The model has not been trained.
    """
    _checks.anndata(adata)
    _checks.is_model(model, ("ScBERTClassifier",))
    if unassigned_below is not None:
        _checks.share(unassigned_below, "unassigned_below")
    target = _checks.target(adata, copy=copy)
    found = model.predict_parts(adata, batch_size=batch_size)
    _write.predictions(target, model, found, unassigned_below=unassigned_below)
    target.uns[_keys.SCBERT] = _write.record(model, labels_key=model.labels_key, unassigned_below=unassigned_below)
    return target if copy else None
