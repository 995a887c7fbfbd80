from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from scbert_cll import get, pl


def make(groups, n_genes=60, long=False):
    rng = np.random.default_rng(0)
    names = [
        f"GENE{i}" + ("-AS1_ENSG00000123456.12" if long and i % 3 == 0 else "")
        for i in range(n_genes)
    ]
    adata = AnnData(np.ones((3, n_genes), np.float32), var=pd.DataFrame(index=names))
    attention = pd.DataFrame(
        rng.lognormal(0, 1, (n_genes, 1)) * rng.lognormal(0, 0.1, (n_genes, len(groups))),
        names,
        groups,
    )
    adata.varm["gene_attention"] = attention / attention.sum()
    adata.uns["gene_attention"] = {
        "params": {"groupby": "g"},
        "n_cells": {g: 1000 + i for i, g in enumerate(groups)},
    }
    return adata


@pytest.fixture
def two():
    return make(["CD49d-", "CD49d+"])


def bars(ax):
    return [p for p in ax.patches if isinstance(p, Rectangle)]


def genes(ax):
    return [t.get_text() for t in ax.get_yticklabels()]


def test_bars_are_the_differences_that_get_lists(two):
    axes = pl.gene_attention(two, n_genes=7, show=False)
    assert len(axes) == 2
    for ax, group in zip(axes, ["CD49d-", "CD49d+"], strict=True):
        table = get.gene_attention(two, group=group, n_top=7)
        assert genes(ax) == table["gene"].tolist()
        np.testing.assert_allclose([b.get_width() for b in bars(ax)], 1e3 * table["difference"])
        numbers = [f"{v:.0f}" if v >= 9.95 else f"{v:.1f}" for v in 1e3 * table["attention"]]
        assert [t.get_text() for t in ax.texts] == ["attention", *numbers]
        widest = max(b.get_window_extent().x1 for b in bars(ax))
        assert all(
            t.get_window_extent().x0 > widest for t in ax.texts
        )  # a column, not labels of the bars
        low, high = ax.get_ylim()
        assert low > high  # the first gene on top


def test_says_what_is_compared(two):
    fig = pl.gene_attention(two, return_fig=True)
    assert [ax.get_title() for ax in fig.axes] == [
        "CD49d- − CD49d+\n1,000 and 1,001 cells",
        "CD49d+ − CD49d-\n1,001 and 1,000 cells",
    ]
    label = fig.get_supxlabel()
    assert "difference in attention (10⁻³ of the total)" in label
    assert "follows expression. Not a test." in " ".join(label.split("\n"))


def test_more_groups_are_compared_with_the_others_or_a_reference():
    adata = make(["zero", "low", "high"])
    titles = [ax.get_title() for ax in pl.gene_attention(adata, show=False)]
    assert titles == [
        "zero − the others\n1,000 cells",
        "low − the others\n1,001 cells",
        "high − the others\n1,002 cells",
    ]
    titles = [ax.get_title() for ax in pl.gene_attention(adata, reference="zero", show=False)]
    assert titles == ["low − zero\n1,001 and 1,000 cells", "high − zero\n1,002 and 1,000 cells"]


def test_panels_share_a_scale():
    axes = pl.gene_attention(make(["zero", "low", "high"]), show=False)
    assert len({ax.get_xlim() for ax in axes}) == 1


def test_unit_follows_the_size_of_the_differences(two):
    two.varm["gene_attention"] = (
        pd.DataFrame({"a": [1.0, 0.0], "b": [0.0, 1.0]}, ["x", "y"])
        .reindex(two.var_names)
        .fillna(0)
    )
    two.varm["gene_attention"] = two.varm["gene_attention"] + np.linspace(0, 1e-6, two.n_vars)[
        :, None
    ] * [1, 3]
    assert (
        "10⁻⁶ of the total" in pl.gene_attention(two, groups="b", return_fig=True).get_supxlabel()
    )


def test_highlight(two):
    marked = get.gene_attention(two, group="CD49d+", n_top=3)["gene"].tolist()[::2]
    fig = pl.gene_attention(
        two,
        groups="CD49d+",
        n_genes=3,
        highlight=marked,
        highlight_label="planted",
        return_fig=True,
    )
    colors = [b.get_facecolor() for b in bars(fig.axes[0])]
    assert colors[0] == colors[2] != colors[1]
    assert [t.get_fontweight() for t in fig.axes[0].get_yticklabels()] == ["bold", "normal", "bold"]
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["planted", "others"]


def test_exclude(two):
    first = get.gene_attention(two, group="CD49d+", n_top=1)["gene"].iloc[0]
    ax = pl.gene_attention(two, groups="CD49d+", exclude=[first], show=False)
    assert first not in genes(ax)


def test_users_axes(two, legible):
    fig, ax = plt.subplots(figsize=(3.5, 3), layout="constrained")
    before = len(plt.get_fignums())
    assert (
        pl.gene_attention(two, groups="CD49d+", ax=ax, n_genes=8, highlight=["GENE1"], show=False)
        is ax
    )
    assert len(plt.get_fignums()) == before
    assert "difference in attention" in ax.get_xlabel()
    legible(fig)


def test_what_comes_back(two, monkeypatch):
    assert isinstance(
        pl.gene_attention(two, groups="CD49d+"), Axes
    )  # nothing to show on without a screen
    assert isinstance(pl.gene_attention(two, return_fig=True), Figure)
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    assert pl.gene_attention(two, show=True) is None
    assert shown == [True]


@pytest.mark.parametrize("figsize", [None, (3.5, 3.4)])
def test_two_groups_are_legible(two, legible, figsize):
    legible(pl.gene_attention(two, figsize=figsize, highlight=["GENE3"], return_fig=True))


def test_many_groups_and_long_names_are_legible(legible):
    adata = make(
        [
            "zero",
            "low",
            "high",
            "CD4+ naive T cells",
            "CD14+ monocytes of the classical kind",
            "NK",
            "pDC",
        ],
        long=True,
    )
    legible(pl.gene_attention(adata, n_genes=8, return_fig=True))


def test_changes_nothing(two):
    before = two.copy()
    pl.gene_attention(two, show=False)
    pd.testing.assert_frame_equal(two.varm["gene_attention"], before.varm["gene_attention"])
    assert two.uns == before.uns


def test_errors(two):
    with pytest.raises(ValueError, match="ax holds one group, there are 2; name one with groups="):
        pl.gene_attention(two, ax=plt.figure().add_subplot(), show=False)
    with pytest.raises(KeyError, match=r"'x' is not in adata.varm.*Run tl.gene_attention first"):
        pl.gene_attention(two, key="x")
    with pytest.raises(KeyError, match=r"'x' is not in adata.varm"):
        pl.gene_attention(two, groups="x")
    with pytest.raises(ValueError, match="there is no other to take the difference to"):
        pl.gene_attention(make(["only"]))


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
