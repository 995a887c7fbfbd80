"""pl.attention_layers: attention of each layer and head, and how closely it follows abundance."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from scbert_cll import _checks, _keys, _names, _record
from scbert_cll._checks.words import at_least, key_in
from scbert_cll.pl import _style

_CALL: Final = 'tl.gene_attribution(adata, model, method="attention", per_layer=True)'
_CAVEAT: Final = (
    "Above: Spearman's ρ between attention and the mean token, over the genes of the group; near "
    "1, attention ranks genes as their expression does."
)
_MEAN: Final = "mean"  # in the place of a head


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
    attention, record = _read(adata, key)
    where = f"the groups of adata.varm[{_keys.beside(key, 'layers')!r}]"
    names = _record.named(groups, attention.columns.unique("group"), where)
    attention = attention[names]
    values = attention.loc[attention.mean(axis=1).nlargest(n_genes).index]
    if not heads:
        values = values.T.groupby(level=["group", "layer"], sort=False).mean().T
    most = float(values.to_numpy().max())
    factor, unit = _style.engineering(most)
    n = len(names)
    above, below = _panels(n, values.shape[1] // n, len(values), figsize)
    for i, name in enumerate(names):
        of_group = record["layers"][record["layers"]["group"] == name]
        _follows(above[i], of_group, heads=heads)
        above[i].set_title(f"{_style.shortened(name)}\n{record['n_cells'][name]:,} cells")
        image = _genes(below[i], pd.DataFrame(values[name]) * factor, most * factor)
        _name_layers(below[i], of_group, heads=heads)
    above[0].set_ylabel("ρ with\nabundance")
    place: _style.Look = {"location": "right", "aspect": 20, "shrink": 0.8, "pad": 0.02}
    _style.bar(below, image, f"share of attention{f' ({unit})' if unit else ''}", **place)
    fig = _style.figure_of(above[0])
    fig.supxlabel(_style.broken(_CAVEAT, fig.get_figwidth() * 19), fontsize=7)
    return [ax for pair in zip(above, below, strict=True) for ax in pair]


def _read(adata: AnnData, key: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Attention of genes × (group, layer, head), and the record that belongs to it."""
    layers_key = _keys.beside(key, "layers")
    remedy = f"Run {_CALL} first."
    key_in(layers_key, _checks.adata.anndata(adata).varm, "adata.varm", remedy)
    record = dict(_record.read(adata, key, _CALL, ["layers"], missing=remedy))
    record["n_cells"] = _names.own_keys(record["n_cells"], adata.uns)
    table = pd.DataFrame(adata.varm[layers_key])
    of = []
    for column in table:
        group, layer, head = str(column).rsplit(_names.BETWEEN, 2)
        of.append((_names.own(group, adata.uns), int(layer), int(head)))
    index = pd.MultiIndex.from_tuples(of, names=["group", "layer", "head"])
    return table.set_axis(index, axis=1), record


def _panels(
    n_groups: int, n_columns: int, n_genes: int, figsize: tuple[float, float] | None
) -> tuple[list[Axes], list[Axes]]:
    """Two panels for each group, those of a kind on one scale."""
    width = float(np.clip(0.3 * n_columns, 1.4, 5.0))
    size = (min(1.9 + width * n_groups, 12.0), 2.2 + 0.16 * n_genes)
    scales: _style.Look = {"sharex": "col", "sharey": "row"}
    scales["height_ratios"] = [0.9, max(0.16 * n_genes, 0.6)]
    axes = _style.panels(None, figsize, size, 2 * n_groups, n_columns=n_groups, **scales)
    return axes[:n_groups], axes[n_groups:]


def _follows(ax: Axes, table: pd.DataFrame, *, heads: bool) -> None:
    """Correlation with abundance: a bar for each column below, and dots for heads of a layer."""
    is_head = table["head"] != _MEAN
    bars, dots = table[is_head == heads], table[is_head & (not heads)]
    ax.bar(range(len(bars)), bars["abundance"], color=_style.LIGHT, width=0.8)
    if not heads:
        for layer, value in zip(bars["layer"], bars["abundance"], strict=True):
            text = ax.text(layer, 0.04, f"{value:.2f}", ha="center", va="bottom")
            text.set_fontsize(_style.SMALL)
        look: _style.Look = {"color": _style.GREY, "markersize": 3, "clip_on": False}
        ax.plot(dots["layer"], dots["abundance"], ".", **look)
    ax.axhline(0, color=_style.GREY, linewidth=0.7)
    ax.set_ylim(min(0.0, float(table["abundance"].min())), 1)
    ax.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 5, 10]))
    ax.tick_params(axis="x", bottom=False, labelbottom=False)


def _genes(ax: Axes, values: pd.DataFrame, most: float) -> AxesImage:
    """Genes × layers, or heads."""
    look: _style.Look = {"cmap": "Blues", "aspect": "auto", "interpolation": "none"}
    image = ax.imshow(values.to_numpy(), vmin=0, vmax=most, **look)
    ax.set_yticks(range(len(values)), [_style.shortened(str(gene), 16) for gene in values.index])
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
