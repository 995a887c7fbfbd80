from __future__ import annotations

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import scbert_cll
from scbert_cll import pl


def genes(ax):
    return [t.get_text() for t in ax.get_yticklabels()]


def columns(ax):
    return [t.get_text() for t in ax.get_xticklabels()]


def values(ax):
    return np.asarray(ax.images[0].get_array())


def strip(ax):
    """Colour of the class above each column, from left to right."""
    found = sorted((p for p in ax.patches if isinstance(p, Rectangle)), key=lambda p: p.get_x())
    return [to_hex(p.get_facecolor()) for p in found]


def legend(ax):
    handles = ax.get_legend().legend_handles
    names = [t.get_text() for t in ax.get_legend().get_texts()]
    return {name: to_hex(h.get_facecolor()) for name, h in zip(names, handles, strict=True)}


def expected(adata, column):
    """Log2 sums of one donor and class, less the donor's mean, of the genes from up to down."""
    held = adata.uns["signature"]
    order = held["genes"].query("selected").sort_values("log2_fc", ascending=False)["gene"]
    donor = column.split("|")[0]
    own = [c for c in held["expression"].columns if c.split("|")[0] == donor]
    log = held["expression"].loc[order]
    return order.tolist(), (log[column] - log[own].mean(axis=1)).to_numpy()


def test_cells_are_the_sums_less_the_donors_mean_by_class(signed):
    adata = signed()
    ax = pl.signature_heatmap(adata, show=False)
    order, first = expected(adata, "CLL01|CD49d-")
    _, last = expected(adata, "CLL06|CD49d+")
    assert genes(ax) == order
    assert columns(ax) == [f"CLL0{i}" for i in range(1, 7)] * 2
    np.testing.assert_allclose(values(ax)[:, 0], first)
    np.testing.assert_allclose(values(ax)[:, -1], last)
    negative, positive = legend(ax).values()
    assert strip(ax) == [negative] * 6 + [positive] * 6
    assert list(legend(ax)) == ["CD49d-", "CD49d+"]


def test_columns_of_a_donor_side_by_side(signed):
    adata = signed(classes=("zero", "low", "high"))
    ax = pl.signature_heatmap(adata, order_by="donor", show=False)
    np.testing.assert_allclose(values(ax)[:, 5], expected(adata, "CLL02|high")[1])
    assert columns(ax) == [f"CLL0{i}" for i in range(1, 7)]
    np.testing.assert_allclose(ax.get_xticks(), 3 * np.arange(6) + 1)
    assert strip(ax) == list(legend(ax).values()) * 6
    assert list(legend(ax)) == ["zero", "low", "high"]


def test_colours_are_even_around_zero_and_have_a_unit(signed):
    fig = pl.signature_heatmap(signed(), return_fig=True)
    low, high = fig.axes[0].images[0].get_clim()
    assert low == -high < 0
    assert fig.axes[1].get_xlabel() == "log₂ expression − donor's mean"
    wide = pl.signature_heatmap(signed(), figsize=(7, 4), return_fig=True)
    assert wide.axes[1].get_ylabel() == "log₂ expression − donor's mean"


@pytest.mark.parametrize("most", [0.6, 1.06, 2.4])
def test_numbers_of_the_colour_bar_are_a_number_apart(signed, most):
    adata = signed()
    held = adata.uns["signature"]
    held["expression"] *= most / np.abs(values(pl.signature_heatmap(adata, show=False))).max()
    fig = pl.signature_heatmap(adata, figsize=(4.0, 5.0), return_fig=True)
    fig.canvas.draw()
    ticks = fig.axes[1].get_xticklabels()
    boxes = [
        t.get_window_extent()
        for t in ticks
        if fig.axes[1].get_xlim()[0] <= t.get_position()[0] <= fig.axes[1].get_xlim()[1]
    ]
    assert len(boxes) >= 3
    gaps = [right.x0 - left.x1 for left, right in pairwise(boxes)]
    assert min(gaps) > 5


def test_directions_are_named_and_apart(signed):
    ax = pl.signature_heatmap(signed(), show=False)
    assert [t.get_text() for t in ax.texts] == ["up", "down"]
    assert 5.5 in [line.get_ydata()[0] for line in ax.lines]
    assert [t.get_text() for t in pl.signature_heatmap(signed(0, 3), show=False).texts] == ["down"]


