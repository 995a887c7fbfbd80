from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy.sparse import csr_matrix

import scbert_cll
from scbert_cll import pl
from scbert_cll.pl import _rows, _style

LONG = {1: "ENSG00000123456.12-AS1-LINC01234", 7: "IGHV4-39_CDR3_consensus_2"}


def genes(ax):
    return [t.get_text() for t in ax.get_yticklabels()]


def words(fig):
    """Title and caption on one line each."""
    return " ".join(fig.get_suptitle().split()), " ".join(fig.get_supxlabel().split())


def column(ax, header):
    """Texts under a header, from the first row."""
    head = next(t for t in ax.texts if t.get_text() == header)
    own = [t for t in ax.texts if t is not head and t.xyann[0] == head.xyann[0]]
    return [t.get_text() for t in sorted(own, key=lambda t: t.xy[1])]


def means(ax):
    """Per row: value and colour of the mean, and whether it is hollow."""
    found = [
        c for c in ax.collections if isinstance(c, PathCollection) and len(c.get_offsets()) == 1
    ]
    return [
        (
            c.get_offsets()[0][0],
            to_hex(c.get_edgecolor()[0]),
            to_hex(c.get_facecolor()[0]) == "#ffffff",
        )
        for c in found
    ]


def dots(ax):
    found = [
        c for c in ax.collections if isinstance(c, PathCollection) and len(c.get_offsets()) > 1
    ]
    return [c.get_offsets()[:, 0] for c in found]


def intervals(ax):
    return [c.get_segments()[0][:, 0] for c in ax.collections if isinstance(c, LineCollection)]


def test_rows_are_the_selected_genes_from_up_to_down_with_all_their_numbers(signed):
    adata = signed()
    ax = pl.signature(adata, show=False)
    held = adata.uns["signature"]
    table = held["genes"].query("selected").sort_values("log2_fc", ascending=False)
    assert genes(ax) == table["gene"].tolist()
    assert len(table) == 10
    np.testing.assert_allclose([m[0] for m in means(ax)], table["log2_fc"])
    np.testing.assert_allclose(intervals(ax), table[["low", "high"]])
    np.testing.assert_allclose(dots(ax), held["differences"].loc[table["gene"]])
    assert column(ax, "leave\none out") == ["6/6"] * 10
    assert column(ax, "q") == [_rows.number(q) for q in table["q"]]
    low, high = ax.get_ylim()
    assert low > high  # the first gene on top
    assert ax.get_xlabel() == "log₂ fold change, CD49d+ / CD49d-"


def test_directions_differ_in_colour(signed):
    colors = [m[1].upper() for m in means(pl.signature(signed(), show=False))]
    assert colors == [_style.RED] * 6 + [_style.BLUE] * 4


def test_title_says_classes_donors_and_how_many_genes_of_how_many(signed):
    title, caption = words(pl.signature(signed(), return_fig=True))
    assert (
        title == "CD49d+ against CD49d-, within 6 donors 10 of 40 genes tested pass: 6 up, 4 down"
    )
    assert caption == "Mean over donors with 95 % interval; small dots: single donors."


def test_one_gene_is_said_in_the_singular(signed, legible):
    fig = pl.signature(signed(1, 0), return_fig=True)
    assert "1 of 31 genes tested passes: 1 up, 0 down" in words(fig)[0]
    legible(fig)


def test_of_many_genes_the_clearest_of_each_direction_are_drawn_and_the_others_counted(
    signed, legible
):
    adata = signed(40, 35)
    fig = pl.signature(adata, n_genes=30, return_fig=True)
    table = adata.uns["signature"]["genes"]
    clearest = [*table["gene"][:30], *table["gene"][40:70]]
    assert set(genes(fig.axes[0])) == set(clearest)
    assert "75 of 105 genes tested pass: 40 up, 35 down (not shown: 15 less clear)" in words(fig)[0]
    legible(fig)


