from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

import scbert_cll as sc_cll
from scbert_cll import pl

FOUR = {"Binet A": 0.05, "Binet B": 0.15, "Binet C, as at diagnosis": 0.3, "unknown": 0.5}


def steps(ax, style="-"):
    """Curves: x, y and colour."""
    found = [
        line
        for line in ax.lines
        if line.get_drawstyle() == "steps-post" and line.get_linestyle() == style
    ]
    return [(line.get_xdata(), line.get_ydata(), to_hex(line.get_color())) for line in found]


def ticks(ax):
    return [line.get_xdata() for line in ax.lines if line.get_marker() == "|"]


def said_in(ax):
    """The lines in the plot."""
    return ax.texts[-1].get_text().split("\n")


def table(fig):
    """All texts, those of the table above among them."""
    return [t.get_text() for t in fig.findobj(Text) if t.get_text()]


def at_risk(ax, name):
    """The numbers in a group's line under the axis."""
    label = next(t for t in ax.texts if t.get_text() == name)
    own = [
        t
        for t in ax.texts
        if t is not label and hasattr(t, "xyann") and t.xyann[1] == label.xyann[1]
    ]
    return {t.xy[0]: int(t.get_text()) for t in own}


def caption(fig):
    return " ".join(fig.get_supxlabel().split())


def test_curves_are_the_table_in_per_cent_with_band_and_censored_patients(survived):
    adata = survived()
    ax = pl.survival(adata, show=False)
    curves = adata.uns["survival"]["curves"]
    assert isinstance(ax, Axes)
    for (x, y, _), seen, (_, own) in zip(
        steps(ax), ticks(ax), curves.groupby("group", sort=False), strict=True
    ):
        np.testing.assert_allclose(x, own["time"])
        np.testing.assert_allclose(y, 100 * own["survival"])
        np.testing.assert_allclose(seen, own.loc[own["n_censored"] > 0, "time"])
    bands = [
        c.get_paths()[0].vertices[:, 1] for c in ax.collections if isinstance(c, PolyCollection)
    ]
    low = curves.groupby("group", sort=False)["ci_low"].min() * 100
    np.testing.assert_allclose([band.min() for band in bands], low)
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylim()[1] == pytest.approx(100, abs=3)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("TTT, years", "without event (treated), %")


def test_groups_differ_in_colour_and_their_names_have_it(survived):
    fig = pl.survival(survived(FOUR), figsize=(6, 4), return_fig=True)
    colors = [color for _, _, color in steps(fig.axes[0])]
    assert len(set(colors)) == 4
    for name, color in zip(["Binet A", "Binet B"], colors, strict=False):
        assert {to_hex(t.get_color()) for t in fig.findobj(Text) if t.get_text() == name} == {color}


def test_numbers_at_risk_are_those_just_before_each_tick(survived):
    adata = survived()
    ax = pl.survival(adata, show=False)
    curves = adata.uns["survival"]["curves"]
    for name, own in curves.groupby("group"):
        gone = (own["n_events"] + own["n_censored"]).to_numpy()
        expected = {
            t: own["at_risk"].iloc[0] - gone[own["time"] < t].sum() for t in ax.get_xticks()
        }
        assert at_risk(ax, name) == expected
    assert not [
        t for t in pl.survival(adata, at_risk=False, show=False).texts if t.get_text() == "at risk"
    ]


def test_two_groups_have_test_and_ratio_in_the_plot_and_counts_above(survived):
    adata = survived()
    fig = pl.survival(adata, return_fig=True)
    assert said_in(fig.axes[0]) == ["hazard ratio 3.50 (2.35–5.22)", "log-rank p = 3×10⁻⁴"]
    groups = adata.uns["survival"]["groups"]
    assert {f"{n}/60" for n in groups["n_events"]} | {"median (years)", "events/patients"} <= set(
        table(fig)
    )
    assert "2.2 (1.8–NR)" in table(fig)
    assert "NR: not reached." in caption(fig)