def test_between_donors_the_genes_mean_is_taken(signed):
    fig = pl.signature_heatmap(signed(between=True), return_fig=True)
    np.testing.assert_allclose(values(fig.axes[0]).mean(axis=1), 0, atol=1e-9)
    assert fig.axes[1].get_xlabel() == "log₂ expression − gene's mean"
    assert "confounded" in fig.get_supxlabel()


def test_names_with_the_separator_and_columns_in_any_order(signed):
    adata = signed(classes=("a|b", "c|d"))
    np.testing.assert_allclose(
        values(pl.signature_heatmap(adata, show=False)),
        values(pl.signature_heatmap(signed(), show=False)),
    )


@pytest.mark.parametrize("what", ["empty", "untestable"])
def test_an_empty_signature_is_a_reason_and_no_picture(what, signed, untestable, legible):
    adata = signed(0, 0) if what == "empty" else untestable
    fig = pl.signature_heatmap(adata, return_fig=True)
    (ax,) = fig.axes
    assert not ax.images
    assert f"none passes: {adata.uns['signature']['reason']}" in " ".join(
        ax.texts[0].get_text().split()
    )
    legible(fig)


def test_named_genes_of_an_empty_signature_are_said_not_to_pass(signed):
    fig = pl.signature_heatmap(signed(0, 0), genes=["GENE03"], return_fig=True)
    assert genes(fig.axes[0]) == ["GENE03"]
    assert "none of 30 genes tested passes" in " ".join(fig.get_suptitle().split())


@pytest.mark.parametrize("order_by", ["class", "donor"])
@pytest.mark.parametrize("width", [3.4, 7])
def test_column_width_and_full_width_are_legible(signed, legible, width, order_by):
    adata = signed(12, 8, n_donors=8, names={3: "ENSG00000123456.12-AS1-LINC01234"})
    legible(pl.signature_heatmap(adata, figsize=(width, 4.5), order_by=order_by, return_fig=True))


def test_a_column_has_room_for_the_names_of_eight_donors(signed):
    for order_by in ("class", "donor"):
        assert columns(
            pl.signature_heatmap(
                signed(n_donors=8), figsize=(3.4, 4), order_by=order_by, show=False
            )
        )


@pytest.mark.parametrize(("n_up", "n_donors"), [(1, 4), (60, 40)])
def test_few_and_many(signed, legible, n_up, n_donors):
    fig = pl.signature_heatmap(signed(n_up, 0, n_donors=n_donors), n_genes=60, return_fig=True)
    assert values(fig.axes[0]).shape == (n_up, 2 * n_donors)
    assert (fig.axes[0].get_xlabel() == "40 donors") == (n_donors == 40)
    legible(fig)


def test_users_axes_and_what_comes_back(signed, legible, monkeypatch):
    fig, ax = plt.subplots(figsize=(4, 4), layout="constrained")
    assert pl.signature_heatmap(signed(), ax=ax, show=False) is ax
    assert ax.get_title().startswith("CD49d+ against CD49d-")
    legible(fig)
    assert isinstance(pl.signature_heatmap(signed()), Axes)  # nothing to show on without a screen
    assert isinstance(pl.signature_heatmap(signed(), return_fig=True), Figure)
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    assert pl.signature_heatmap(signed(), show=True) is None
    assert shown == [True]


def test_what_tl_wrote_is_drawn():
    adata = scbert_cll.datasets.planted_donors(n_cells=100, n_genes=60, n_planted=6)
    scbert_cll.tl.signature(adata, groupby="label")
    ax = pl.signature_heatmap(adata, show=False)
    table = adata.uns["signature"]["genes"].set_index("gene")
    shown = values(ax)
    change = shown[:, 8:].mean(axis=1) - shown[:, :8].mean(axis=1)
    np.testing.assert_allclose(change, table.loc[genes(ax), "log2_fc"])


def test_errors(signed):
    adata = signed()
    with pytest.raises(ValueError, match="order_by must be one of 'class', 'donor'; found 'x'"):
        pl.signature_heatmap(adata, order_by="x")
    del adata.uns["signature"]["expression"]
    with pytest.raises(KeyError, match=r"'expression' is not in adata.uns.*Run tl.signature again"):
        pl.signature_heatmap(adata)
