"""pl.gene_attention: the genes that receive more attention in a group than in the others."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from scbert_cll import _keys, _names, get
from scbert_cll.pl import _style

_CAVEAT = "Grey column: the attention itself, in the same unit; it follows expression. Not a test."


@_style.plot
def gene_attention(
    adata: AnnData,
    *,
    groups: str | Iterable[str] | None = None,
    reference: str = get.REST,
    n_genes: int = 15,
    key: str = _keys.GENE_ATTENTION,
    exclude: str | Iterable[str] = (),
    highlight: Collection[str] | None = None,
    highlight_label: str = "highlighted",
    n_columns: int = 3,
    figsize: tuple[float, float] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> _style.Drawn:
    """Draw the genes that receive more attention in a group than in the others.

    One panel per group, on one scale: the genes with the largest difference in attention to the
    reference, as :func:`scbert_cll.get.gene_attention` lists them. The grey column is the attention
    itself, in the same unit: a long bar in the row of a large number is an abundant gene that moved
    a little. Attention follows abundance, so the bars describe what the network looks at and are
    neither an effect size nor a test.

    Parameters
    ----------
    %(adata_after tl.gene_attention)s
    groups
        Group or groups to draw. By default all but the reference.
    reference
        Group to compare with. ``"rest"`` is the mean over the other groups.
    n_genes
        Number of genes per group.
    %(key tl.gene_attention)s
    exclude
        Genes to leave out: names, or a regular expression.
    highlight
        Genes to mark, e.g. known ones.
    highlight_label
        What they are called in the legend.
    %(n_columns)s
    %(figsize)s
    %(ax_of_one group)s
    %(show)s

    Returns
    -------
    %(drawn_of_several groups)s

    Raises
    ------
    KeyError
        There is no such result or group.
    ValueError
        `ax` is given for several groups, or there is one group only.
    """
    table = get.gene_attention(
        adata,
        group=groups,
        reference=reference,
        key=key,
        n_top=n_genes,
        exclude=exclude,
        sort_by="difference",
    )
    names = list(dict.fromkeys(table["group"]))
    if ax is not None and len(names) > 1:
        raise ValueError(
            f"ax holds one group, there are {len(names)}; name one with groups=, or leave ax out."
        )
    if ax is None:
        fig, axes = _figure(len(names), int(table["rank"].max()), n_columns, figsize)
    else:
        fig, axes = _style.figure_of(ax), [ax]
    factor, unit = _style.engineering(float(table["difference"].abs().max()))
    marked = frozenset(highlight or ())
    for panel, name in zip(axes, names, strict=True):
        _bars(panel, table[table["group"] == name], factor, marked)
        panel.set_title(_title(adata, key, name, reference))
    _captions(
        fig,
        ax,
        f"difference in attention ({unit} of the total)"
        if unit
        else "difference in attention (share)",
    )
    if marked:
        handles = [
            Patch(color=_style.RED, label=highlight_label),
            Patch(color=_style.BLUE, label="others"),
        ]
        ax.legend(
            handles=handles, loc="lower right", bbox_to_anchor=(0.85, 0)
        ) if ax else fig.legend(handles=handles, loc="outside upper center", ncols=2)
    return _style.finish(fig, axes[0] if len(axes) == 1 else axes, show=show, return_fig=return_fig)


def _figure(
    n: int, n_bars: int, n_columns: int, figsize: tuple[float, float] | None
) -> tuple[Figure, list[Axes]]:
    """Panels on one scale, each tall enough for its bars."""
    n_columns = min(n_columns, n)
    rows = -(-n // n_columns)
    size = figsize or (max(3.5, 2.4 * n_columns), rows * (0.6 + 0.16 * n_bars) + 0.6)
    fig, axes = _style.panels(n, n_columns=n_columns, figsize=size, sharex=True)
    for ax in axes[-n_columns:]:
        ax.tick_params(
            labelbottom=True
        )  # the last of its column, even where the row below is not full
    return fig, axes


def _bars(ax: Axes, rows: pd.DataFrame, factor: float, marked: Collection[str]) -> None:
    """One bar per gene, largest on top, and the attention itself in a column of its own."""
    y, width = np.arange(len(rows)), rows["difference"].to_numpy() * factor
    colors = [_style.RED if gene in marked else _style.BLUE for gene in rows["gene"]]
    ax.barh(y, width, color=colors, height=0.72)
    numbers = [
        f"{v:.0f}" if v >= 9.95 else f"{v:.1f}" if v >= 0.95 else f"{v:.2g}"
        for v in rows["attention"] * factor
    ]
    for at, text in zip([-1, *range(len(rows))], ["attention", *numbers], strict=True):
        ax.text(
            1,
            at,
            text,
            transform=ax.get_yaxis_transform(),
            ha="right",
            va="center",
            fontsize=6,
            color=_style.GREY,
        )
    ax.set_yticks(y, [_style.shortened(gene, 16) for gene in rows["gene"]])
    for tick, gene in zip(ax.get_yticklabels(), rows["gene"], strict=True):
        tick.set_fontweight("bold" if gene in marked else "normal")
    ax.set_ylim(len(rows) - 0.4, -1.6)
    ax.tick_params(axis="y", length=0)
    ax.axvline(0, color=_style.GREY, linewidth=0.7)
    ax.margins(x=0.3)
    ax.xaxis.set_major_locator(MaxNLocator(4))


def _title(adata: AnnData, key: str, group: str, reference: str) -> str:
    """What is compared, and how many cells it stands for."""
    others = [
        name for name in _names.own_index(pd.DataFrame(adata.varm[key]), adata.uns) if name != group
    ]
    against = (
        reference if reference != get.REST else others[0] if len(others) == 1 else "the others"
    )
    n_cells = _names.own_keys(adata.uns.get(key, {}).get("n_cells", {}), adata.uns)
    sizes = [f"{n_cells[name]:,}" for name in (group, against) if name in n_cells]
    gap = " " if len(group) + len(against) < 22 else "\n"
    title = f"{_style.shortened(group)}{gap}− {_style.shortened(against)}"
    return title + (f"\n{' and '.join(sizes)} cells" if sizes else "")


def _captions(fig: Figure, ax: Axes | None, label: str) -> None:
    """Axis label and caveat, under all panels or under the user's axes."""
    room = fig.get_figwidth() if ax is None else ax.get_window_extent().width / fig.dpi
    text = "\n".join([label, *textwrap.wrap(_CAVEAT, max(20, int(room * 19)))])
    if ax is None:
        fig.supxlabel(text, fontsize=7)
    else:
        ax.set_xlabel(text, fontsize=7)
