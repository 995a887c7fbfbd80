from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scbert_cll import pl

GROUPS = ("CD49d-", "CD49d+")


def _written(n_layers: int, n_heads: int, groups=GROUPS, n_genes: int = 60) -> AnnData:
    """What tl.gene_attribution leaves, made up: gene i has attention (n_genes − i) in all heads, a
    little more in the last layer.
    """
    adata = AnnData(
        np.ones((2, n_genes), np.float32),
        var=pd.DataFrame(index=[f"GENE{i:03d}" for i in range(n_genes)]),
    )
    rng, columns, rows = np.random.default_rng(0), {}, []
    for group in groups:
        for layer in range(n_layers):
            for head in range(n_heads):
                values = np.arange(n_genes, 0, -1) + 5.0 * (layer == n_layers - 1) * rng.random(
                    n_genes
                )
                columns[f"{group}|{layer}|{head}"] = values / values.sum()
            for head in (*range(n_heads), "mean"):
                r = 0.5 if head == "mean" else rng.uniform(-0.1, 0.98)
                rows.append({"group": group, "layer": layer, "head": str(head), "abundance": r})
    adata.varm["gene_attribution_layers"] = pd.DataFrame(columns, index=adata.var_names)
    record = {
        "layers": pd.DataFrame(rows).rename(index=str),
        "n_cells": dict.fromkeys(groups, 1234),
    }
    adata.uns["gene_attribution"] = record
    return adata


@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize(("n_layers", "n_heads"), [(1, 4), (6, 10)])
def test_legible(n_layers, n_heads, heads, legible) -> None:
    adata = _written(n_layers, n_heads)
    legible(pl.attention_layers(adata, heads=heads, return_fig=True))
    legible(pl.attention_layers(adata, heads=heads, groups="CD49d+", n_genes=3, return_fig=True))


def test_genes_with_most_attention_and_their_correlation_with_abundance_are_drawn() -> None:
    adata = _written(3, 2)
    axes = pl.attention_layers(adata, n_genes=5, show=False)
    assert len(axes) == 4
    top = adata.varm["gene_attribution_layers"].mean(axis=1).nlargest(5).index
    assert [label.get_text() for label in axes[1].get_yticklabels()] == list(top)
    for group, above, below in zip(GROUPS, axes[::2], axes[1::2], strict=True):
        assert above.get_title() == f"{group}\n1,234 cells"
        bars = [bar.get_height() for bar in above.patches]
        assert bars == pytest.approx([0.5] * 3)
        assert [text.get_text() for text in above.texts] == ["0.50"] * 3
        table = adata.uns["gene_attribution"]["layers"]
        dots = table[(table["group"] == group) & (table["head"] != "mean")]["abundance"]
        np.testing.assert_allclose(above.lines[0].get_ydata(), dots)
        image = np.asarray(below.images[0].get_array())
        by_head = adata.varm["gene_attribution_layers"].loc[top]
        expected = by_head[[f"{group}|1|0", f"{group}|1|1"]].mean(axis=1)
        np.testing.assert_allclose(image[:, 1] / image[0, 1], expected / expected.iloc[0])


def test_heads_have_columns_of_their_own() -> None:
    adata = _written(3, 2)
    above, below = pl.attention_layers(adata, groups=["CD49d+"], heads=True, n_genes=5, show=False)
    assert below.images[0].get_array().shape == (5, 6)
    table = adata.uns["gene_attribution"]["layers"]
    expected = table[(table["group"] == "CD49d+") & (table["head"] != "mean")]["abundance"]
    np.testing.assert_allclose([bar.get_height() for bar in above.patches], expected)
    assert [label.get_text() for label in below.get_xticklabels()] == ["0", "1", "2"]
    assert list(below.get_xticks()) == [0.5, 2.5, 4.5]


def test_names_of_groups_may_hold_the_sign_between(legible) -> None:
    adata = _written(2, 2, groups=("a|b", "c"))
    fig = pl.attention_layers(adata, return_fig=True)
    assert fig.axes[0].get_title().startswith("a|b\n")
    legible(fig)


def test_bad_input() -> None:
    adata = _written(1, 2)
    with pytest.raises(KeyError, match="'CD49d' is not in the groups of"):
        pl.attention_layers(adata, groups="CD49d", show=False)
    with pytest.raises(ValueError, match="n_genes must be at least 1"):
        pl.attention_layers(adata, n_genes=0, show=False)
    del adata.varm["gene_attribution_layers"]
    with pytest.raises(KeyError, match="per_layer=True"):
        pl.attention_layers(adata, show=False)
    plt.close("all")