def test_more_groups_have_their_ratios_above(survived):
    fig = pl.survival(survived(FOUR, n=40), return_fig=True)
    assert said_in(fig.axes[0]) == ["log-rank p = 3×10⁻⁴"]
    assert {"hazard ratio", "1", "3.00 (2.01–4.48)", "10.0 (6.70–14.9)"} <= set(table(fig))


@pytest.mark.parametrize("n_groups", [2, 4])
@pytest.mark.parametrize("incidence", [False, True])
def test_column_width_is_legible(survived, legible, n_groups, incidence):
    names = dict(list(FOUR.items())[-n_groups:])
    adata = survived(names, n=45, competing=True)
    legible(pl.survival(adata, incidence=incidence, figsize=(3.35, 3.5), return_fig=True))


def test_thousands_of_patients_are_legible(survived, legible):
    adata = survived(
        {"CD49d negative, homogeneous": 0.03, "CD49d positive or bimodal": 0.4}, n=1500
    )
    legible(pl.survival(adata, figsize=(3.35, 3.2), return_fig=True))


def test_curves_end_where_few_are_at_risk_and_later_events_are_counted(survived):
    adata = survived()
    fig = pl.survival(adata, return_fig=True)
    curves, end = adata.uns["survival"]["curves"], fig.axes[0].get_xlim()[1]
    left = [own.loc[own["time"] >= end, "at_risk"].max() for _, own in curves.groupby("group")]
    assert 12 <= np.nansum(left) < 12 + len(left)  # a tenth of 120; the others end within this step
    later = curves.loc[curves["time"] > end, "n_events"].sum()
    assert later == 2
    assert "2 events later, when few are at risk." in caption(fig)


def test_max_time_ends_them_elsewhere(survived):
    fig = pl.survival(survived(), max_time=5, return_fig=True)
    assert fig.axes[0].get_xlim() == (0, 5)
    with pytest.raises(ValueError, match="max_time must be a number from"):
        pl.survival(survived(), max_time=0)


def test_months_are_ticked_in_half_years(survived):
    ax = pl.survival(survived(), time_unit="months", show=False)
    assert ax.get_xlabel() == "TTT, months"
    assert set(np.diff(ax.get_xticks())) <= {6.0, 12.0, 24.0, 36.0}


def test_incidence_goes_up_with_the_competing_one_dashed(survived):
    adata = survived(competing=True)
    fig = pl.survival(adata, incidence=True, return_fig=True)
    ax = fig.axes[0]
    held = adata.uns["survival"]
    for style, cause in (("-", "event"), ("--", "competing")):
        own = held["incidence"][held["incidence"]["cause"] == cause].groupby("group", sort=False)[
            "incidence"
        ]
        for (x, y, _), (name, values) in zip(steps(ax, style), own, strict=True):
            np.testing.assert_allclose(y[:-1], 100 * values)
            assert x[-1] == held["curves"].loc[held["curves"]["group"] == name, "time"].max()
            assert y[-1] == y[-2]
    assert ax.get_ylabel() == "with event (treated), %"
    assert "Dashed: died_untreated (competing)." in caption(fig)
    assert said_in(ax)[1] == "cause-specific log-rank p = 3×10⁻⁴"
    assert "median (years)" not in table(fig)  # it would be Kaplan–Meier's
    assert "NR" not in caption(fig)
    assert "died_untreated counts as censored." in caption(pl.survival(adata, return_fig=True))


def test_incidence_needs_competing_events(survived):
    with pytest.raises(KeyError, match=r"Run tl.survival with competing_key="):
        pl.survival(survived(), incidence=True)


def test_a_cut_signature_never_shows_its_p_without_that_of_random_sets(prognosed):
    adata = prognosed()
    test = adata.uns["prognosis"]["null_tests"].iloc[0]
    share = f"({100 * test['share_significant']:.0f} % of these have p < 0.05)"
    shown = said_in(pl.survival(adata, key="prognosis", show=False))
    assert shown[2:] == [f"against random gene sets p = {test['empirical_p']:.2f}", share]


