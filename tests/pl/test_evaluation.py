from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex

from scbert_cll import get, pl
from scbert_cll.pl import _style


def rows(ax, names=None):
    """Name of each row, and its dot: place, colour and whether it is filled."""
    names = names or [t.get_text() for t in ax.get_yticklabels()]
    found = {}
    for dots in (c for c in ax.collections if isinstance(c, PathCollection)):
        at = dots.get_offsets()
        if len(at) == 1 and float(at[0, 1]).is_integer():
            filled = to_hex(dots.get_facecolor()[0]) != "#ffffff"
            found[names[int(at[0, 1])]] = (
                at[0, 0],
                to_hex(dots.get_edgecolor()[0]).upper(),
                filled,
            )
    return found


def lines(ax):
    return {line.get_label(): line.get_xdata()[0] for line in ax.lines}


def test_estimates_and_order(evaluated):
    adata = evaluated(8)
    axes = pl.evaluation(adata, show=False)
    assert [ax.get_title() for ax in axes] == ["macro-F1", "AUROC"]
    table = get.evaluation(adata, metric="macro_f1")
    names = [t.get_text() for t in axes[0].get_yticklabels()]
    assert names == table["model"].tolist()
    assert axes[0].yaxis_inverted()
    for ax, metric in zip(axes, ("macro_f1", "auroc"), strict=True):
        truth = get.evaluation(adata, metric=metric).set_index("model")["estimate"]
        assert {name: x for name, (x, *_) in rows(ax, names).items()} == pytest.approx(
            truth.to_dict()
        )


def test_intervals_and_repeats(evaluated):
    adata = evaluated(2)
    ax = pl.evaluation(adata, metrics="auroc", show=False)
    truth = get.evaluation(adata, metric="auroc", model="scbert").iloc[0]
    segments = [
        s for c in ax.collections if isinstance(c, LineCollection) for s in c.get_segments()
    ]
    assert any(np.allclose(s[:, 0], [truth["low"], truth["high"]]) for s in segments)
    scores = get.evaluation(adata, table="scores", metric="auroc", model="scbert")["value"]
    many = [c.get_offsets()[:, 0] for c in ax.collections if len(c.get_offsets()) == 3]
    assert any(np.allclose(np.sort(x), np.sort(scores)) for x in many)


def test_baselines_are_told_apart(evaluated):
    adata = evaluated(4)
    ax = pl.evaluation(adata, metrics=["macro_f1"], show=False)
    colors = {name: color for name, (_, color, _) in rows(ax).items()}
    assert colors.pop("scbert") == _style.BLUE
    assert set(colors.values()) == {_style.ORANGE}
    dots = [
        c for c in ax.collections if isinstance(c, PathCollection) and len(c.get_offsets()) == 1
    ]
    shapes = {to_hex(c.get_edgecolor()[0]).upper(): len(c.get_paths()[0].vertices) for c in dots}
    assert shapes[_style.BLUE] != shapes[_style.ORANGE]
    labels = [t.get_text() for t in ax.figure.legends[0].get_texts()]
    assert labels == ["scBERT", "baseline", "single repeat", "best baseline", "chance"]


def test_baselines_by_name_where_none_are_named(evaluated):
    adata = evaluated(4)
    del adata.uns["cv"]["params"]["baselines"]
    colors = {
        name: color
        for name, (_, color, _) in rows(pl.evaluation(adata, metrics="auroc", show=False)).items()
    }
    assert [name for name, color in colors.items() if color == _style.BLUE] == ["scbert"]


def test_own_models_need_not_be_scbert(evaluated):
    adata = evaluated(4)
    adata.uns["cv"]["params"]["baselines"] = ["majority"]
    ax = pl.evaluation(adata, metrics="auroc", show=False)
    assert ax.figure.legends[0].get_texts()[0].get_text() == "model"


def test_lines_to_be_ahead_of(evaluated):
    adata = evaluated(8)
    ax = pl.evaluation(adata, metrics="auroc", models=["scbert", "knn"], show=False)
    table = get.evaluation(adata, metric="auroc")
    best = table.loc[~table["model"].str.contains("scbert"), "estimate"].max()
    assert lines(ax) == {"chance": 0.5, "best baseline": pytest.approx(best)}


def test_majority_where_a_metric_has_no_chance(evaluated):
    adata = evaluated(4)
    ax = pl.evaluation(adata, metrics="ece", show=False)
    majority = get.evaluation(adata, metric="ece", model="majority")["estimate"][0]
    assert lines(ax)["majority"] == pytest.approx(majority)
    assert ax.get_xlabel() == "← better"


