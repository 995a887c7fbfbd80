from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scbert_cll import get, pl

LABEL = ["CD49d-"] * 6 + ["CD49d+"] * 3 + [None]
PRED = ["CD49d-"] * 4 + ["CD49d+"] * 2 + ["CD49d+"] * 3 + ["CD49d-"]


@pytest.fixture
def adata():
    n = 30
    adata = AnnData(np.ones((n, 2), np.float32))
    adata.obs["cd49d"] = pd.Categorical(LABEL * 3, ["CD49d-", "CD49d+"], ordered=True)
    adata.obs["scbert_pred"] = pd.Categorical(PRED * 3)
    adata.obs["split"] = np.repeat(["train", "val", "test"], 10)
    adata.obs["donor"] = np.repeat(["D1", "D2", "D3"], 10)
    adata.obs.loc[adata.obs_names[-1], "donor"] = "D4"
    return adata


def fields(ax):
    grid = {}
    for t in ax.texts:
        x, y = t.get_position()
        grid[round(y), round(x)] = t.get_text()
    return grid


def test_counts_and_row_shares(adata):
    ax = pl.confusion(adata, show=False)
    assert fields(ax) == {(0, 0): "4\n67%", (0, 1): "2\n33%", (1, 0): "0\n0%", (1, 1): "3\n100%"}
    assert [t.get_text() for t in ax.get_yticklabels()] == ["CD49d-\n(n = 6)", "CD49d+\n(n = 3)"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["CD49d-", "CD49d+"]
    np.testing.assert_allclose(ax.images[0].get_array(), [[4 / 6, 2 / 6], [0, 1]])
    assert ax.images[0].get_clim() == (0, 1)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted", "label")


def test_counts_alone(adata):
    ax = pl.confusion(adata, normalize=False, show=False)
    assert fields(ax) == {(0, 0): "4", (0, 1): "2", (1, 0): "0", (1, 1): "3"}
    np.testing.assert_array_equal(ax.images[0].get_array(), [[4, 2], [0, 3]])


def test_title_names_the_cells_and_counts_donors(adata):
    title = pl.confusion(adata, donor_key=None, show=False).get_title()
    assert title == "9 test cells\n1 unlabelled left out"
    title = pl.confusion(adata, show=False).get_title()
    assert title == "9 test cells of 1 donor\n1 unlabelled left out"
    title = pl.confusion(adata, split=None, donor_key="donor", show=False).get_title()
    assert title == "27 cells of 3 donors\ntraining cells among them\n3 unlabelled left out"


def test_donors_that_nobody_named_and_that_are_missing(adata):
    del adata.obs["donor"]
    with pytest.warns(FutureWarning, match="no column 'donor'.*donor_key=None"):
        title = pl.confusion(adata, show=False).get_title()
    assert title == "9 test cells\n1 unlabelled left out"


def test_numbers_can_be_read_on_their_field(adata):
    ax = pl.confusion(adata, show=False)
    image = ax.images[0]
    for (i, j), _ in np.ndenumerate(image.get_array()):
        text = next(t for t in ax.texts if t.get_position() == (j, i))
        background = np.dot(image.to_rgba(image.get_array()[i, j])[:3], [0.299, 0.587, 0.114])
        foreground = {"black": 0.0, "white": 1.0}[text.get_color()]
        assert abs(background - foreground) >= 0.5


def test_unassigned_cells_have_a_column_and_no_row(adata):
    adata.obs["scbert_pred"] = adata.obs["scbert_pred"].cat.add_categories(["unassigned"])
    adata.obs.loc[adata.obs_names[-10], "scbert_pred"] = "unassigned"
    ax = pl.confusion(adata, show=False)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["CD49d-", "CD49d+", "unassigned"]
    assert fields(ax)[0, 2] == "1\n17%"
    assert len(ax.get_yticklabels()) == 2


def test_class_that_only_training_cells_have(adata):
    adata.obs.loc[adata.obs_names[20:29], "cd49d"] = "CD49d-"
    ax = pl.confusion(adata, show=False)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["CD49d-\n(n = 9)"]
    assert fields(ax) == {(0, 0): "4\n44%", (0, 1): "5\n56%"}


@pytest.mark.parametrize("figsize", [None, (2.4, 2.2)])
def test_two_classes_are_legible(adata, legible, figsize):
    legible(pl.confusion(adata, split=None, donor_key="donor", figsize=figsize, return_fig=True))


def test_many_classes_are_legible(legible):
    names = [
        "zero",
        "low",
        "CD4+ naive T cells",
        "CD14+ monocytes of the classical kind",
        "NK",
        "pDC",
        "B1",
        "plasmablast",
    ]
    rng = np.random.default_rng(0)
    adata = AnnData(np.ones((5000, 1), np.float32))
    adata.obs["label"] = pd.Categorical(rng.choice(names, 5000), names)
    adata.obs["pred"] = pd.Categorical(
        rng.choice([*names, "unassigned"], 5000), [*names, "unassigned"]
    )
    keys = {"labels_key": "label", "pred_key": "pred", "donor_key": None}
    fig = pl.confusion(adata, **keys, split=None, return_fig=True)
    assert len(fig.axes[0].texts) == 8 * 9
    legible(fig)


def test_users_axes_and_view(adata):
    held_out = adata[adata.obs["split"] == "test"]
    ax = plt.figure().add_subplot()
    assert pl.confusion(held_out, ax=ax, show=False) is ax
    assert held_out.is_view


def test_changes_nothing(adata):
    before = adata.obs.copy()
    pl.confusion(adata, show=False)
    pd.testing.assert_frame_equal(adata.obs, before)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"labels_key": "x"}, KeyError, "'x' is not in adata.obs; it has 'cd49d'"),
        (
            {"pred_key": "x"},
            KeyError,
            "'x' is not in adata.obs.*Run tl.finetune or tl.predict first",
        ),
        ({"split_key": "x"}, KeyError, "'x' is not in adata.obs.*pp.split_donors"),
        ({"donor_key": "x"}, KeyError, "'x' is not in adata.obs"),
        ({"split": "hold"}, ValueError, "no cell in 'hold'"),
    ],
)
def test_errors(adata, arguments, error, match):
    with pytest.raises(error, match=match):
        pl.confusion(adata, **arguments)


