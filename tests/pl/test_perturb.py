from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from scbert_cll import pl
from scbert_cll.pl import _style


def make(groups=("all",), effects=(-1.0, 0.5, -0.2), n_donors=6, names=None, kind="drop"):
    """An object as tl.perturb leaves it."""
    rng = np.random.default_rng(0)
    names = names or [f"GENE{i}" for i in range(len(effects))]
    found, summary = [], []
    for group in groups:
        for name, effect in zip(names, effects, strict=True):
            own = pd.DataFrame(
                {"name": name, "group": group, "donor": [f"D{i}" for i in range(n_donors)]}
            )
            own["log_odds"], own["shift"], own["n_cells"] = (
                effect + rng.normal(0, 0.2, n_donors),
                0.1,
                20,
            )
            mean, reach = own["log_odds"].mean(), 0.3 if n_donors > 1 else np.nan
            values = {"log_odds": mean, "low": mean - reach, "high": mean + reach, "shift": 0.1}
            summary.append(
                {"group": group, "name": name}
                | values
                | {"n_cells": 20 * n_donors, "n_donors": n_donors}
            )
            found.append(own)
    params = {"kind": kind, "level": 3 if kind == "set" else 0, "target": "CD49d+", "min_cells": 5}
    adata = AnnData(np.ones((2, 3), np.float32))
    tables = {"summary": pd.DataFrame(summary), "donors": pd.concat(found, ignore_index=True)}
    adata.uns["perturb"] = tables | {"params": params}
    return adata


def points(ax, n=None):
    """Places and colours of what is drawn with `n` points, or with more than one."""
    paths = [c for c in ax.collections if isinstance(c, PathCollection)]
    return [c for c in paths if (len(c.get_offsets()) == n if n else len(c.get_offsets()) > 1)]


def names(ax):
    return [t.get_text() for t in ax.get_yticklabels()]


def one_line(text):
    return " ".join(text.split())


def test_rows_are_means_intervals_and_donors_from_lowest_to_highest():
    adata = make()
    fig = pl.perturb(adata, return_fig=True)
    (ax,) = fig.axes
    table = adata.uns["perturb"]["summary"].set_index("name")
    assert names(ax) == ["GENE0", "GENE2", "GENE1"]
    means = points(ax, 1)
    np.testing.assert_allclose(
        [c.get_offsets()[0][0] for c in means], table.loc[names(ax), "log_odds"]
    )
    assert [to_hex(c.get_edgecolor()[0]).upper() for c in means] == [
        _style.BLUE,
        _style.BLUE,
        _style.RED,
    ]
    lines = [c.get_segments()[0][:, 0] for c in ax.collections if isinstance(c, LineCollection)]
    np.testing.assert_allclose(lines, table.loc[names(ax), ["low", "high"]])
    donors = adata.uns["perturb"]["donors"]
    for name, drawn in zip(names(ax), points(ax), strict=True):
        np.testing.assert_allclose(
            drawn.get_offsets()[:, 0], donors.loc[donors["name"] == name, "log_odds"]
        )
    assert [t.get_text() for t in ax.texts] == ["0.100", "0.100", "0.100", "shift"]


def test_says_what_was_done_and_that_it_is_an_opinion():
    fig = pl.perturb(make(), return_fig=True)
    assert fig.get_suptitle() == "Log-odds of CD49d+ without the gene or set"
    assert one_line(fig.get_supxlabel()).endswith("The network's opinion, not an experiment.")
    assert fig.axes[0].get_title() == "6 donors"
    fig = pl.perturb(make(kind="set"), return_fig=True)
    assert one_line(fig.get_suptitle()) == "Log-odds of CD49d+ with the gene or set at level 3"


def test_a_panel_per_group_on_one_scale_with_the_same_rows():
    adata = make(("zero", "low", "high"))
    axes = pl.perturb(adata, show=False)
    assert [ax.get_title() for ax in axes] == ["zero\n6 donors", "low\n6 donors", "high\n6 donors"]
    assert len({ax.get_xlim() for ax in axes}) == 1
    assert names(axes[0]) == ["GENE0", "GENE2", "GENE1"]
    assert [ax.get_title() for ax in pl.perturb(adata, groups=["high", "zero"], show=False)] == [
        "high\n6 donors",
        "zero\n6 donors",
    ]
    assert pl.perturb(adata, groups="low", show=False).get_title() == "low\n6 donors"


