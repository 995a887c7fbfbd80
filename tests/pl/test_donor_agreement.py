from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from scbert_cll import get, pl
from scbert_cll.pl import _style


def points(ax):
    """Place of the donors, by colour."""
    dots = [c for c in ax.collections if not hasattr(c, "get_segments") and len(c.get_offsets())]
    return {to_hex(c.get_facecolor()[0]).upper(): np.asarray(c.get_offsets()) for c in dots}


def test_points_and_calls(evaluated):
    adata = evaluated(8)
    ax = pl.donor_agreement(adata, model="library_size", show=False)
    table = get.evaluation(adata, table="donors", model="library_size")
    same = ((table["observed"] >= 30) == (table["predicted"] >= 30)).to_numpy()
    assert 0 < same.sum() < 10
    for chosen, color in ((same, _style.BLUE), (~same, _style.RED)):
        np.testing.assert_allclose(points(ax)[color], table.loc[chosen, ["observed", "predicted"]])
    assert sorted(t.get_text() for t in ax.texts if t.get_text()) == sorted(table["donor"])


def test_bars(evaluated):
    adata = evaluated(2)
    ax = pl.donor_agreement(adata, model="scbert", show=False)
    table = get.evaluation(adata, table="donors", model="scbert")
    segments = np.concatenate(
        [
            c.get_segments()
            for c in ax.collections
            if hasattr(c, "get_segments") and len(c.get_segments())
        ]
    )
    wide = segments[segments[:, 0, 1] == segments[:, 1, 1]]
    assert {tuple(np.round(s[:, 0], 6)) for s in wide} >= {
        tuple(pair) for pair in table[["observed_low", "observed_high"]].round(6).to_numpy()
    }


def test_title(evaluated):
    adata = evaluated(2)
    ax = pl.donor_agreement(adata, model="scbert", show=False)
    found = get.evaluation(adata, table="agreement", model="scbert").iloc[0]
    first, second, third = ax.get_title().split("\n")
    assert first == "scbert"
    assert second.startswith(f"calls agree: {found['n_agree']}/10 (")
    assert second.endswith(f"{100 * found['low']:.0f}–{100 * found['high']:.0f} %)")
    assert third == f"MAE {found['mae']:.0f} points, ρ = {found['spearman']:.2f}"


def test_undefined_correlation_has_its_reason(evaluated):
    title = (
        pl.donor_agreement(evaluated(8, 2), model="scbert", show=False)
        .get_title()
        .replace("\n", " ")
    )
    assert "points ρ undefined: 2 donors, fewer than 3" in title
    title = (
        pl.donor_agreement(evaluated(8), model="majority", show=False)
        .get_title()
        .replace("\n", " ")
    )
    assert "ρ undefined: every donor has the same predicted percentage" in title


def test_lines_stand_where_calls_change(evaluated):
    adata = evaluated(2)
    adata.uns["cv"]["params"]["positive_from"] = 20.0
    ax = pl.donor_agreement(adata, model="scbert", show=False)
    assert 20 in ax.get_xticks()
    assert {tuple(np.ravel(patch.get_xy())) for patch in ax.patches} == {(-4.0, 20.0), (20.0, -4.0)}


def test_best_own_model_beside_best_baseline(evaluated):
    axes = pl.donor_agreement(evaluated(8), show=False)
    assert [ax.get_title().split("\n")[0] for ax in axes] == ["scbert", "logistic_l2"]


def test_a_panel_per_model(evaluated):
    axes = pl.donor_agreement(evaluated(8), model=["knn", "majority", "scbert"], show=False)
    assert [ax.get_title().split("\n")[0] for ax in axes] == ["knn", "majority", "scbert"]


def test_of_many_donors_only_those_called_otherwise_are_named(evaluated):
    adata = evaluated(8, 24)
    ax = pl.donor_agreement(adata, model="library_size", show=False)
    table = get.evaluation(adata, table="donors", model="library_size")
    other = table.loc[table["observed_call"] != table["predicted_call"], "donor"]
    assert 0 < len(other) < 24
    assert sorted(t.get_text() for t in ax.texts if t.get_text()) == sorted(other)


@pytest.mark.parametrize(("n_models", "n_donors"), [(2, 1), (8, 2), (20, 10), (8, 12)])
def test_legible(evaluated, legible, n_models, n_donors):
    adata = evaluated(n_models, n_donors)
    legible(pl.donor_agreement(adata, return_fig=True))
    legible(pl.donor_agreement(adata, model="scbert", figsize=(3.3, 3.3), return_fig=True))
    names = get.evaluation(adata, metric="auroc")["model"].tolist()[-2:]
    legible(pl.donor_agreement(adata, model=names, return_fig=True))


def test_narrow_figure_has_its_panels_under_each_other(evaluated, legible):
    fig = pl.donor_agreement(evaluated(2), figsize=(3.3, 6), return_fig=True)
    left, right = (ax.get_position() for ax in fig.axes)
    assert left.x0 == pytest.approx(right.x0, abs=0.02)
    assert left.y0 > right.y1
    legible(fig)


def test_users_axes(evaluated):
    ax = plt.figure().add_subplot()
    assert pl.donor_agreement(evaluated(2), model="scbert", ax=ax, show=False) is ax


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"key": "x"}, KeyError, "'x' is not in adata.uns.*Run tl.cross_validate first"),
        ({"model": "svm"}, KeyError, "'svm' is not in the column 'model'"),
    ],
)
def test_errors(evaluated, arguments, error, match):
    with pytest.raises(error, match=match):
        pl.donor_agreement(evaluated(2), **arguments)


def test_one_axes_holds_one_model(evaluated):
    with pytest.raises(ValueError, match="ax holds one model, there are 2"):
        pl.donor_agreement(evaluated(2), ax=plt.figure().add_subplot())


def test_needs_donors(evaluated):
    adata = evaluated(2)
    adata.uns["cv"]["donors"] = adata.uns["cv"]["donors"].iloc[:0]
    with pytest.raises(
        ValueError,
        match=r"adata.uns\['cv'\]\['donors'\] is empty: run tl.cross_validate with donor_key=",
    ):
        pl.donor_agreement(adata)