def test_families_are_hollow_and_named(signed, legible):
    adata = signed(
        names={0: "IGHM", 6: "HLA-A", 7: "MT-CO1"},
        families={0: "immunoglobulin", 6: "HLA", 7: "mitochondrial"},
    )
    fig = pl.signature(adata, return_fig=True)
    ax = fig.axes[0]
    expected = {"IGHM": "IG", "HLA-A": "HLA", "MT-CO1": "MT"}
    assert column(ax, "family") == [expected.get(gene, "") for gene in genes(ax)]
    assert [hollow for _, _, hollow in means(ax)] == [gene in expected for gene in genes(ax)]
    assert "Hollow: of a family" in words(fig)[1]
    legible(fig)


def test_families_can_be_left_out_and_are_counted(signed):
    fig = pl.signature(
        signed(families={0: "immunoglobulin", 6: "HLA"}), show_masked=False, return_fig=True
    )
    assert not {"GENE00", "GENE06"} & set(genes(fig.axes[0]))
    assert len(genes(fig.axes[0])) == 8
    assert "(not shown: 2 of families)" in words(fig)[0]
    with pytest.raises(StopIteration):
        column(fig.axes[0], "family")


def test_a_signature_of_families_alone_says_so_when_they_are_left_out(signed):
    adata = signed(1, 1, families={0: "HLA", 1: "HLA"})
    ax = pl.signature(adata, show_masked=False, show=False)
    assert " ".join(ax.texts[0].get_text().split()) == (
        "CD49d+ against CD49d-, within 6 donors not shown: 2 of families"
    )


def test_named_genes_are_drawn_whether_they_pass_or_not(signed):
    fig = pl.signature(signed(), genes=["GENE20", "GENE00"], return_fig=True)
    ax = fig.axes[0]
    assert genes(ax) == ["GENE00", "GENE20"]
    assert [m[1].upper() for m in means(ax)] == [_style.RED, _rows.FAINT]
    assert words(fig)[1].endswith("Grey: does not pass.")
    assert genes(pl.signature(signed(), genes="GENE03", show=False)) == ["GENE03"]


def test_attribution_stands_beside_it_where_there_is_one(signed, legible):
    adata = signed()
    table = adata.uns["signature"]["genes"]
    table["attribution_z"] = np.linspace(4, -3, len(table))
    table.loc["0", "attribution_z"] = np.nan
    fig = pl.signature(adata, figsize=(3.4, 3.2), return_fig=True)
    ax = fig.axes[0]
    z = table.set_index("gene").loc[genes(ax), "attribution_z"]
    expected = ["–" if np.isnan(v) else f"{v:+.1f}".replace("-", "−") for v in z]
    assert column(ax, "attri-\nbution z") == expected
    assert "–" in expected
    legible(fig)


def test_an_empty_signature_never_looks_like_one(signed, legible):
    adata = signed(0, 0)
    fig = pl.signature(adata, return_fig=True)
    ax = fig.axes[0]
    assert len(genes(ax)) == 15
    assert {m[1].upper() for m in means(ax)} == {_rows.FAINT}
    (said,) = [t for t in ax.texts if t.get_text() == "none passes"]
    assert said.get_position()[1] > 14.5  # below the last row
    title, caption = words(fig)
    assert title.endswith(
        "none of 30 genes tested passes: no gene has q < 0.05; the smallest is 0.4"
    )
    assert "some intervals leave out zero by chance" in caption
    legible(fig)


def test_without_a_test_there_is_only_the_reason(untestable, legible):
    fig = pl.signature(untestable, return_fig=True)
    (ax,) = fig.axes
    assert " ".join(ax.texts[0].get_text().split()) == (
        "CD49d+ against CD49d- none passes: 2 donors have 20 cells of every class, and 4 are needed"
    )
    assert not ax.axison
    legible(fig)


def test_more_classes_are_the_first_and_the_last(signed):
    fig = pl.signature(signed(classes=("zero", "low", "high")), return_fig=True)
    assert fig.axes[0].get_xlabel() == "log₂ change from first (zero) to last (high)"
    assert words(fig)[0].startswith("high against zero, within 6 donors")


