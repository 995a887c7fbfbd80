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