def test_models_and_sorting(evaluated):
    adata = evaluated(8)
    ax = pl.evaluation(
        adata, metrics="macro_f1", sort_by="brier", models=["knn", "majority", "scbert"], show=False
    )
    expected = get.evaluation(adata, metric="brier", model=["knn", "majority", "scbert"])[
        "model"
    ].tolist()
    assert [t.get_text() for t in ax.get_yticklabels()] == expected


def test_undefined_is_said_in_its_row(evaluated):
    axes = pl.evaluation(evaluated(4, undefined=True), show=False)
    assert len(axes[0].texts) == 0
    (text,) = axes[1].texts
    assert text.get_text().replace("\n", " ") == "undefined: one class only"
    names = [t.get_text() for t in axes[0].get_yticklabels()]
    assert names[int(text.get_position()[1])] == "logistic_l2"
    assert set(rows(axes[1], names)) == set(names) - {"logistic_l2"}
    filled = {name: full for name, (*_, full) in rows(axes[0]).items()}
    assert [name for name, full in filled.items() if not full] == ["gene_only"]
    assert "some repeats undefined" in [t.get_text() for t in axes[0].figure.legends[0].get_texts()]


def test_undefined_for_all(evaluated, legible):
    adata = evaluated(2)
    table = adata.uns["cv"]["summary"]
    table.loc[table["metric"] == "auroc", ["estimate", "low", "high"]] = np.nan
    table.loc[table["metric"] == "auroc", ["interval", "note"]] = "none", "one class only"
    fig = pl.evaluation(adata, metrics="auroc", return_fig=True)
    assert [t.get_text() for t in fig.axes[0].texts] == ["undefined: one class only"] * 2
    legible(fig)


@pytest.mark.parametrize(
    ("n_donors", "scheme", "title"),
    [
        (10, "leave_one_donor_out", "10 donors held out\n95 % interval: bootstrap over donors"),
        (2, "group_kfold", "2 donors held out\nlines: lowest to highest single donor"),
        (
            1,
            "random_cell",
            "one donor: cells held out at random (optimistic)\n95 % interval: bootstrap over cells",
        ),
        (
            10,
            "random_cell",
            "10 donors, each on both sides: cells held out at random (optimistic)\n95 % interval",
        ),
    ],
)
def test_title_says_the_unit(evaluated, n_donors, scheme, title):
    adata = evaluated(2, n_donors)
    adata.uns["cv"]["params"]["scheme"] = scheme
    found = pl.evaluation(adata, return_fig=True, figsize=(6, 3)).get_suptitle()
    assert found.startswith(title)


def test_donors_unknown(evaluated):
    adata = evaluated(2, 1)
    adata.uns["cv"]["donors"] = adata.uns["cv"]["donors"].iloc[:0]
    assert (
        pl.evaluation(adata, return_fig=True)
        .get_suptitle()
        .startswith("donors unknown: cells held out at random")
    )


@pytest.mark.parametrize(("n_models", "n_donors"), [(2, 1), (8, 2), (20, 10)])
def test_legible(evaluated, legible, n_models, n_donors):
    adata = evaluated(n_models, n_donors, undefined=n_models > 2)
    legible(pl.evaluation(adata, return_fig=True))
    legible(pl.evaluation(adata, figsize=(3.3, 1.9 + 0.17 * n_models), return_fig=True))
    legible(pl.evaluation(adata, metrics=["macro_f1", "auroc", "brier", "ece"], return_fig=True))


def test_users_axes(evaluated):
    ax = plt.figure().add_subplot()
    assert pl.evaluation(evaluated(4), metrics="auroc", ax=ax, show=False) is ax
    assert ax.get_legend() is not None
    assert ax.get_title().startswith("AUROC\n10 donors held out")


def test_long_names_keep_both_ends():
    from scbert_cll.pl._style import middle_cut as short

    assert short("scbert") == "scbert"
    assert short("scbert_from_scratch_expressed_tokens") == "scbert_from…sed_tokens"
    assert len(short("a" * 40, 13)) == 13


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"key": "x"}, KeyError, "'x' is not in adata.uns.*Run tl.cross_validate first"),
        (
            {"metrics": "f1"},
            KeyError,
            "'f1' is not in the column 'metric'.*'macro_f1', 'auroc', 'brier', 'ece'",
        ),
        (
            {"models": ["svm"]},
            KeyError,
            "'svm' is not in the column 'model'.*'scbert', 'logistic_l2'",
        ),
        ({"sort_by": "f1"}, KeyError, "'f1' is not in the column 'metric'"),
    ],
)
def test_errors(evaluated, arguments, error, match):
    with pytest.raises(error, match=match):
        pl.evaluation(evaluated(2), **arguments)


