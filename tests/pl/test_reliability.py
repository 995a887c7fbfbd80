from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from scbert_cll import get, pl


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
def test_legible(evaluated, legible, n_models, n_donors):
    adata = evaluated(n_models, n_donors, undefined=n_models > 2)
    legible(pl.reliability(adata, return_fig=True))
    legible(pl.reliability(adata, models=["scbert"], figsize=(3.3, 3), return_fig=True))


def test_users_axes(evaluated):
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
def test_errors(evaluated, arguments, error, match):
    with pytest.raises(error, match=match):
        pl.reliability(evaluated(2), **arguments)


def test_more_models_than_can_be_told_apart(evaluated):
    adata = evaluated(8)
    names = get.evaluation(adata, metric="brier")["model"].tolist()
    with pytest.raises(ValueError, match="At most 6 models can be told apart in one plot, found 8"):
        pl.reliability(adata, models=names)
    assert len(labels(pl.reliability(adata, models=names[:6], return_fig=True))) == 6
