"""get.predictions and get.donor_table: the classes of cells and of donors."""

from __future__ import annotations

from typing import cast

import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys, _names, _record
from scbert_cll._checks.words import key_in


def predictions(
    adata: AnnData,
    *,
    labels_key: str | None = None,
    pred_key: str = _keys.PRED,
    split_key: str = _keys.SPLIT,
    split: str | None = None,
) -> pd.DataFrame:
    """Predicted class of each cell, beside its label.

    What ``tl.finetune`` and ``tl.predict`` wrote, one row per cell in the order of the cells.

    Parameters
    ----------
    adata
        Cells × genes with predictions.
    labels_key
        `obs` column of the labels to put beside the predictions.
    pred_key
        `obs` column of the predicted classes. Score and probabilities are those of the same name,
        where they exist: ``scbert_pred`` goes with ``scbert_score`` and ``scbert_proba``.
    split_key
        `obs` column of the split; listed where it exists.
    split
        Only these cells: ``"train"``, ``"val"`` or ``"test"``. By default all cells, those trained
        on among them.

    Returns
    -------
    DataFrame by cell, with ``split`` and ``label`` where there are such, ``pred``, ``score``
    (largest probability) and one ``proba_<class>`` per class.

    Raises
    ------
    KeyError
        A column is missing; those that exist are listed.
    ValueError
        No cell is in `split`.
    """
    obs = cast("pd.DataFrame", _checks.adata.anndata(adata).obs)
    key_in(pred_key, obs, "adata.obs", "Run tl.finetune or tl.predict first.")
    if split is not None:
        _checks.adata.split(adata, split_key, need=(split,))
    stem = pred_key.removesuffix(_keys.beside("", "pred"))
    columns = {"split": split_key, "label": labels_key, "pred": pred_key}
    columns["score"] = _keys.beside(stem, "score")
    if labels_key is not None:
        key_in(labels_key, obs, "adata.obs")
    table = pd.DataFrame(
        {name: obs[key] for name, key in columns.items() if key in obs}, obs.index
    ).rename_axis("cell")
    proba = adata.obsm.get(_keys.beside(stem, "proba"))
    if isinstance(proba, pd.DataFrame):
        table = table.join(_names.own_columns(proba, adata.uns).add_prefix("proba_"))
    return table if split is None else table[table["split"] == split]


def donor_table(adata: AnnData, *, key: str = _keys.CD49D) -> pd.DataFrame:
    """Cells, percentage of positive ones and class of each donor, as ``pp.label_cd49d`` wrote them.

    Parameters
    ----------
    adata
        Cells × genes after :func:`scbert_cll.pp.label_cd49d` with a ``donor_key``.
    key
        Name under which it wrote.

    Returns
    -------
    A copy of ``adata.uns[key]["donors"]``: one row per donor, with the number of gated cells, the
    percentage of positive ones, whether the donor is bimodal and its clinical class; the largest
    percentage first.

    Raises
    ------
    KeyError
        There is no such result, or it was made without donors.
    """
    remedy = "Run pp.label_cd49d with donor_key= to get a donor table."
    record = _record.read(adata, key, "pp.label_cd49d", ["donors"], missing=remedy)
    table: pd.DataFrame = record["donors"]
    return table.sort_values("pct_positive", ascending=False, kind="stable")
