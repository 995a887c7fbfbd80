"""pl.gene_attention and pl.attention_layers: genes that receive attention, by group and layer."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from scbert_cll import _checks, _keys, _names, _record, get
from scbert_cll._checks.words import at_least, key_in
from scbert_cll.pl import _style

_CAVEAT: Final = (
    "Grey column: the attention itself, in the same unit; it follows expression. Not a test."
)
_CALL: Final = 'tl.gene_attribution(adata, model, method="attention", per_layer=True)'
_CAVEAT_OF_LAYERS: Final = (
    "Above: Spearman's ρ between attention and the mean token, over the genes of the group; near "
    "1, attention ranks genes as their expression does."
)
_MEAN: Final = "mean"  # in the place of a head


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
    # the last of its column, even where the row below is not full
    for panel in axes[-columns:]:
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


@_style.plot
def attention_layers(
    adata: AnnData,
    *,
    groups: str | Iterable[str] | None = None,
    n_genes: int = 20,
    heads: bool = False,
    key: str = _keys.GENE_ATTRIBUTION,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> _style.Drawn:
    """Draw the genes that receive most attention, layer by layer.

    One column of panels per group, on one scale. Above, how closely the attention of a layer (bar)
    and of its heads (dots) follows abundance: where that is near 1, the genes below are those that
    are expressed most, and nothing the network has learned of the groups.

    Parameters
    ----------
    adata
        Cells × genes after :func:`scbert_cll.tl.gene_attribution` with ``method="attention"`` and
        ``per_layer=True``.
    groups
        Group or groups to draw. By default all.
    n_genes
        Number of genes: those with most attention over the groups, layers and heads that are drawn.
    heads
        One column for each head, instead of their mean.
    %(key tl.gene_attribution)s
    %(figsize)s
    %(show)s

    Returns
    -------
    The axes, of each group that of the correlations and then that of the genes; None if the figure
    is shown; or the figure.

    Raises
    ------
    %(no_such_group)s
    ValueError
        `n_genes` is below 1.
    """
    at_least(n_genes, 1, "n_genes")
    attention = _by_layer(adata, key)
    record = _record.read(adata, key, _CALL, ["layers"], missing=f"Run {_CALL} first.")
    layers, n_cells = record["layers"], _names.own_keys(record["n_cells"], adata.uns)
    where = f"the groups of adata.varm[{_keys.beside(key, 'layers')!r}]"
    names = _record.named(groups, attention.columns.unique("group"), where)
    attention = attention[names]
    values = attention.loc[attention.mean(axis=1).nlargest(n_genes).index]
    if not heads:
        values = values.T.groupby(level=["group", "layer"], sort=False).mean().T
    most = float(values.to_numpy().max())
    factor, unit = _style.engineering(most)
    n, rows = len(names), 0.16 * len(values)
    width = float(np.clip(0.3 * (values.shape[1] // n), 1.4, 5.0))
    size, heights = (min(1.9 + width * n, 12.0), 2.2 + rows), [0.9, max(rows, 0.6)]
    scales: _style.Look = {"sharex": "col", "sharey": "row", "height_ratios": heights}
    axes = _style.panels(None, figsize, size, 2 * n, n_columns=n, **scales)
    above, below = axes[:n], axes[n:]
    for i, name in enumerate(names):
        of_group = layers[layers["group"] == name]
        _follows(above[i], of_group, heads=heads)
        above[i].set_title(f"{_style.shortened(name)}\n{n_cells[name]:,} cells")
        image = _genes(below[i], pd.DataFrame(values[name]) * factor, most * factor)
        _name_layers(below[i], of_group, heads=heads)
    above[0].set_ylabel("ρ with\nabundance")
    label = f"share of attention{f' ({unit})' if unit else ''}"
    _style.bar(below, image, label, location="right", aspect=20, shrink=0.8, pad=0.02)
    fig = _style.figure_of(above[0])
    fig.supxlabel(_style.broken(_CAVEAT_OF_LAYERS, fig.get_figwidth() * 19), fontsize=7)
    return [ax for pair in zip(above, below, strict=True) for ax in pair]


def _by_layer(adata: AnnData, key: str) -> pd.DataFrame:
    """Attention of genes × (group, layer, head)."""
    layers_key = _keys.beside(key, "layers")
    varm = _checks.adata.anndata(adata).varm
    key_in(layers_key, varm, "adata.varm", f"Run {_CALL} first.")
    table = pd.DataFrame(adata.varm[layers_key])
    of = []
    for column in table:
        group, layer, head = str(column).rsplit(_names.BETWEEN, 2)
        of.append((_names.own(group, adata.uns), int(layer), int(head)))
    index = pd.MultiIndex.from_tuples(of, names=["group", "layer", "head"])
    return table.set_axis(index, axis=1)


def _follows(ax: Axes, table: pd.DataFrame, *, heads: bool) -> None:
    """Correlation with abundance: a bar for each column below, and dots for heads of a layer."""
    is_head = table["head"] != _MEAN
    bars, dots = table[is_head == heads], table[is_head & (not heads)]
    ax.bar(range(len(bars)), bars["abundance"], color=_style.LIGHT, width=0.8)
    if not heads:
        for layer, value in zip(bars["layer"], bars["abundance"], strict=True):
            text = f"{value:.2f}"
            ax.text(layer, 0.04, text, ha="center", va="bottom", fontsize=_style.SMALL)
        x, y = dots["layer"], dots["abundance"]
        ax.plot(x, y, ".", color=_style.GREY, ms=3, clip_on=False)
    ax.axhline(0, color=_style.GREY, linewidth=0.7)
    ax.set_ylim(min(0.0, float(table["abundance"].min())), 1)
    ax.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 5, 10]))
    ax.tick_params(axis="x", bottom=False, labelbottom=False)


def _genes(ax: Axes, values: pd.DataFrame, most: float) -> AxesImage:
    """Genes × layers, or heads."""
    image = _style.heatmap(ax, values.to_numpy(), "Blues", 0, most)
    names = [_style.shortened(str(gene), 16) for gene in values.index]
    ax.set_yticks(range(len(names)), names)
    ax.tick_params(axis="both", length=0)
    ax.spines[:].set_visible(False)
    return image


def _name_layers(ax: Axes, table: pd.DataFrame, *, heads: bool) -> None:
    """A tick for each layer; with heads a line between the layers."""
    n_layers = int(table["layer"].max()) + 1
    n_heads = (len(table) // n_layers - 1) if heads else 1
    middles = [layer * n_heads + (n_heads - 1) / 2 for layer in range(n_layers)]
    ax.set_xticks(middles, [str(i) for i in range(n_layers)])
    for layer in range(1, n_layers):
        ax.axvline(layer * n_heads - 0.5, color="white", linewidth=2)
    ax.set_xlabel(f"layer, {n_heads} heads each" if heads else "layer")
