"""Tidy tables out of an AnnData: sorted and filtered; nothing is computed but a difference."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys
from scbert_cll._evaluation.metrics import LOWER_IS_BETTER

__all__ = ["donor_table", "evaluation", "gene_attention", "out_of_fold", "predictions"]

REST = "rest"


def gene_attention(
    adata: AnnData,
    *,
    group: str | Iterable[str] | None = None,
    reference: str = REST,
    key: str = _keys.GENE_ATTENTION,
    n_top: int | None = None,
    exclude: str | Iterable[str] = (),
    sort_by: Literal["difference", "attention"] = "difference",
) -> pd.DataFrame:
    """Attention the genes receive in each group, beside a reference.

    Attention follows abundance: most of the genes first in a group by attention are first in every group. What sets a
    group apart is the difference to the others, by which the table is sorted. It is a description of the network's
    input and weights, without a test: no number here says that a gene matters.

    Parameters
    ----------
    adata
        Cells × genes after :func:`scbert_cll.tl.gene_attention`.
    group
        Group or groups to list. By default all but the reference.
    reference
        Group to compare with. ``"rest"`` is the mean over the other groups, each counted once.
    key
        Name under which ``tl.gene_attention`` wrote.
    n_top
        Number of genes per group. By default all.
    exclude
        Genes to leave out: names, or a regular expression (``r"^(MT-|RP[LS]|IG[HKL])"``). Ranks are those of the genes left.
    sort_by
        ``"difference"``, largest first, or ``"attention"``.

    Returns
    -------
    One row per group and gene, with ``group``, ``gene``, ``attention`` (share of the group's total), ``reference`` (the same
    in the reference), ``difference`` of the two and ``rank`` within the group, from 1. With one group only, ``reference``
    and ``difference`` are missing and the table can be sorted by attention.

    Raises
    ------
    KeyError
        There is no such result or group.
    ValueError
        A difference is asked of a single group, or a group is compared with itself.

    Examples
    --------
    >>> import anndata, pandas as pd, scbert_cll
    >>> adata = anndata.AnnData(var=pd.DataFrame(index=["MALAT1", "LPL", "IL4R"]), obs=pd.DataFrame(index=["cell"]))
    >>> adata.varm["gene_attention"] = pd.DataFrame({"low": [0.6, 0.1, 0.3], "high": [0.6, 0.3, 0.1]}, adata.var_names)
    >>> scbert_cll.get.gene_attention(adata, group="high", n_top=1)[["group", "gene", "attention", "reference"]]
      group gene  attention  reference
    0  high  LPL        0.3        0.1
    """
    _checks.choice(sort_by, ("difference", "attention"), "sort_by")
    if n_top is not None:
        _checks.at_least(n_top, 1, "n_top")
    table = _attention(adata, key)
    groups = _groups(table, group, reference, key)
    if sort_by == "difference" and table.shape[1] < 2:
        raise ValueError(
            f"adata.varm[{key!r}] has one group, {table.columns[0]!r}: there is no other to take the difference to. "
            "Pass sort_by='attention', or run tl.gene_attention with a groupby of two groups or more."
        )
    table = table[~_excluded(table.index, exclude)]
    parts = [_compare(table, name, reference, sort_by).head(n_top or len(table)) for name in groups]
    return pd.concat(parts, ignore_index=True)


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
        `obs` column of the predicted classes. Score and probabilities are those of the same name, where they exist:
        ``scbert_pred`` goes with ``scbert_score`` and ``scbert_proba``.
    split_key
        `obs` column of the split; listed where it exists.
    split
        Only these cells: ``"train"``, ``"val"`` or ``"test"``. By default all cells, those trained on among them.

    Returns
    -------
    DataFrame by cell, with ``split`` and ``label`` where there are such, ``pred``, ``score`` (largest probability) and one
    ``proba_<class>`` per class.

    Raises
    ------
    KeyError
        A column is missing; those that exist are listed.
    ValueError
        No cell is in `split`.
    """
    obs = cast("pd.DataFrame", _checks.anndata(adata).obs)
    _checks.key_in(pred_key, obs, "adata.obs", "Run tl.finetune or tl.predict first.")
    if split is not None:
        _checks.split(adata, split_key, need=(split,))
    stem = pred_key.removesuffix("_pred")
    columns = {"split": split_key, "label": labels_key, "pred": pred_key, "score": f"{stem}_score"}
    if labels_key is not None:
        _checks.key_in(labels_key, obs, "adata.obs")
    table = pd.DataFrame({name: obs[key] for name, key in columns.items() if key in obs}, obs.index).rename_axis("cell")
    proba = adata.obsm.get(f"{stem}_proba")
    if isinstance(proba, pd.DataFrame):
        table = table.join(proba.add_prefix("proba_"))
    return table if split is None else table[table["split"] == split]