def test_no_label_at_all(adata):
    adata.obs["cd49d"] = pd.Categorical([None] * 30, ["CD49d-", "CD49d+"])
    with pytest.raises(
        ValueError, match=r"None of the 10 test cells has a label in adata.obs\['cd49d'\]"
    ):
        pl.confusion(adata)


class TestOutOfFold:
    def test_mean_over_repeats(self, evaluated):
        adata = evaluated(2)
        runs = get.out_of_fold(adata, model="scbert")
        positive = runs["proba_CD49d+"].groupby(level=0).mean() > 0.5
        label = adata.obs["cd49d"].dropna().loc[positive.index] == "CD49d+"
        expected = {
            (int(i), int(j)): int(((label == i) & (positive == j)).sum())
            for i in (0, 1)
            for j in (0, 1)
        }
        found = {
            at: int(text.split("\n")[0])
            for at, text in fields(pl.confusion(adata, model="scbert", show=False)).items()
        }
        assert found == expected
        assert sum(found.values()) == adata.obs["cd49d"].notna().sum()

    def test_title(self, evaluated):
        adata = evaluated(2)
        n = int(adata.obs["cd49d"].notna().sum())
        title = pl.confusion(adata, model="scbert", show=False).get_title()
        assert (
            title == f"{n:,} cells of 10 donors\nout of fold: scbert\n{adata.n_obs - n} unlabelled "
            f"left out"
        )

    def test_legible(self, evaluated, legible):
        adata = evaluated(20)
        legible(pl.confusion(adata, model="scbert_from_scratch_expressed_tokens", return_fig=True))

    def test_model_that_is_not_there(self, evaluated):
        with pytest.raises(
            KeyError, match=r"'svm' is not in the models of adata.obsm.*'scbert', 'logistic_l2'"
        ):
            pl.confusion(evaluated(2), model="svm")
