from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex

import scbert_cll as sc_cll
from scbert_cll import pl
from scbert_cll.pl import _forest, _rows, _style


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
    assert _forest.adjustment(model) == adjusted


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