def evaluation(
    adata: AnnData,
    *,
    table: str = "summary",
    key: str = _keys.CV,
    metric: str | Iterable[str] | None = None,
    model: str | Iterable[str] | None = None,
) -> pd.DataFrame:
    """One of the tables that ``tl.cross_validate`` wrote.

    Parameters
    ----------
    adata
        Cells × genes after :func:`scbert_cll.tl.cross_validate`.
    table
        ``"summary"`` (models × metrics with 95 % intervals), ``"scores"`` (of each repeat), ``"differences"`` (to the best
        baseline), ``"per_class"``, ``"donors"``, ``"agreement"`` (of the donors' 30 % call), ``"reliability"``,
        ``"folds"`` or ``"seconds"``.
    key
        Name under which ``tl.cross_validate`` wrote.
    metric
        Only this metric or these metrics.
    model
        Only this model or these models.

    Returns
    -------
    A copy of ``adata.uns[key][table]``, or the rows of it asked for. The summary has the best model of each metric first,
    and those for which it is undefined last.

    Raises
    ------
    KeyError
        There is no such result, table, metric or model; what there is is listed.
    ValueError
        The table is not by metric or not by model.
    """
    held = _evaluated(adata, key)
    where = f"adata.uns[{key!r}]"
    tables = {name: value for name, value in held.items() if isinstance(value, pd.DataFrame)}
    _checks.key_in(table, tables, where)
    found = tables[table].copy()
    for column, asked in (("metric", metric), ("model", model)):
        found = _only(found, column, asked, f"{where}[{table!r}]")
    return (_best_first(found) if table == "summary" else found).reset_index(drop=True)


def out_of_fold(
    adata: AnnData, *, model: str | Iterable[str] | None = None, repeat: int | None = None, key: str = _keys.CV
) -> pd.DataFrame:
    """Prediction of each labelled cell by models that have not seen it.

    What ``tl.cross_validate`` wrote, one row per model, repeat and cell: with several models or repeats a cell has several
    rows.

    Parameters
    ----------
    adata
        Cells × genes after :func:`scbert_cll.tl.cross_validate`.
    model
        Only this model or these models.
    repeat
        Only this repeat, from 0.
    key
        Name under which ``tl.cross_validate`` wrote.

    Returns
    -------
    DataFrame by cell, with ``donor`` where donors are known, ``label``, ``model``, ``repeat``, ``pred`` (the most probable
    class of this repeat) and one ``proba_<class>`` per class. Cells without a label are not in it.

    Raises
    ------
    KeyError
        There is no such result, model or repeat; what there is is listed.
    """
    held = _evaluated(adata, key)
    _checks.key_in(f"{key}_proba", adata.obsm, "adata.obsm", "Run tl.cross_validate first.")
    proba = cast("pd.DataFrame", adata.obsm[f"{key}_proba"])
    runs = list(dict.fromkeys(tuple(str(column).split("|", 2)[:2]) for column in proba.columns))
    models, repeats = dict.fromkeys(name for name, _ in runs), dict.fromkeys(int(number) for _, number in runs)
    where = f"adata.obsm['{key}_proba']"
    asked = list(models) if model is None else [model] if isinstance(model, str) else list(model)
    for name in asked:
        _checks.key_in(name, models, f"the models of {where}")
    if repeat is not None and repeat not in repeats:
        raise KeyError(f"Repeat {repeat} is not in {where}; it has {_checks.listed(repeats, 12)}.")
    classes = pd.CategoricalDtype([str(name) for name in held["classes"]], ordered=bool(held.get("ordered", False)))
    cells = _tested(adata, held["params"], classes)
    wanted = [(name, n) for name in asked for n in repeats if (name, str(n)) in runs and repeat in (None, n)]
    return pd.concat([_run(proba, cells, name, n, classes) for name, n in wanted])


def donor_table(adata: AnnData, *, key: str = _keys.CD49D) -> pd.DataFrame:
    """What ``pp.label_cd49d`` found in each donor.

    Parameters
    ----------
    adata
        Cells × genes after :func:`scbert_cll.pp.label_cd49d` with a ``donor_key``.
    key
        Name under which it wrote.

    Returns
    -------
    A copy of ``adata.uns[key]["donors"]``: one row per donor, with the number of gated cells, the percentage of positive
    ones, whether the donor is bimodal and its clinical class; the largest percentage first.

    Raises
    ------
    KeyError
        There is no such result, or it was made without donors.
    """
    _checks.anndata(adata)
    _checks.key_in(key, adata.uns, "adata.uns", "Run pp.label_cd49d first.")
    where = f"adata.uns[{key!r}]"
    _checks.key_in("donors", adata.uns[key], where, "Run pp.label_cd49d with donor_key= to get a donor table.")
    table: pd.DataFrame = adata.uns[key]["donors"]
    return table.sort_values("pct_positive", ascending=False, kind="stable")


