from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex

import scbert_cll as sc_cll
from scbert_cll import pl
from scbert_cll.pl import _prognosis, _rows, _style


def names(ax):
    return [t.get_text() for t in ax.get_yticklabels()]


def column(ax, header):
    head = next(t for t in ax.texts if t.get_text() == header)
    own = [t for t in ax.texts if t is not head and t.xyann[0] == head.xyann[0]]
    return [t.get_text() for t in sorted(own, key=lambda t: t.xy[1])]


def points(ax):
    """Per row: ratio, colour, and whether it is hollow."""
    found = [c for c in ax.collections if isinstance(c, PathCollection)]
    return [
        (
            c.get_offsets()[0][0],
            to_hex(c.get_edgecolor()[0]).upper(),
            to_hex(c.get_facecolor()[0]) == "#ffffff",
        )
        for c in found
    ]


def intervals(ax):
    return [c.get_segments()[0][:, 0] for c in ax.collections if isinstance(c, LineCollection)]


def rows(adata, model):
    table = adata.uns["prognosis"]["cox"].query("model == @model")
    return table.sort_values("variable", key=lambda v: v != "score", kind="stable")


def test_rows_are_the_variables_of_clinical_and_score_with_the_score_on_top(prognosed):
    adata = prognosed()
    fig = pl.forest(adata, return_fig=True)
    ax, table = fig.axes[0], rows(adata, "clinical + score")
    assert names(ax) == ["score (per SD)", *table["variable"][1:]]
    np.testing.assert_allclose([p[0] for p in points(ax)], table["ratio"])
    np.testing.assert_allclose(intervals(ax), table[["ci_low", "ci_high"]])
    assert [p[1] for p in points(ax)] == [_style.BLUE] + [_style.GREY] * 6
    assert column(ax, "HR (95 % CI)")[0] == "1.30 (1.03–1.64)"
    assert column(ax, "p") == [_rows.number(p) for p in table["p"]]
    assert ax.get_xscale() == "log"
    assert ax.get_xlabel() == "hazard ratio (log scale)"
    assert fig.get_suptitle() == "clinical + score: 171 patients, 88 events"


def test_the_score_has_the_p_against_random_sets_beside_the_same_covariates(prognosed):
    adata = prognosed()
    tests = adata.uns["prognosis"]["null_tests"].set_index("adjusted")["empirical_p"]
    for model, adjusted in (("score", "none"), ("clinical + score", "clinical")):
        shown = column(pl.forest(adata, model=model, show=False), "p, random\ngene sets")
        assert shown[0] == _rows.number(tests[adjusted])
        assert set(shown[1:]) <= {""}


@pytest.mark.parametrize(
    ("model", "adjusted"),
    [
        ("score", "none"),
        ("score (complete cases)", "none"),
        ("clinical + score", "clinical"),
        ("score + proliferation", "proliferation"),
        ("clinical + score + proliferation", "clinical + proliferation"),
    ],
)
def test_models_and_tests_are_matched_by_what_is_beside_the_score(model, adjusted):
    assert _prognosis.adjustment(model) == adjusted


def test_without_random_sets_or_score_there_is_no_such_column(prognosed):
    adata = prognosed()
    with pytest.raises(StopIteration):
        column(pl.forest(adata, model="clinical", show=False), "p, random\ngene sets")
    adata.uns["prognosis"]["null_tests"]["empirical_p"] = np.nan
    with pytest.raises(StopIteration):
        column(pl.forest(adata, show=False), "p, random\ngene sets")


def test_two_models_share_rows_the_second_hollow(prognosed, legible):
    adata = prognosed()
    fig = pl.forest(adata, model=["score", "clinical + score"], return_fig=True)
    ax = fig.axes[0]
    assert names(ax)[:3] == ["score (per SD)", "", "IGHV: unmutated"]
    assert [p[2] for p in points(ax)] == [False] + [True] * 7
    np.testing.assert_allclose([p[0] for p in points(ax)][:2], [1.6, 1.3])
    assert fig.get_suptitle() == (
        "● score: 250 patients, 130 events\n○ clinical + score: 171 patients, 88 events"
    )
    legible(fig)


def test_a_dagger_marks_hazards_that_are_not_proportional(prognosed, legible):
    fig = pl.forest(prognosed(violated=("trisomy12",)), return_fig=True)
    assert "trisomy12 †" in names(fig.axes[0])
    assert sum("†" in name for name in names(fig.axes[0])) == 1
    assert " ".join(fig.get_supxlabel().split()) == (
        "† Hazards not proportional (trisomy12 p = 0.012): the ratio is an average over time."
    )
    legible(fig)
    assert pl.forest(prognosed(), return_fig=True).get_supxlabel() == ""


