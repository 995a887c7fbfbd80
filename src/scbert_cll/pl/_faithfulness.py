"""pl.faithfulness: what is left without the first genes, and what there is with them alone."""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from scbert_cll import _keys
from scbert_cll._checks.words import choice
from scbert_cll.pl import _style
from scbert_cll.pl._signature_report import part

_LOOK: Final = {
    "signature": (_style.BLUE, "o"),
    "attention": (_style.RED, "s"),
    "abundance": (_style.ORANGE, "^"),
}
_TITLES: Final = {"insertion": "with these genes only", "deletion": "without these genes"}
_READERS: Final = {"linear": "logistic regression of all genes", "network": "the network"}


@_style.plot
def faithfulness(
    adata: AnnData,
    *,
    reader: str = "linear",
    direction: str | None = None,
    key: str = _keys.SIGNATURE_REPORT,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> _style.Drawn:
    """Draw how well cells of held-out donors are told apart with, and without, the first genes of each ranking.

    The genes that matter bring the curve up early when they come, and down early when they go. The
    grey band are random genes that are expressed as much as those of the signature (90 % of the
    sets).

    Parameters
    ----------
    %(adata_after tl.signature_report)s
    reader
        Who tells the cells apart: ``"linear"`` or ``"network"``.
    direction
        ``"insertion"`` or ``"deletion"``. By default both.
    %(key tl.signature_report)s
    %(figsize)s
    %(ax_of_one direction)s
    %(show)s

    Returns
    -------
    The axes (a list if both directions are drawn), None if the figure is shown, or the figure.

    Raises
    ------
    KeyError
        There is no such report, or it has no curves.
    ValueError
        An unknown direction, a reader that was not asked, or `ax` for both directions.
    """
    table = part(adata, key, "curves")
    choice(reader, list(dict.fromkeys(table["reader"])), "reader")
    ways = list(_TITLES) if direction is None else [choice(direction, list(_TITLES), "direction")]
    if ax is not None and len(ways) > 1:
        raise ValueError(
            "ax holds one direction, there are two; name one with direction=, or leave ax out."
        )
    if ax is None:
        fig, axes = _style.panels(
            len(ways), n_columns=2, figsize=figsize or (1 + 2.5 * len(ways), 2.7), sharey=True
        )
    else:
        fig, axes = _style.figure_of(ax), [ax]
    table = table[table["reader"] == reader]
    for panel, way in zip(axes, ways, strict=True):
        _curves(panel, table[table["direction"] == way])
        panel.set(title=_TITLES[way], xlabel="genes")
    axes[0].set_ylabel("AUROC within held-out donors")
    handles, labels = axes[0].get_legend_handles_labels()
    if ax is None:
        fig.legend(handles, labels, loc="outside lower center", ncols=len(labels))
        fig.suptitle(f"Read by {_READERS[reader]}", fontsize=8)
    else:
        ax.legend(handles, labels)
    return _style.finish(fig, axes[0] if len(axes) == 1 else axes, show=show, return_fig=return_fig)


def _curves(ax: Axes, rows: pd.DataFrame) -> None:
    """A line per subject, over the numbers of genes evenly spaced; a band for random genes."""
    steps = np.sort(rows["k"].unique())
    for name in ["random", *_LOOK]:
        own = rows[rows["subject"] == name].sort_values("k")
        x = np.searchsorted(steps, own["k"])
        if name == "random":
            ax.fill_between(
                x, own["low"], own["high"], color=_style.LIGHT, linewidth=0, label="random genes"
            )
            ax.plot(x, own["value"], color=_style.GREY, linewidth=1)
        elif len(own):
            color, marker = _LOOK[name]
            ax.plot(
                x, own["value"], color=color, marker=marker, markersize=3.5, linewidth=1, label=name
            )
    ax.axhline(0.5, color=_style.GREY, linewidth=0.7, linestyle=":")
    ax.set_xticks(range(len(steps)), [str(step) for step in steps])