def _attention(adata: AnnData, key: str) -> pd.DataFrame:
    """The genes × groups table that `tl.gene_attention` wrote."""
    _checks.anndata(adata)
    _checks.key_in(key, adata.varm, "adata.varm", "Run tl.gene_attention first.")
    table = adata.varm[key]
    if not isinstance(table, pd.DataFrame):
        raise ValueError(
            f"adata.varm[{key!r}] must be a DataFrame of genes × groups, as tl.gene_attention writes it; "
            f"found {type(table).__name__}."
        )
    return table.set_axis(table.columns.astype(str), axis=1)


def _groups(table: pd.DataFrame, group: str | Iterable[str] | None, reference: str, key: str) -> list[str]:
    """Groups to list: those asked for, by default all but the reference; all must exist."""
    asked = [group] if isinstance(group, str) else group
    groups = [name for name in table.columns if name != reference] if asked is None else list(asked)
    for name in [*groups, *([] if reference == REST else [reference])]:
        _checks.key_in(name, table, f"adata.varm[{key!r}]", "These are the groups of tl.gene_attention's groupby.")
    if reference in groups:
        raise ValueError(
            f"Group {reference!r} is its own reference; leave it out of group= or choose another reference."
        )
    return groups


def _excluded(genes: pd.Index, exclude: str | Iterable[str]) -> np.ndarray:
    """Which genes to leave out; names that do not occur are no error, so that one list can serve many data sets."""
    if isinstance(exclude, str):
        pattern = re.compile(exclude)
        return np.array([pattern.search(gene) is not None for gene in genes], dtype=bool)
    return genes.isin(list(exclude))


def _compare(table: pd.DataFrame, group: str, reference: str, sort_by: str) -> pd.DataFrame:
    """One group's rows, sorted and ranked."""
    other = table.drop(columns=group).mean(axis=1) if reference == REST else table[reference]
    columns = {"attention": table[group], "reference": other, "difference": table[group] - other}
    rows = pd.DataFrame(columns).rename_axis("gene").reset_index()
    rows = rows.sort_values(sort_by, ascending=False, kind="stable", ignore_index=True)
    rows.insert(0, "group", group)
    return rows.assign(rank=range(1, len(rows) + 1))


def _evaluated(adata: AnnData, key: str) -> Mapping[str, Any]:
    """What `tl.cross_validate` wrote into `uns`."""
    _checks.anndata(adata)
    _checks.key_in(key, adata.uns, "adata.uns", "Run tl.cross_validate first.")
    return cast("Mapping[str, Any]", adata.uns[key])


def _only(table: pd.DataFrame, column: str, asked: str | Iterable[str] | None, where: str) -> pd.DataFrame:
    """The rows asked for."""
    if asked is None:
        return table
    if column not in table:
        raise ValueError(
            f"{where} is not by {column}; leave {column}= out. Its columns are {_checks.listed(table.columns, 20)}."
        )
    names = [asked] if isinstance(asked, str) else list(asked)
    there = dict.fromkeys(table[column].astype(str))
    for name in names:
        _checks.key_in(name, there, f"the column {column!r} of {where}")
    return table[table[column].isin(names)]


def _best_first(summary: pd.DataFrame) -> pd.DataFrame:
    """Metrics in their order, models of each from best to worst; undefined last."""
    order = {name: i for i, name in enumerate(dict.fromkeys(summary["metric"]))}
    lower = summary["metric"].isin(list(LOWER_IS_BETTER))
    rank = summary["estimate"].where(lower, -summary["estimate"])
    keys = pd.DataFrame({"metric": summary["metric"].map(order).astype(int), "rank": rank}, summary.index)
    return summary.loc[keys.sort_values(["metric", "rank"], kind="stable").index]


def _tested(adata: AnnData, params: Mapping[str, Any], classes: pd.CategoricalDtype) -> pd.DataFrame:
    """Donor, where known, and label of every cell."""
    columns = {"donor": params.get("donor_key"), "label": params["labels_key"]}
    found = {name: _checks.obs_column(adata, key) for name, key in columns.items() if key not in (None, "none")}
    found["label"] = found["label"].astype(object).map(str, na_action="ignore").astype(classes)
    return pd.DataFrame(found, adata.obs_names).rename_axis("cell")


def _run(
    proba: pd.DataFrame, cells: pd.DataFrame, model: str, repeat: int, classes: pd.CategoricalDtype
) -> pd.DataFrame:
    """One model's predictions in one repeat, of the cells it was tested on."""
    own = [column for column in proba.columns if column.startswith(f"{model}|{repeat}|")]  # in the classes' order
    values = proba[own].set_axis([f"proba_{name}" for name in classes.categories], axis=1)
    tested = values.notna().all(axis=1).to_numpy()
    pred = pd.Categorical.from_codes(values[tested].to_numpy().argmax(axis=1), dtype=classes)
    return cells[tested].assign(model=model, repeat=repeat, pred=pred).join(values)
