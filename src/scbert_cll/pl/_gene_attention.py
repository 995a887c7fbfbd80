"""pl.gene_attention: the genes that receive more attention in a group than in the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from scbert_cll import _keys, _names, get
from scbert_cll.pl import _style

_CAVEAT: Final = (
    "Grey column: the attention itself, in the same unit; it follows expression. Not a test."
)


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
    %(no_such_group)s
    ValueError
        `ax` is given for several groups, or there is one group only.
    """
    options: _style.Look = {"reference": reference, "key": key, "exclude": exclude}
    table = get.gene_attention(adata, group=groups, n_top=n_genes, **options)
    names = list(dict.fromkeys(table["group"]))
    new, n = ax is None, len(names)
    columns = min(n_columns, n)
    height = 0.6 + 0.16 * int(table["rank"].max())
    size = (max(3.5, 2.4 * columns), -(-n // columns) * height + 0.6)
    one_scale = {"n_columns": columns, "sharex": True}
    axes = _style.panels(ax, figsize, size, n, ("group", "groups"), **one_scale)
    factor, unit = _style.engineering(float(table["difference"].abs().max()))
    marked = frozenset(highlight or ())
    for panel, name in zip(axes, names, strict=True):
        _bars(panel, table[table["group"] == name], factor, marked)
        panel.set_title(_title(adata, key, name, reference))
    for panel in axes[-columns:]:  # the last of its column, even where the row below is not full
        panel.tick_params(labelbottom=True)
    fig = _style.figure_of(axes[0])
    room = fig.get_figwidth() if new else _style.width(axes[0])
    label = f"difference in attention ({f'{unit} of the total' if unit else 'share'})"
    caption = f"{label}\n{_style.broken(_CAVEAT, max(20, room * 19))}"
    if new:
        fig.supxlabel(caption, fontsize=7)
    else:
        axes[0].set_xlabel(caption, fontsize=7)
    if marked:
        words = {highlight_label: _style.RED, "others": _style.BLUE}
        patches = [Patch(color=color, label=word) for word, color in words.items()]
        if new:
            fig.legend(handles=patches, loc="outside upper center", ncols=2)
        else:
            axes[0].legend(handles=patches, loc="lower right", bbox_to_anchor=(0.85, 0))
    return axes


def _bars(ax: Axes, rows: pd.DataFrame, factor: float, marked: Collection[str]) -> None:
    """One bar per gene, largest on top, and the attention itself in a column of its own."""
    genes = list(rows["gene"])
    colors = [_style.RED if gene in marked else _style.BLUE for gene in genes]
    ax.barh(range(len(rows)), rows["difference"] * factor, color=colors, height=0.72)
    _style.name_rows(ax, [_style.shortened(gene, 16) for gene in genes])
    ax.set_ylim(top=-1.6)
    for tick, gene in zip(ax.get_yticklabels(), genes, strict=True):
        tick.set_fontweight("bold" if gene in marked else "normal")
    _style.in_row(ax, 1, -1, "attention", ha="right")
    for i, value in enumerate(rows["attention"] * factor):
        form = ".0f" if value >= 9.95 else ".1f" if value >= 0.95 else ".2g"
        _style.in_row(ax, 1, i, f"{value:{form}}", ha="right")
    ax.axvline(0, color=_style.GREY, linewidth=0.7)
    ax.margins(x=0.3)
    ax.xaxis.set_major_locator(MaxNLocator(4))


def _title(adata: AnnData, key: str, group: str, reference: str) -> str:
    """What is compared, and how many cells it stands for."""
    groups = _names.own_index(pd.DataFrame(adata.varm[key]), adata.uns)
    others = [name for name in groups if name != group]
    if reference == get.REST:
        reference = others[0] if len(others) == 1 else "the others"
    n_cells = _names.own_keys(adata.uns.get(key, {}).get("n_cells", {}), adata.uns)
    sizes = [f"{n_cells[name]:,}" for name in (group, reference) if name in n_cells]
    gap = " " if len(group) + len(reference) < 22 else "\n"
    title = f"{_style.shortened(group)}{gap}− {_style.shortened(reference)}"
    return title + (f"\n{' and '.join(sizes)} cells" if sizes else "")