def test_between_donors_is_called_confounded(signed):
    title, caption = words(pl.signature(signed(between=True), return_fig=True))
    assert title.startswith("CD49d+ against CD49d-, between 6 donors")
    assert caption.startswith("Between donors: confounded")


def test_covariates_are_named_but_those_that_cancel(signed):
    adata = signed(between=True)
    adata.uns["signature"]["params"] |= {"covariates": ["batch", "sex"]}
    title = words(pl.signature(adata, return_fig=True))[0]
    assert "between 6 donors, adjusted for batch, sex" in title.replace("\n", " ")
    adata.uns["signature"]["params"]["covariates_cancelled"] = ["sex"]
    assert "sex" not in words(pl.signature(adata, return_fig=True))[0]


def of_both(adata, unlike=()):
    """The same, joined of donors with both classes and all donors; parts of `unlike` disagree."""
    record = adata.uns["signature"]
    table = record["genes"]
    disagree = table["gene"].isin(unlike)
    table["agrees"] = table["selected"].copy()
    table["selected"] &= ~disagree
    table["p_disagree"] = np.where(disagree, 0.004, 0.62)
    for part, shift in (("within", 0.1), ("between", -0.1)):
        for name in ("log2_fc", "low", "high"):
            table[f"{name}_{part}"] = table[name] + shift
    record["genes"] = table.sort_values("selected", ascending=False, kind="stable")
    record |= {"n_donors_within": 2, "verdict": "joined: the difference is the same"}
    record["params"] |= {"design": "both", "covariates": ["trisomy12"], "alpha": 0.05}
    return adata


@pytest.mark.parametrize("figsize", [None, (3.4, 5), (7, 3)])
def test_both_parts_stand_below_the_joined_estimate_in_place_of_donors(signed, legible, figsize):
    adata = of_both(signed(families={1: "HLA"}))
    fig = pl.signature(adata, figsize=figsize, return_fig=True)
    ax = fig.axes[0]
    table = adata.uns["signature"]["genes"].set_index("gene").loc[genes(ax)]
    expected = [
        table[f"log2_fc{part}"].iloc[i] for i in range(10) for part in ("", "_within", "_between")
    ]
    np.testing.assert_allclose([m[0] for m in means(ax)], expected)
    limits = [
        table[[f"low{part}", f"high{part}"]].iloc[i]
        for i in range(10)
        for part in ("", "_within", "_between")
    ]
    np.testing.assert_allclose(intervals(ax), limits)
    colors = [m[1].upper() for m in means(ax)]
    assert colors[:3] == [_style.RED, _style.GREEN, _style.PURPLE]
    places = [c.get_offsets()[0][1] for c in ax.collections if isinstance(c, PathCollection)]
    assert np.diff(places).min() > 0.2  # each below the one before, and none in another row
    assert np.round(places).astype(int).tolist() == [i for i in range(10) for _ in range(3)]
    assert dots(ax) == []
    assert column(ax, "parts\ndiffer, p") == ["0.62"] * 10
    title, caption = words(fig)
    assert title.startswith(
        "CD49d+ against CD49d-, within 2 donors and between 6, adjusted for trisomy12 10 of 40"
    )
    assert caption.startswith("● joined, ▲ within donors, ■ between donors, with 95 % intervals.")
    assert "≠" not in caption
    legible(fig)


def test_a_gene_whose_parts_disagree_is_drawn_marked_and_counted(signed, legible):
    adata = of_both(signed(), unlike=["GENE02", "GENE20"])
    fig = pl.signature(adata, return_fig=True)
    ax = fig.axes[0]
    assert len(genes(ax)) == 10
    place = genes(ax).index("GENE02")
    assert "GENE20" not in genes(ax)  # which does not pass the test
    assert means(ax)[3 * place][1].upper() == _rows.FAINT
    marks = column(ax, "parts\ndiffer, p")
    assert [i for i, text in enumerate(marks) if text == "≠ 0.004"] == [place]
    title, caption = words(fig)
    assert "9 of 40 genes tested pass: 5 up, 4 down; 1 more would if both parts agreed" in title
    assert "not shown" not in title
    assert "≠: both parts disagree" in caption
    legible(fig)
    title = words(pl.signature(adata, n_genes=3, return_fig=True))[0]
    assert "(not shown: 3 less clear)" in title
    assert genes(pl.signature_heatmap(adata, show=False)) == [
        gene for gene in genes(ax) if gene != "GENE02"
    ]


