"""pl.attention_layers: attention of each layer and head, beside how closely it follows abundance."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from scbert_cll import _checks, _keys, _names
from scbert_cll._checks.words import at_least, key_in
from scbert_cll.pl import _style

_REMEDY: Final = 'Run tl.gene_attribution(adata, model, method="attention", per_layer=True) first.'
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
    KeyError
        There is no such result or group.
    ValueError
        `n_genes` is below 1.
    """
    at_least(n_genes, 1, "n_genes")
    attention, record = _found(adata, key)
    names = list(attention.columns.unique("group"))
    if groups is not None:
        names = [groups] if isinstance(groups, str) else list(groups)
        for name in names:
            key_in(
                name,
                list(attention.columns.unique("group")),
                f"the groups of adata.varm['{key}_layers']",
            )
    attention = attention[names]
    top = attention.mean(axis=1).nlargest(n_genes).index
    values = (
        attention.loc[top]
        if heads
        else attention.loc[top].T.groupby(level=["group", "layer"], sort=False).mean().T
    )
    table = record["layers"][record["layers"]["group"].isin(names)]
    factor, unit = _style.engineering(float(values.to_numpy().max()))
    fig, above, below = _figure(len(names), values.shape[1] // len(names), len(top), figsize)
    images = []
    for i, name in enumerate(names):
        of_group = table[table["group"] == name]
        _follows(above[i], of_group, heads=heads)
        title = f"{_style.shortened(name)}\n{record['n_cells'][name]:,} cells"
        above[i].set_title(title)
        images.append(
            _genes(
                below[i],
                pd.DataFrame(values[name]) * factor,
                float(values.to_numpy().max()) * factor,
            )
        )
        _name_layers(below[i], of_group, heads=heads)
    above[0].set_ylabel("ρ with\nabundance")
    _bar(fig, below, images[0], f"share of attention{f' ({unit})' if unit else ''}")
    fig.supxlabel("\n".join(textwrap.wrap(_CAVEAT, int(fig.get_figwidth() * 19))), fontsize=7)
    drawn = [ax for pair in zip(above, below, strict=True) for ax in pair]
    return _style.finish(fig, drawn, show=show, return_fig=return_fig)


def _found(adata: AnnData, key: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Genes × (group, layer, head), and the record beside."""
    key_in(f"{key}_layers", _checks.adata.anndata(adata).varm, "adata.varm", _REMEDY)
    table, record = pd.DataFrame(adata.varm[f"{key}_layers"]), adata.uns[key]
    key_in("layers", record, f"adata.uns[{key!r}]", _REMEDY)
    parts = [str(column).rsplit("|", 2) for column in table]
    of = [(_names.own(group, adata.uns), int(layer), int(head)) for group, layer, head in parts]
    index = pd.MultiIndex.from_tuples(of)
    record = dict(record) | {"n_cells": _names.own_keys(record["n_cells"], adata.uns)}
    return table.set_axis(index.set_names(["group", "layer", "head"]), axis=1), record


def _figure(
    n_groups: int, n_columns: int, n_genes: int, figsize: tuple[float, float] | None
) -> tuple[Figure, list[Axes], list[Axes]]:
    """Two panels for each group, those of a kind on one scale."""
    width = float(np.clip(0.3 * n_columns, 1.4, 5.0))
    size = figsize or (min(1.9 + width * n_groups, 12.0), 2.2 + 0.16 * n_genes)
    ratios = {"height_ratios": [0.9, max(0.16 * n_genes, 0.6)]}
    fig, axes = _style.panels(
        2 * n_groups,
        n_columns=n_groups,
        figsize=size,
        sharex="col",
        sharey="row",
        gridspec_kw=ratios,
    )
    return fig, axes[:n_groups], axes[n_groups:]


def _follows(ax: Axes, table: pd.DataFrame, *, heads: bool) -> None:
    """Correlation with abundance: a bar for each column below, and dots for the heads of a layer."""
    single = table["head"] != _MEAN
    bars, dots = (table[single], None) if heads else (table[~single], table[single])
    ax.bar(range(len(bars)), bars["abundance"], color=_style.LIGHT, width=0.8)
    if dots is not None:
        for layer, value in zip(bars["layer"], bars["abundance"], strict=True):
            ax.text(layer, 0.04, f"{value:.2f}", ha="center", va="bottom", fontsize=6)
        ax.plot(
            dots["layer"], dots["abundance"], ".", color=_style.GREY, markersize=3, clip_on=False
        )
    ax.axhline(0, color=_style.GREY, linewidth=0.7)
    ax.set_ylim(min(0.0, float(table["abundance"].min())), 1)
    ax.yaxis.set_major_locator(MaxNLocator(3, steps=[1, 5, 10]))
    ax.tick_params(axis="x", bottom=False, labelbottom=False)


def _genes(ax: Axes, values: pd.DataFrame, most: float) -> AxesImage:
    """Genes × layers, or heads."""
    image = ax.imshow(
        values.to_numpy(), cmap="Blues", vmin=0, vmax=most, aspect="auto", interpolation="none"
    )
    ax.set_yticks(range(len(values)), [_style.shortened(str(gene), 16) for gene in values.index])
    ax.tick_params(axis="both", length=0)
    ax.spines[:].set_visible(False)
    return image


def _name_layers(ax: Axes, table: pd.DataFrame, *, heads: bool) -> None:
    """A tick for each layer; with heads a line between the layers."""
    n_layers = int(table["layer"].max()) + 1
    each = (len(table) // n_layers - 1) if heads else 1
    ax.set_xticks(
        [layer * each + (each - 1) / 2 for layer in range(n_layers)],
        [str(i) for i in range(n_layers)],
    )
    for layer in range(1, n_layers):
        ax.axvline(layer * each - 0.5, color="white", linewidth=2)
    ax.set_xlabel(f"layer, {each} heads each" if heads else "layer")


def _bar(fig: Figure, axes: list[Axes], image: AxesImage, label: str) -> None:
    bar = fig.colorbar(image, ax=axes, location="right", aspect=20, shrink=0.8, pad=0.02)
    bar.set_label(label, fontsize=7)
    bar.ax.tick_params(labelsize=6, length=2)
    bar.outline.set_visible(False)