def test_odds_ratios_are_called_so(prognosed):
    ax = pl.forest(prognosed(measure="OR"), show=False)
    assert ax.get_xlabel() == "odds ratio (log scale)"
    assert len(column(ax, "OR (95 % CI)")) == 7


def test_what_goes_beyond_the_axes_is_an_arrow(prognosed, legible):
    adata = prognosed(
        covariates={"a_very_long_variable_name: and category": 3.0, "tiny": 0.01, "wild": 200}
    )
    fig = pl.forest(adata, figsize=(3.35, 2.4), return_fig=True)
    ax = fig.axes[0]
    arrows = {
        (line.get_marker(), line.get_ydata()[0]) for line in ax.lines if line.get_marker() in "<>"
    }
    assert arrows == {("<", 2), (">", 3)}
    low, high = ax.get_xlim()
    assert low > 0.01
    assert high < 200
    assert column(ax, "HR (95 % CI)")[3] == "200 (111–360)"
    assert "…" in names(ax)[1]
    legible(fig)


def test_an_interval_without_end_is_drawn_to_the_edge(prognosed):
    adata = prognosed()
    table = adata.uns["prognosis"]["cox"]
    table.loc[table["variable"] == "TP53", ["ratio", "ci_low", "ci_high"]] = [1.8, np.nan, np.inf]
    table.loc[table["variable"] == "NOTCH1", ["ratio", "ci_low", "ci_high", "p"]] = np.nan
    ax = pl.forest(adata, show=False)
    np.testing.assert_allclose(intervals(ax)[2], ax.get_xlim())
    assert len(points(ax)) == 6
    assert column(ax, "HR (95 % CI)")[4] == "–"


def test_models_are_looked_up(prognosed):
    adata = prognosed()
    with pytest.raises(KeyError, match=r"'all' is not in the column 'model'.*'clinical \+ score'"):
        pl.forest(adata, model="all")
    with pytest.raises(ValueError, match="model must name one or two models; found 3"):
        pl.forest(adata, model=["score", "clinical", "clinical + score"])
    with pytest.raises(KeyError, match=r"'other' is not in adata.uns"):
        pl.forest(adata, key="other")


def test_without_clinical_covariates_the_largest_model_with_the_score_is_drawn(prognosed):
    adata = prognosed()
    table = adata.uns["prognosis"]["cox"]
    table = table[~table["model"].str.contains("score") | (table["model"] == "score")]
    adata.uns["prognosis"]["cox"] = table
    assert names(pl.forest(adata, show=False)) == ["score (per SD)"]
    adata.uns["prognosis"]["cox"] = table[table["model"] == "clinical"]
    assert len(names(pl.forest(adata, show=False))) == 6


def test_axes_of_the_user(prognosed, legible):
    fig, axes = plt.subplots(1, 2, figsize=(7.5, 3), layout="constrained")
    assert pl.forest(prognosed(), ax=axes[0], show=False) is axes[0]
    assert isinstance(pl.forest(prognosed(), model="clinical", ax=axes[1], show=False), Axes)
    legible(fig)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.001, "<0.01"),
        (0.044, "0.04"),
        (1.304, "1.30"),
        (9.996, "10.0"),
        (99.96, "100"),
        (1e6, ">999"),
        (np.nan, "–"),
    ],
)
def test_ratios_in_few_characters(value, text):
    assert _rows.ratio(value) == text


@pytest.mark.filterwarnings("ignore:The hazard ratio of")
def test_what_tl_survival_writes_is_drawn(legible):
    adata = sc_cll.datasets.cll_cohort(n_patients=150, n_genes=200)
    sc_cll.tl.survival(
        adata, "IGHV", time_key="TTT", event_key="treated", covariates=["TP53", "age"]
    )
    fig = pl.forest(adata, key="survival", return_fig=True)
    assert {name.removesuffix(" †") for name in names(fig.axes[0])} == {
        "IGHV: unmutated",
        "TP53",
        "age",
    }
    legible(fig)


def heights(ax, color):
    """Bars of a colour: left edge and height."""
    return [
        (b.get_x(), b.get_height())
        for b in ax.patches
        if to_hex(b.get_facecolor()).upper() == color
    ]


def observed(ax):
    """Where the line of the signature is."""
    return next(line.get_xdata()[0] for line in ax.lines if line.get_label() == "signature")


