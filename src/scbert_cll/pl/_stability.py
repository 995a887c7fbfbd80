"""pl.stability: whether the same genes come out without single donors, and by chance."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from scbert_cll import _keys
from scbert_cll.pl import _style
from scbert_cll.pl._signature_report import part

_LABELS, _NULL, _POINT = (
    "labels as they are, 95 %",
    "labels permuted within donors",
    "95 % of these",
)
_HEIGHT: Final = 0.22


@_style.plot
def stability(
    adata: AnnData,
    *,
    key: str = _keys.SIGNATURE_REPORT,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> _style.Drawn:
    """Draw how alike the genes are that come out without single donors.

    The same under permuted labels is drawn below. Nogueira's index: 1 if they are always the same,
    0 by chance. What is as stable where labels mean nothing says nothing of the labels, however
    stable it is.

    Parameters
    ----------
    %(adata_after tl.signature_report)s
    %(key tl.signature_report)s
    %(figsize)s
    %(ax)s
    %(show)s

    Returns
    -------
    %(drawn)s

    Raises
    ------
    KeyError
        There is no such report, or stability was not looked at.
    """
    table = part(adata, key, "stability")
    names = list(dict.fromkeys(table["subject"]))
    [ax] = _style.panels(ax, figsize, (3.5, 1.5 + 0.35 * len(names)))
    for y, name in enumerate(names):
        _row(ax, y, table[table["subject"] == name])
    _style.name_rows(ax, names)
    ax.set_xlim(min(0.0, ax.get_xlim()[0]), 1.02)
    ax.set_xlabel("Nogueira's index, without one donor at a time")
    handles, labels = ax.get_legend_handles_labels()
    lines = dict(zip(labels, handles, strict=True))
    shown = [label for label in (_LABELS, _NULL, _POINT) if label in lines]
    above: _style.Look = {"bbox_to_anchor": (0, 1), "borderaxespad": 0}
    ax.legend([lines[label] for label in shown], shown, loc="lower left", **above)
    return ax


def _row(ax: Axes, y: int, runs: pd.DataFrame) -> None:
    """One subject: the index with its limits above, and those of the permuted labels below."""
    actual = runs[runs["run"] == 0].iloc[0]
    null = runs.loc[runs["run"] > 0, "nogueira"].dropna()
    index = actual["nogueira"]
    error = np.abs([[index - actual["low"]], [actual["high"] - index]])
    look: _style.Look = {"fmt": "o", "color": _style.BLUE, "markersize": 4}
    ax.errorbar(index, y - _HEIGHT / 2, xerr=error, label=_LABELS, **look)
    look = {"s": 6, "color": _style.GREY, "alpha": 0.5, "linewidths": 0, "label": _NULL}
    ax.scatter(null, np.full(len(null), y + _HEIGHT / 2), **look)
    if len(null):
        x = [null.quantile(0.95)] * 2
        ax.plot(x, [y, y + _HEIGHT], color=_style.RED, linewidth=1.2, label=_POINT)
