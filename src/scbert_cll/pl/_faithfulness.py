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
_WITH, _WITHOUT = "with these genes only", "without these genes"
_TITLES: Final = {"insertion": _WITH, "deletion": _WITHOUT}
_LINEAR: Final = "logistic regression of all genes"
_READERS: Final = {"linear": _LINEAR, "network": "the network"}


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
    """Draw how well the first genes of each ranking tell cells of held-out donors apart.

    Cells are read with these genes only, and without them. The genes that matter bring the curve up
    early when they come, and down early when they go. The grey band are random genes that are
    expressed as much as those of the signature (90 % of the sets).

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
    ways = list(_TITLES)
    if direction is not None:
        ways = [choice(direction, ways, "direction")]
    new, size, n = ax is None, (1 + 2.5 * len(ways), 2.7), len(ways)
    of = ("direction", "direction")
    axes = _style.panels(ax, figsize, size, n, of, n_columns=2, sharey=True)
    table = table[table["reader"] == reader]
    for panel, way in zip(axes, ways, strict=True):
        _curves(panel, table[table["direction"] == way])
        panel.set(title=_TITLES[way], xlabel="genes")
    axes[0].set_ylabel("AUROC within held-out donors")
    _style.legend(axes[:1], new=new, inside=7, ncols=len(_style.labelled(axes)))
    if new:
        _style.figure_of(axes[0]).suptitle(f"Read by {_READERS[reader]}", fontsize=8)
    return axes


def _curves(ax: Axes, rows: pd.DataFrame) -> None:
    """A line per subject, over the numbers of genes evenly spaced; a band for random genes."""
    steps = np.sort(rows["k"].unique())
    random = rows[rows["subject"] == "random"].sort_values("k")
    x = np.searchsorted(steps, random["k"])
    look: _style.Look = {"color": _style.LIGHT, "linewidth": 0, "label": "random genes"}
    ax.fill_between(x, random["low"], random["high"], **look)
    ax.plot(x, random["value"], color=_style.GREY, linewidth=1)
    for name, (color, marker) in _LOOK.items():
        curve = rows[rows["subject"] == name].sort_values("k")
        if len(curve):
            look = {"color": color, "marker": marker, "markersize": 3.5, "linewidth": 1}
            ax.plot(np.searchsorted(steps, curve["k"]), curve["value"], label=name, **look)
    ax.axhline(0.5, color=_style.GREY, linewidth=0.7, linestyle=":")
    ax.set_xticks(range(len(steps)), [str(step) for step in steps])