def test_a_panel_per_adjustment_with_all_its_sets(prognosed):
    adata = prognosed()
    axes = pl.prognosis_null(adata, show=False)
    null, tests = adata.uns["prognosis"]["null"], adata.uns["prognosis"]["null_tests"]
    for ax, test in zip(axes, tests.to_dict("records"), strict=True):
        sizes = null.loc[null["adjusted"] == test["adjusted"], "z"].abs()
        small, large = heights(ax, _style.LIGHT), heights(ax, _style.ORANGE)
        assert sum(h for _, h in small) == (sizes < 1.96).sum()
        assert sum(h for _, h in large) == (sizes >= 1.96).sum()
        assert min(x for x, h in large if h) >= 1.96 - 1e-9
        assert observed(ax) == abs(test["z"])
        assert ax.get_xlim()[1] > max(sizes.max(), abs(test["z"]))
    assert len({ax.get_xlim() for ax in axes}) == 1


def test_titles_say_both_p_and_how_usual_a_small_one_is(prognosed):
    adata = prognosed()
    titles = [ax.get_title(loc="left") for ax in pl.prognosis_null(adata, show=False)]
    test = adata.uns["prognosis"]["null_tests"].iloc[0]
    assert titles[0].split("\n") == [
        "not adjusted",
        f"naive p = 5×10⁻⁴, empirical p = {test['empirical_p']:.2f}",
        f"{100 * test['share_significant']:.0f} % of 200 random sets have p < 0.05",
    ]
    assert [title.split("\n")[0] for title in titles[1:]] == [
        "adjusted: clinical",
        "adjusted: clinical + proliferation",
    ]


def test_titles_of_many_sets_have_room(prognosed, legible):
    adata = prognosed(n_sets=1000)
    adata.uns["prognosis"]["null_tests"]["share_significant"] = 1.0
    legible(pl.prognosis_null(adata, return_fig=True))


def test_what_the_naive_p_takes_for_granted_has_the_area_of_the_sets(prognosed):
    ax = pl.prognosis_null(prognosed(n_sets=1000), adjusted="clinical", show=False)
    x, y = next(line.get_data() for line in ax.lines if line.get_label() == "if no gene mattered")
    width = np.diff([b.get_x() for b in ax.patches][:2])[0]
    assert np.trapezoid(y, x) / width == pytest.approx(1000, rel=0.01)


def test_a_negative_z_is_drawn_by_its_size(prognosed):
    adata = prognosed()
    adata.uns["prognosis"]["null_tests"]["z"] *= -1
    assert observed(pl.prognosis_null(adata, adjusted="none", show=False)) == 3.9


@pytest.mark.parametrize("figsize", [None, (3.35, 6.5)])
def test_figures_are_legible(prognosed, legible, figsize):
    legible(pl.prognosis_null(prognosed(), figsize=figsize, return_fig=True))


def test_one_adjustment_in_axes_of_the_user(prognosed):
    adata = prognosed()
    _, ax = plt.subplots()
    assert pl.prognosis_null(adata, adjusted="none", ax=ax, show=False) is ax
    assert isinstance(pl.prognosis_null(adata, adjusted=["clinical"], show=False), Axes)
    with pytest.raises(ValueError, match="ax holds one adjustment, there are 3"):
        pl.prognosis_null(adata, ax=ax)


def test_what_is_not_there_is_said(prognosed):
    adata = prognosed()
    with pytest.raises(
        KeyError, match=r"'age' is not in the column 'adjusted'.*'none', 'clinical'"
    ):
        pl.prognosis_null(adata, adjusted="age")
    adata.uns["prognosis"]["null"] = adata.uns["prognosis"]["null"].iloc[:0]
    with pytest.raises(ValueError, match="holds no random sets of genes"):
        pl.prognosis_null(adata)
    del adata.uns["prognosis"]["null_tests"]
    with pytest.raises(KeyError, match=r"'null_tests' is not in adata.uns"):
        pl.prognosis_null(adata)


@pytest.mark.filterwarnings("ignore:The hazard ratio of")
def test_what_tl_prognosis_writes_is_drawn(legible):
    adata = sc_cll.datasets.cll_cohort(n_patients=150, n_genes=300)
    asked = {"covariates": ["IGHV"], "n_random": 50, "n_bootstrap": 0}
    truth = adata.uns["truth"]["signature"]
    sc_cll.tl.prognosis(adata, truth, time_key="TTT", event_key="treated", **asked)
    legible(pl.prognosis_null(adata, return_fig=True))
    legible(pl.forest(adata, return_fig=True))
    fig = pl.survival(adata, key="prognosis", return_fig=True)
    assert "against random gene sets p = " in fig.axes[0].texts[-1].get_text()
    legible(fig)
