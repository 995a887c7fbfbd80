"""pl.signature_report: the gates of a signature on one card."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from scbert_cll import _keys
from scbert_cll._checks.words import key_in
from scbert_cll._signature.report.criteria import INFORMATION, NO, NOT_RUN, YES, short
from scbert_cll.pl import _style

# verdict: symbol, colour, and how it is called; told apart without colour, too
_LOOK: Final = {
    YES: ("✓", _style.BLUE, "passed"),
    NO: ("✗", _style.RED, "not passed"),
    NOT_RUN: ("–", _style.GREY, "not run"),
    INFORMATION: ("i", _style.GREY, "no rule"),
}
_SMALL: Final = 6


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
    """Draw the gates of a signature beside those of plain rankings.

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
    table = reported(adata, key)["gates"]
    names, subjects = (list(dict.fromkeys(table[column])) for column in ("gate", "subject"))
    fig, ax = _style.one(ax, figsize or (1.9 + 1.15 * len(subjects), 0.8 + 0.27 * len(names)))
    for row in table.to_dict("records"):
        _cell(ax, subjects.index(row["subject"]), names.index(row["gate"]), row)
    ax.set(xlim=(-0.5, len(subjects) - 0.5), ylim=(len(names) - 0.5, -0.5))
    ax.set_xticks(range(len(subjects)), subjects)
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)
    for y in range(1, len(names)):
        ax.axhline(y - 0.5, color=_style.LIGHT, linewidth=0.5, zorder=0)
    used = [look for word, look in _LOOK.items() if (table["passed"] == word).any()]
    ax.set_xlabel(
        "   ".join([*(f"{symbol} {said}" for symbol, _, said in used), "grey: null"]),
        fontsize=_SMALL,
    )
    return _style.finish(fig, ax, show=show, return_fig=return_fig)


def reported(adata: AnnData, key: str) -> Any:
    """What tl.signature_report wrote."""
    key_in(key, adata.uns, "adata.uns", "Run tl.signature_report first.")
    return adata.uns[key]


def part(adata: AnnData, key: str, name: str) -> pd.DataFrame:
    """A table of the report that may be missing."""
    key_in(name, reported(adata, key), f"adata.uns[{key!r}]", "Its gates say why it was not run.")
    table: pd.DataFrame = adata.uns[key][name]
    return table


def _cell(ax: Axes, x: int, y: int, row: dict[Any, Any]) -> None:
    """Mark, number and null of one gate."""
    symbol, color, _ = _LOOK[row["passed"]]
    known = row["passed"] != NOT_RUN and np.isfinite(row["value"])
    ax.scatter(x - 0.38, y, s=70, color=color, alpha=0.18, linewidths=0)
    ax.text(x - 0.38, y, symbol, color=color, ha="center", va="center", fontweight="bold")
    if known:
        ax.text(x - 0.24, y, short(row["value"], row["gate"]), ha="left", va="center", fontsize=7)
        if np.isfinite(row["null"]):
            ax.text(
                x + 0.46,
                y,
                short(row["null"], row["gate"]),
                ha="right",
                va="center",
                fontsize=_SMALL,
                color=_style.GREY,
            )
