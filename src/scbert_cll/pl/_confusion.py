"""pl.confusion: what was predicted for which label."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from sklearn.metrics import confusion_matrix

from scbert_cll import _keys, get
from scbert_cll._checks import people
from scbert_cll.pl import _evaluation, _style

_PARTS: Final = ("training cells", "validation cells", "test cells")
_CELLS: Final = dict(zip(_keys.SPLIT_ORDER, _PARTS, strict=True))


@_style.plot
def confusion(
    adata: AnnData,
    *,
    labels_key: str = _keys.CD49D,
    pred_key: str = _keys.PRED,
    split_key: str = _keys.SPLIT,
    split: str | None = _keys.TEST,
    donor_key: str | None = _keys.DONOR,
    model: str | None = None,
    key: str = _keys.CV,
    normalize: bool = True,
    cmap: str = "cividis",
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> _style.Drawn:
    """Draw predicted classes against labels, for cells of held-out donors.

    Each field holds the number of cells and their share of the row, that is of the cells with this
    label; the shares on the diagonal are the recalls. Cells without a label are left out, and
    counted in the title.

    Parameters
    ----------
    adata
        Cells × genes with labels and predictions.
    labels_key
        `obs` column of the labels.
    pred_key
        `obs` column of the predicted classes.
    split_key
        `obs` column of the split.
    split
        Part to draw. None draws all cells, those trained on among them.
    donor_key
        `obs` column of donors, to say in the title how many there are. None says nothing of them.
    model
        Model of :func:`scbert_cll.tl.cross_validate` whose out-of-fold predictions to draw: each
        cell's class by models that have not seen it, the most probable one on average over the
        repeats. Labels and donors are then those of the cross-validation, all labelled cells are
        drawn, and `labels_key`, `pred_key`, `split_key`, `split` and `donor_key` are not used.
    %(key tl.cross_validate)s
    normalize
        Colour by the share of the row, and write it; otherwise counts alone.
    cmap
        Matplotlib colour map.
    %(figsize)s
    %(ax)s
    %(show)s

    Returns
    -------
    %(drawn)s

    Raises
    ------
    KeyError
        A column, or the model, is missing.
    ValueError
        No cell of this part has a label.
    """
    if model is None:
        columns = {"labels_key": labels_key, "pred_key": pred_key}
        table = get.predictions(adata, split_key=split_key, split=split, **columns)
        donors = None
        if (donor_key := people.donor_key_of(adata, donor_key)) is not None:
            donors = people.donors(adata, donor_key, allow_missing=True)
        how = "training cells among them" if split is None else ""
    else:
        table = _evaluation.averaged(adata, model, key).reindex(adata.obs_names)
        split, donors = None, table.get("donor")
        how = f"out of fold: {_style.middle_cut(model)}"
    usable = table["label"].notna() & table["pred"].notna()
    if not usable.any():
        raise ValueError(
            f"None of the {len(table)} {_CELLS.get(split or '', 'cells')} has a label in "
            f"adata.obs[{labels_key!r}] and a prediction in adata.obs[{pred_key!r}]."
        )
    counts = _counts(table[usable])
    side = 1.3 + 0.48 * max(counts.shape) + 0.04 * max(map(len, counts.columns))
    [ax] = _style.panels(ax, figsize, (max(3.0, side + 0.6), max(2.4, side)))
    _fields(ax, counts, normalize=normalize, cmap=cmap)
    title = f"{int(usable.sum()):,} {_CELLS.get(split or '', 'cells')}"
    if donors is not None:
        n = donors[table.index[usable]].dropna().nunique()
        title += f" of {n} donor{'s' * (n != 1)}"
    n_without = int((~usable).sum())
    without = f"{n_without:,} unlabelled left out" * bool(n_without)
    ax.set_title("\n".join(filter(None, [title, how, without])))
    return ax


def _counts(table: pd.DataFrame) -> pd.DataFrame:
    """Cells by label and prediction in the order of the labels, classes only predicted last."""
    both = [table["label"], table["pred"]]
    label, pred = map(people.class_names, both)
    rows, predicted = map(people.class_order, both)
    order = people.class_order(table["label"], unused=True)
    columns = [name for name in order if name in rows or name in predicted]
    columns += [name for name in predicted if name not in order]
    counts = confusion_matrix(label, pred, labels=columns)
    return pd.DataFrame(counts, columns, columns).loc[rows]


def _fields(ax: Axes, counts: pd.DataFrame, *, normalize: bool, cmap: str) -> None:
    """Coloured fields with numbers that can be read on them."""
    values = counts.to_numpy()
    share = values / values.sum(axis=1, keepdims=True)
    shown, most = (share, 1) if normalize else (values, None)
    image = ax.imshow(shown, cmap=cmap, vmin=0, vmax=most, aspect="auto")
    for (i, j), n in np.ndenumerate(values):
        text = f"{n:,}\n{share[i, j]:.0%}" if normalize else f"{n:,}"
        red, green, blue, _ = image.to_rgba(shown[i, j])
        color = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"
        ax.text(j, i, text, ha="center", va="center", fontsize=7, color=color)
    steep = len(counts.columns) > 3 or max(map(len, counts.columns)) > 10
    names = [_style.shortened(name) for name in counts.columns]
    ax.set_xticks(range(len(names)), names)
    ax.tick_params(axis="x", rotation=45 if steep else 0, length=0)
    side, turned = ("right", "anchor") if steep else ("center", "default")
    for tick in ax.get_xticklabels():
        tick.set(ha=side, rotation_mode=turned)
    sums = zip(counts.index, values.sum(axis=1), strict=True)
    rows = [f"{_style.shortened(name)}\n(n = {n:,})" for name, n in sums]
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(axis="y", length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlabel="predicted", ylabel="label")
