"""pl.stability: whether the same genes come out without single donors, and whether that means anything."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from scbert_cll import _keys
from scbert_cll.pl import _style
from scbert_cll.pl._signature_report import part

_OWN, _NULL, _POINT = "labels as they are, 95 %", "labels permuted within donors", "95 % of these"
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
    """Draw how alike the genes are that come out without single donors, beside the same under permuted labels.

    Nogueira's index: 1 if they are always the same, 0 by chance. What is as stable where labels
    mean nothing says nothing of the labels, however stable it is.

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
    fig, ax = _style.one(ax, figsize or (3.5, 1.5 + 0.35 * len(names)))
    for y, name in enumerate(names):
        _row(ax, y, table[table["subject"] == name])
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(min(0.0, ax.get_xlim()[0]), 1.02)
    ax.set_xlabel("Nogueira's index, without one donor at a time")
    handles, said = ax.get_legend_handles_labels()
    shown = dict(zip(said, handles, strict=True))
    wanted = [label for label in (_OWN, _NULL, _POINT) if label in shown]
    ax.legend(
        [shown[label] for label in wanted],
        wanted,
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0,
    )
    return _style.finish(fig, ax, show=show, return_fig=return_fig)


def _row(ax: Axes, y: int, runs: pd.DataFrame) -> None:
    """One subject: the index with its limits above, and those of the permuted labels below."""
    own = runs[runs["run"] == 0].iloc[0]
    null = runs.loc[runs["run"] > 0, "nogueira"].dropna()
    error = np.array([[own["nogueira"] - own["low"]], [own["high"] - own["nogueira"]]])
    at = y - _HEIGHT / 2
    ax.errorbar(
        own["nogueira"],
        at,
        xerr=np.abs(error),
        fmt="o",
        color=_style.BLUE,
        markersize=4,
        label=_OWN,
    )
    ax.scatter(
        null,
        np.full(len(null), y + _HEIGHT / 2),
        s=6,
        color=_style.GREY,
        alpha=0.5,
        linewidths=0,
        label=_NULL,
    )
    if len(null):
        ax.plot(
            [null.quantile(0.95)] * 2,
            [y, y + _HEIGHT],
            color=_style.RED,
            linewidth=1.2,
            label=_POINT,
        )