def test_one_axes_holds_one_metric(evaluated):
    with pytest.raises(ValueError, match="ax holds one metric, there are 2"):
        pl.evaluation(evaluated(2), ax=plt.figure().add_subplot())


def labels(fig):
    return [t.get_text() for t in fig.legends[0].get_texts()]


def test_points_bars_and_legend(evaluated):
    adata = evaluated(2)
    top, below = pl.reliability(adata, models="scbert", show=False)
    table = get.evaluation(adata, table="reliability", model="scbert")
    container = top.containers[0]
    np.testing.assert_allclose(container.lines[0].get_xydata(), table[["predicted", "observed"]])
    bars = np.array([segment[:, 1] for segment in container.lines[2][0].get_segments()])
    np.testing.assert_allclose(bars, table[["low", "high"]], atol=1e-12)
    found = get.evaluation(adata, model="scbert").set_index("metric")["estimate"]
    assert labels(top.figure) == [f"scbert: ECE {found['ece']:.3f}, Brier {found['brier']:.3f}"]
    assert below.get_xlabel() == "predicted probability of CD49d+"
    assert top.get_ylabel() == "observed share of CD49d+"


def test_histogram_of_all_repeats(evaluated):
    adata = evaluated(2)
    _, below = pl.reliability(adata, models="scbert", show=False)
    found = get.out_of_fold(adata, model="scbert")["proba_CD49d+"]
    expected, _ = np.histogram(found, np.linspace(0, 1, 21))
    values, _, _ = below.patches[0].get_data()
    np.testing.assert_allclose(values, 100 * expected / len(found))
    assert values.sum() == pytest.approx(100)


def test_four_models_by_default(evaluated):
    adata = evaluated(8)
    found = [label.partition(":")[0] for label in labels(pl.reliability(adata, return_fig=True))]
    ranked = get.evaluation(adata, metric="brier")["model"].tolist()
    assert found == ranked[:4]


def test_own_model_is_drawn_even_if_far_behind(evaluated):
    adata = evaluated(8)
    ranked = get.evaluation(adata, metric="brier")["model"].tolist()
    adata.uns["cv"]["params"]["baselines"] = ranked[:-1]
    found = [label.partition(":")[0] for label in labels(pl.reliability(adata, return_fig=True))]
    assert found == [*ranked[:3], ranked[-1]]


def test_metrics_that_were_not_computed_are_not_in_the_legend(evaluated):
    adata = evaluated(2)
    summary = adata.uns["cv"]["summary"]
    adata.uns["cv"]["summary"] = summary[~summary["metric"].isin(["ece", "brier"])]
    assert labels(pl.reliability(adata, return_fig=True)) == ["scbert", "logistic_l2"]
    adata.uns["cv"]["summary"] = summary.assign(
        estimate=summary["estimate"].where(summary["metric"] != "ece")
    )
    assert labels(pl.reliability(adata, models=["scbert"], return_fig=True))[0].startswith(
        "scbert: ECE undefined, Brier 0."
    )


@pytest.mark.parametrize(("n_models", "n_donors"), [(2, 1), (8, 2), (20, 10)])
def test_legible_of_reliability(evaluated, legible, n_models, n_donors):
    adata = evaluated(n_models, n_donors, undefined=n_models > 2)
    legible(pl.reliability(adata, return_fig=True))
    legible(pl.reliability(adata, models=["scbert"], figsize=(3.3, 3), return_fig=True))


def test_users_axes_of_reliability(evaluated):
    ax = plt.figure().add_subplot()
    assert pl.reliability(evaluated(2), ax=ax, show=False) is ax
    assert ax.get_xlabel().startswith("predicted")
    assert len(ax.get_legend().get_texts()) == 2
    assert ax.get_title() == "10 donors held out"


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"key": "x"}, KeyError, "'x' is not in adata.uns.*Run tl.cross_validate first"),
        ({"models": ["svm"]}, KeyError, "'svm' is not in the column 'model'"),
    ],
)
def test_errors_of_reliability(evaluated, arguments, error, match):
    with pytest.raises(error, match=match):
        pl.reliability(evaluated(2), **arguments)


def test_more_models_than_can_be_told_apart(evaluated):
    adata = evaluated(8)
    names = get.evaluation(adata, metric="brier")["model"].tolist()
    with pytest.raises(ValueError, match="At most 6 models can be told apart in one plot, found 8"):
        pl.reliability(adata, models=names)
    assert len(labels(pl.reliability(adata, models=names[:6], return_fig=True))) == 6
