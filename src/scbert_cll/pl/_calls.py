"""pl.confusion and pl.donor_agreement: predicted against observed, of cells and of donors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Final, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox, BboxBase
from sklearn.metrics import confusion_matrix

from scbert_cll import _keys, get
from scbert_cll._checks import people
from scbert_cll.pl import _evaluation, _style

_PARTS: Final = ("training cells", "validation cells", "test cells")
_CELLS: Final = dict(zip(_keys.SPLIT_ORDER, _PARTS, strict=True))
_SHOWN: Final = 2
_NAMED_DONORS: Final = 12
_SAME, _OTHER = (_style.BLUE, "o"), (_style.RED, "D")
# places of a name around its donor, in points; those further away get a line to it
_AROUND: Final = ((1, 0), (-1, 0), (0, 1), (0, -1), *product((0.7, -0.7), repeat=2))
_DISTANCES: Final = (5, 8, 12, 18, 25, 33)
_PLACES: Final = [(r, r * x, r * y) for r, (x, y) in product(_DISTANCES, _AROUND)]
_NEAR: Final = 5
_LOW, _HIGH = -4, 104  # percent, with room for a point at the edge


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
    _matrix(ax, counts, normalize=normalize, cmap=cmap)
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


def _matrix(ax: Axes, counts: pd.DataFrame, *, normalize: bool, cmap: str) -> None:
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
    turned: _style.Look = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(range(len(names)), names, **turned if steep else {})
    sums = zip(counts.index, values.sum(axis=1), strict=True)
    rows = [f"{_style.shortened(name)}\n(n = {n:,})" for name, n in sums]
    ax.set_yticks(range(len(rows)), rows)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlabel="predicted", ylabel="label")


@_style.plot
def donor_agreement(
    adata: AnnData,
    *,
    model: str | Sequence[str] | None = None,
    key: str = _keys.CV,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> _style.Drawn:
    """Draw the predicted against the observed percentage of positive cells, a point per donor.

    A donor is called positive from 30 % of the cells on, as in the clinic; the lines are drawn
    there. In the shaded fields the call from predictions is not the call from the labels. Bars:
    Wilson's 95 % interval of the observed percentage, and the range over repeats of the predicted
    one. The title gives the share of donors with the same call, its Clopper-Pearson 95 % interval,
    the mean absolute error in percentage points, and Spearman's ρ over the donors.

    Parameters
    ----------
    adata
        Cells × genes after :func:`scbert_cll.tl.cross_validate` with a ``donor_key``.
    model
        Model or models to draw, a panel each. By default the best own model and the best baseline.
    %(key tl.cross_validate)s
    figsize
        Width and height of the figure in inches. Narrow figures have the panels under each other.
    %(ax_of_one model)s
    %(show)s

    Returns
    -------
    %(drawn_of_several models)s

    Raises
    ------
    KeyError
        There is no such result or model; what there is is listed.
    ValueError
        Donors are not known, or `ax` is given for several models.
    """
    names = _evaluation.chosen(adata, key, model, _SHOWN, "macro_f1")
    donors = get.evaluation(adata, "donors", key=key)
    if donors.empty:
        raise ValueError(
            f"adata.uns[{key!r}]['donors'] is empty: run tl.cross_validate with donor_key=."
        )
    agreement = get.evaluation(adata, "agreement", key=key).set_index("model")
    n = len(names)
    columns = min(n, 3 if figsize is None else max(1, int(figsize[0] // 2)))
    size = (max(3.3, 2.3 * columns), 2.9 * -(-n // columns))
    axes = _style.panels(ax, figsize, size, n, ("model", "model"), n_columns=columns)
    positive = _style.shortened(str(adata.uns[key]["classes"][-1]), 16)
    limit = float(adata.uns[key]["params"].get("positive_from", 30))
    by_model = dict(tuple(donors.groupby("model")))
    for panel, name in zip(axes, names, strict=True):
        _fields(panel, limit, positive)
        _points(panel, by_model[name])
        panel.set_title(_title(name, cast("pd.Series[float]", agreement.loc[name])))
    _style.lay_out(axes[0])  # only now it is known where a name has room
    for panel, name in zip(axes, names, strict=True):
        _names(panel, by_model[name], limit)
    return axes


def _fields(ax: Axes, limit: float, positive: str) -> None:
    """Four fields, those shaded in which the calls differ."""
    for x, y in ((_LOW, limit), (limit, _LOW)):
        width, height = (limit - _LOW if at < limit else _HIGH - limit for at in (x, y))
        look: _style.Look = {"facecolor": _style.RED, "alpha": 0.1, "linewidth": 0}
        ax.add_patch(Rectangle((x, y), width, height, zorder=0, **look))
    ax.axline((0, 0), (1, 1), color=_style.GREY, linewidth=0.7, linestyle=":", zorder=1)
    for line in (ax.axhline, ax.axvline):
        line(limit, color=_style.GREY, linewidth=0.9, linestyle="--", zorder=1)
    ticks = [0, int(limit), 50, 75, 100]
    ax.set(xlim=(_LOW, _HIGH), ylim=(_LOW, _HIGH), xticks=ticks, yticks=ticks)
    ax.set_xlabel(f"observed {positive} cells, %")
    ax.set_ylabel(f"predicted {positive} cells, %")


def _points(ax: Axes, donors: pd.DataFrame) -> None:
    """Donors with their intervals; colour and marker say whether the calls are the same."""
    same = (donors["observed_call"] == donors["predicted_call"]).to_numpy()
    for rows, (color, marker) in ((donors[same], _SAME), (donors[~same], _OTHER)):
        look: _style.Look = {"color": color, "linewidth": 0.8, "zorder": 2}
        x, y = rows["observed"], rows["predicted"]
        ax.hlines(y, rows["observed_low"], rows["observed_high"], **look)
        ax.vlines(x, rows["predicted_low"], rows["predicted_high"], **look)
        ax.scatter(x, y, s=16, marker=marker, color=color, zorder=3)


def _title(name: str, agreement: pd.Series[float]) -> str:
    """Agreement in numbers, or why there is none."""
    calls = f"{agreement['n_agree']:.0f}/{agreement['n_donors']:.0f}"
    low, high = 100 * agreement["low"], 100 * agreement["high"]
    mae, rho = agreement["mae"], agreement["spearman"]
    error = f"MAE {mae:.0f} points" if np.isfinite(mae) else "MAE undefined"
    agreed = f"calls agree: {calls} ({low:.0f}–{high:.0f} %)"
    lines = [_style.middle_cut(name, 30), agreed]
    if np.isfinite(rho):
        return "\n".join([*lines, f"{error}, ρ = {rho:.2f}".replace("= -", "= −")])
    reason = f"ρ undefined: {str(agreement['note']).removeprefix('Spearman: ')}"
    return "\n".join([*lines, error, _style.broken(reason, 30)])


def _names(ax: Axes, donors: pd.DataFrame, limit: float) -> None:
    """Name the donors where that covers nothing; of many donors only those whose calls differ."""
    few = len(donors) <= _NAMED_DONORS
    drawn, names = _drawn(ax, donors, limit), list[Bbox]()
    for _, row in donors.iterrows():
        if few or row["observed_call"] != row["predicted_call"]:
            names.append(_name(ax, row, drawn, names))


def _drawn(ax: Axes, donors: pd.DataFrame, limit: float) -> list[Bbox]:
    """Where points, bars and lines lie, in pixels."""
    pixel = _style.figure_of(ax).dpi / 72
    thin, low, high = pixel / 2, (limit, _LOW), (limit, _HIGH)
    ends = [(low, high, thin), (low[::-1], high[::-1], thin)]
    for _, row in donors.iterrows():
        x, y = row["observed"], row["predicted"]
        ends.append(((x, y), (x, y), 4 * pixel))
        ends.append(((row["observed_low"], y), (row["observed_high"], y), thin))
        ends.append(((x, row["predicted_low"]), (x, row["predicted_high"]), thin))
    place = ax.transData.transform
    return [Bbox(place([start, end])).padded(padding) for start, end, padding in ends]


def _name(ax: Axes, row: pd.Series[float], drawn: list[Bbox], names: list[Bbox]) -> Bbox:
    """Write a donor's name where it covers least without being far away; where it stands."""
    point = float(row["observed"]), float(row["predicted"])
    text = _style.shortened(str(row["donor"]), 12)
    measured = ax.text(*point, text, fontsize=_style.SMALL)
    size = np.asarray(measured.get_window_extent().size)
    measured.remove()
    pixel = float(_style.figure_of(ax).dpi) / 72
    center = ax.transData.transform(point) - size / 2
    sides = np.array([side for _, *side in _PLACES])
    moves = pixel * sides + np.sign(sides) * size / 2
    boxes = [Bbox([center + move, center + move + size]) for move in moves]
    far = [2 * distance * pixel**2 for distance, *_ in _PLACES]
    over_points = [_covered(box, drawn, ax.bbox) for box in boxes]
    over_names = [9 * _covered(box, names, ax.bbox) for box in boxes]
    best = int(np.argmin(np.sum([over_points, over_names, far], axis=0)))
    x, y = (float(d) for d in moves[best] / pixel)
    look: _style.Look = {"xycoords": "data", "ha": "center", "va": "center"}
    _style.note(ax, text, point, (x, y), **look).set_in_layout(False)
    if _PLACES[best][0] > _NEAR:
        line: _style.Look = {"arrowstyle": "-", "linewidth": 0.5, "color": _style.GREY}
        line |= {"shrinkA": _style.SMALL / 2, "shrinkB": 2}
        _style.note(ax, "", point, (x, y), arrowprops=line, **look).set_in_layout(False)
    return boxes[best].padded(pixel / 2)


def _covered(box: Bbox, taken: list[Bbox], inside: BboxBase) -> float:
    """Area of what a name would cover, and ten times that of what would be outside the axes."""
    within = Bbox.intersection(box, inside)
    outside = box.width * box.height - (within.width * within.height if within else 0)
    overlaps = [Bbox.intersection(box, other) for other in taken]
    return float(10 * outside + sum(o.width * o.height for o in overlaps if o))