def test_where_both_parts_were_not_joined_the_verdict_is_said(signed, legible):
    adata = signed()
    adata.uns["signature"] |= {"verdict": "not joined: the difference is another"}
    adata.uns["signature"]["params"]["design"] = "both"
    fig = pl.signature(adata, return_fig=True)
    title, caption = words(fig)
    assert title.startswith("CD49d+ against CD49d-, within 6 donors")
    assert caption.endswith("Not joined: the difference is another.")
    legible(fig)


@pytest.mark.parametrize("figsize", [None, (3.4, 3.2), (7, 3)])
def test_long_names_are_legible(signed, legible, figsize):
    adata = signed(
        names=LONG,
        families={7: "immunoglobulin", 2: "ribosomal"},
        classes=("CD4+ naive T cells", "monocytes"),
    )
    legible(pl.signature(adata, figsize=figsize, return_fig=True))


def test_users_axes(signed, legible):
    fig, ax = plt.subplots(figsize=(4.5, 3.5), layout="constrained")
    before = len(plt.get_fignums())
    assert pl.signature(signed(families={0: "HLA"}), ax=ax, show=False) is ax
    assert len(plt.get_fignums()) == before
    assert ax.get_title().startswith("CD49d+ against CD49d-")
    assert "log₂ fold change" in ax.get_xlabel()
    legible(fig)


def test_what_comes_back(signed, monkeypatch):
    assert isinstance(pl.signature(signed()), Axes)  # nothing to show on without a screen
    assert isinstance(pl.signature(signed(), return_fig=True), Figure)
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    assert pl.signature(signed(), show=True) is None
    assert shown == [True]


def test_what_tl_wrote_is_drawn_and_left_alone(tmp_path):
    adata = scbert_cll.datasets.planted_donors(n_cells=100, n_genes=60, n_planted=6)
    adata.X = csr_matrix(adata.X)
    scbert_cll.tl.signature(adata, groupby="label")
    before = adata.copy().uns["signature"]
    ax = pl.signature(adata, show=False)
    assert set(genes(ax)) == set(before["genes"].query("selected")["gene"]) != set()
    for part in ("genes", "differences", "samples", "expression"):
        pd.testing.assert_frame_equal(adata.uns["signature"][part], before[part])


@pytest.mark.parametrize("plot", [pl.signature, pl.signature_heatmap])
def test_errors(signed, plot):
    adata = signed()
    with pytest.raises(
        KeyError, match=r"'x' is not in adata.uns; it has 'signature'. Run tl.signature first."
    ):
        plot(adata, key="x")
    with pytest.raises(
        KeyError, match=r"'GENE99' is not in .*Only genes that were tested can be drawn"
    ):
        plot(adata, genes=["GENE99"])
    with pytest.raises(ValueError, match="n_genes must be at least 1; found 0"):
        plot(adata, n_genes=0)
    adata.varm["gene_attention"] = pd.DataFrame({"a": 1.0}, adata.var_names)
    del adata.uns["signature"]
    with pytest.raises(
        KeyError,
        match=r"Run tl.signature first. \(adata.varm\['gene_attention'\] is drawn by pl.gene_att",
    ):
        plot(adata)
    adata.uns["signature"] = {"something": "else"}
    with pytest.raises(
        KeyError, match=r"'genes' is not in adata.uns.*It was not written by tl.signature"
    ):
        plot(adata)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.4, "0.40"),
        (0.0472, "0.047"),
        (0.0042, "0.004"),
        (3.2e-12, "3×10⁻¹²"),
        (9.7e-5, "1×10⁻⁴"),
        (0.0, "<10⁻³⁰⁰"),
        (np.nan, "–"),
    ],
)
def test_q_is_short(value, text):
    assert _rows.number(value) == text