@pytest.mark.parametrize("how", ["no table", "no sets"])
def test_without_random_sets_that_is_said(prognosed, how):
    adata = prognosed()
    if how == "no table":
        del adata.uns["prognosis"]["null_tests"]
    else:
        adata.uns["prognosis"]["null_tests"]["empirical_p"] = np.nan
    assert (
        said_in(pl.survival(adata, key="prognosis", show=False))[-1]
        == "not compared with random gene sets"
    )


def test_groups_without_events_and_undefined_tests_are_said(survived, legible):
    adata = survived({"none": 0, "one": 0.02}, n=12)
    adata.uns["survival"]["logrank"]["p"] = np.nan
    fig = pl.survival(adata, return_fig=True)
    assert said_in(fig.axes[0]) == [
        "hazard ratio: a group has no events",
        "log-rank test: undefined",
    ]
    assert table(fig).count("NR") == 2
    legible(fig)


def test_one_event_is_drawn(survived, legible):
    adata = survived({"a": 0, "b": 0}, n=8)
    curves = adata.uns["survival"]["curves"]
    row = curves.index[curves["group"] == "b"][3]
    curves.loc[row, ["survival", "n_events"]] = [0.8, 1]
    legible(pl.survival(adata, return_fig=True))


def test_late_entry_left_out_patients_and_changing_ratios_are_said(survived):
    adata = survived()
    held = adata.uns["survival"]
    held["params"]["entry_key"] = "years_to_sample"
    held["flow"] = pd.DataFrame(
        {"n_left_out": [0, 7, 9], "n": [127, 120, 111]}
    )  # the 9 only want a covariate
    held["groups"]["ph_p"] = [np.nan, 0.01]
    said = caption(pl.survival(adata, return_fig=True))
    assert "Patients count from their entry on." in said
    assert "7 patients left out (see flow)." in said
    assert "The hazard ratio changes with time: an average." in said


def test_nobody_is_at_risk_before_the_first_enters(survived):
    adata = survived()
    adata.uns["survival"]["curves"]["time"] += 1.5
    ax = pl.survival(adata, show=False)
    assert at_risk(ax, "mutated")[0] == 0
    assert max(at_risk(ax, "mutated").values()) > 50


def test_the_test_stands_where_no_curve_is(survived):
    adata = survived({"a": 0.02, "b": 0.03})
    fig = pl.survival(adata, return_fig=True)
    low = fig.axes[0].texts[-1].get_position()[1] < 0.1
    adata = survived({"a": 0.8, "b": 1.2})
    high = pl.survival(adata, max_time=6, show=False).texts[-1].get_position()[1] > 0.9
    assert low
    assert high


def test_axes_of_the_user_hold_tables_and_caption(survived, legible):
    fig, axes = plt.subplots(1, 2, figsize=(7.5, 3.4), layout="constrained")
    assert pl.survival(survived(), ax=axes[0], show=False) is axes[0]
    pl.survival(survived({"a": 0.1, "b": 0.2}), ax=axes[1], at_risk=False, show=False)
    assert any("ticks: censored" in t.get_text() for t in axes[1].texts)
    legible(fig)


def test_figure_and_missing_result(survived):
    adata = survived()
    assert isinstance(pl.survival(adata, return_fig=True), Figure)
    with pytest.raises(KeyError, match=r"Run tl.survival or tl.prognosis first"):
        pl.survival(adata, key="prognosis")


@pytest.mark.filterwarnings("ignore:The hazard ratio of")
def test_what_tl_survival_writes_is_drawn(legible):
    adata = sc_cll.datasets.cll_cohort(n_patients=150, n_genes=200)
    sc_cll.tl.survival(
        adata, "IGHV", time_key="TTFT", event_key="treated", entry_key="years_to_sample"
    )
    legible(pl.survival(adata, return_fig=True))
    sc_cll.tl.survival(
        adata, "Binet", time_key="TTT", event_key="treated", competing_key="died_untreated"
    )
    legible(pl.survival(adata, incidence=True, return_fig=True))
