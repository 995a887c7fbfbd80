from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

import scbert_cll as sc_cll
from scbert_cll import pl
from scbert_cll.pl import _style


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
