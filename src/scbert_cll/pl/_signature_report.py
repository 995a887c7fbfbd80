"""pl.signature_report: the gates of a signature on one card."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from scbert_cll import _keys, _record
from scbert_cll._signature.report.criteria import INFORMATION, NO, NOT_RUN, YES, short
from scbert_cll.pl import _style

# verdict: symbol, colour, and how it is called; told apart without colour, too
_LOOK: Final = {
    YES: ("✓", _style.BLUE, "passed"),
    NO: ("✗", _style.RED, "not passed"),
    NOT_RUN: ("–", _style.GREY, "not run"),
    INFORMATION: ("i", _style.GREY, "no rule"),
}
_VERB: Final = "tl.signature_report"


@_style.plot
def signature_report(
    adata: AnnData,
    *,
    key: str = _keys.SIGNATURE_REPORT,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> _style.Drawn:
    """Draw the gates of a signature and those of plain rankings.

    A row per gate, a column per subject: a mark for passed or not, the number, and in grey what it
    is where nothing is: with random genes or permuted labels, or by chance.

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
        There is no such report.
    """
    table = _record.read(adata, key, _VERB, ["gates"])["gates"]
    names, subjects = (list(table[column].unique()) for column in ("gate", "subject"))
    size = (1.9 + 1.15 * len(subjects), 0.8 + 0.27 * len(names))
    [ax] = _style.panels(ax, figsize, size)
    for row in table.to_dict("records"):
        _cell(ax, subjects.index(row["subject"]), names.index(row["gate"]), row)
    ax.set(xlim=(-0.5, len(subjects) - 0.5), ylim=(len(names) - 0.5, -0.5))
    ax.set_xticks(range(len(subjects)), subjects)
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)
    for y in range(1, len(names)):
        ax.axhline(y - 0.5, color=_style.LIGHT, linewidth=0.5, zorder=0)
    marks = [
        f"{symbol} {meaning}"
        for word, (symbol, _, meaning) in _LOOK.items()
        if (table["passed"] == word).any()
    ]
    ax.set_xlabel("   ".join([*marks, "grey: null"]), fontsize=_style.SMALL)
    return ax


def part(adata: AnnData, key: str, name: str) -> pd.DataFrame:
    """A table of the report that may be missing."""
    remedy = "Its gates say why it was not run."
    table: pd.DataFrame = _record.read(adata, key, _VERB, [name], missing=remedy)[name]
    return table


def _cell(ax: Axes, x: int, y: int, row: dict[Any, Any]) -> None:
    """Mark, number and null of one gate."""
    symbol, color, _ = _LOOK[row["passed"]]
    ax.scatter(x - 0.38, y, s=70, color=color, alpha=0.18, linewidths=0)
    middle: _style.Look = {"va": "center", "ha": "center"}
    ax.text(x - 0.38, y, symbol, color=color, fontweight="bold", **middle)
    if row["passed"] == NOT_RUN or not np.isfinite(row["value"]):
        return
    ax.text(x - 0.24, y, short(row["value"], row["gate"]), va="center", fontsize=7)
    if np.isfinite(row["null"]):
        look: _style.Look = {"va": "center", "ha": "right", "fontsize": _style.SMALL}
        ax.text(x + 0.46, y, short(row["null"], row["gate"]), color=_style.GREY, **look)