def test_of_many_genes_those_with_the_largest_change_are_drawn():
    ax = pl.perturb(make(effects=(0.1, -2.0, 1.5, 0.0)), n_genes=2, show=False)
    assert names(ax) == ["GENE1", "GENE2"]


def test_one_donor_has_no_interval_and_is_hollow(legible):
    fig = pl.perturb(make(n_donors=1), return_fig=True)
    (ax,) = fig.axes
    assert ax.get_title() == "1 donor"
    assert {to_hex(c.get_facecolor()[0]) for c in points(ax, 1)} == {"#ffffff"}
    assert "Hollow: one donor, no interval." in one_line(fig.get_supxlabel())
    legible(fig)


def test_donors_with_too_few_cells_are_not_drawn():
    adata = make()
    donors = adata.uns["perturb"]["donors"]
    donors.loc[donors["donor"] == "D3", "n_cells"] = 4
    drawn = points(pl.perturb(adata, show=False))
    assert {len(c.get_offsets()) for c in drawn} == {5}


def test_a_gene_in_too_few_cells_is_named_and_has_no_value(legible):
    adata = make()
    summary = adata.uns["perturb"]["summary"]
    summary.loc[summary["name"] == "GENE2", ["log_odds", "low", "high", "shift"]] = np.nan
    summary.loc[summary["name"] == "GENE2", "n_donors"] = 0
    fig = pl.perturb(adata, return_fig=True)
    ax = fig.axes[0]
    assert names(ax)[-1] == "GENE2"
    places = {t.get_text(): getattr(t, "xy", t.get_position()) for t in ax.texts}
    assert [text for text, (_, row) in places.items() if row == 2] == ["too few cells", "–"]
    assert len(points(ax, 1)) == 2
    legible(fig)


@pytest.mark.parametrize(
    "groups", [("all",), ("CD49d-", "CD49d+"), ("zero", "low", "high with a long name", "d", "e")]
)
def test_long_names_and_many_groups_are_legible(groups, legible):
    legible(
        pl.perturb(
            make(groups, names=["ITGA4", "a set of genes with a very long name", "KLF2"]),
            return_fig=True,
        )
    )


def test_sixty_genes_are_legible(legible):
    fig = pl.perturb(make(("a", "b"), effects=np.linspace(-1, 1, 60)), n_genes=60, return_fig=True)
    assert len(names(fig.axes[0])) == 60
    legible(fig)


def test_users_axes(legible):
    fig, ax = plt.subplots(figsize=(4, 3), layout="constrained")
    assert pl.perturb(make(), ax=ax, show=False) is ax
    assert "Log-odds of CD49d+ without the gene or set" in one_line(ax.get_title())
    legible(fig)


def test_what_comes_back(monkeypatch):
    assert isinstance(pl.perturb(make()), Axes)  # nothing to show on without a screen
    assert isinstance(pl.perturb(make(), return_fig=True), Figure)
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(True))
    assert pl.perturb(make(), show=True) is None
    assert shown == [True]


def test_changes_nothing():
    adata = make()
    before = adata.copy().uns["perturb"]
    pl.perturb(adata, show=False)
    for part in ("summary", "donors"):
        pd.testing.assert_frame_equal(adata.uns["perturb"][part], before[part])


def test_errors():
    adata = make(("a", "b"))
    with pytest.raises(
        KeyError, match=r"'x' is not in adata.uns; it has 'perturb'. Run tl.perturb first."
    ):
        pl.perturb(adata, key="x")
    with pytest.raises(
        KeyError, match=r"'x' is not in the groups of adata.uns\['perturb'\]; it has 'a', 'b'"
    ):
        pl.perturb(adata, groups="x")
    with pytest.raises(ValueError, match="ax holds one group, there are 2; name one with groups="):
        pl.perturb(adata, ax=plt.figure().add_subplot(), show=False)
    with pytest.raises(ValueError, match="n_genes must be at least 1; found 0"):
        pl.perturb(adata, n_genes=0)
    adata.uns["perturb"] = {"something": "else"}
    with pytest.raises(
        KeyError, match=r"'summary' is not in adata.uns.*It was not written by tl.perturb"
    ):
        pl.perturb(adata)
