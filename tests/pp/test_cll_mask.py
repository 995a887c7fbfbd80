from __future__ import annotations

import mudata as md
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scbert_cll as sb

# mean counts of CD19, CD5, CD3, CD14, CD4
PANEL = ["CD19", "CD5", "CD3", "CD14", "CD4"]
TYPES = {
    "CLL": (180, 60, 5, 5, 10),
    "normal B": (180, 6, 5, 5, 10),
    "T": (6, 250, 160, 5, 120),
    "monocyte": (6, 7, 5, 200, 40),
    "doublet": (180, 300, 160, 5, 120),
}


def sample(**n):
    rng = np.random.default_rng(0)
    kind = np.repeat(list(n), list(n.values()))
    means = np.array([TYPES[k] for k in kind])
    adata = AnnData(
        np.ones((kind.size, 2), dtype=np.float32),
        obs=pd.DataFrame({"kind": kind}, index=[f"c{i}" for i in range(kind.size)]),
    )
    protein = rng.negative_binomial(10, 10 / (10 + means)).astype(float)
    adata.obsm["protein"] = pd.DataFrame(protein, index=adata.obs_names, columns=PANEL)
    return adata


def share_kept(adata, mask):
    assert mask.dtype == bool
    assert mask.index.equals(adata.obs_names)
    return mask.groupby(adata.obs["kind"]).mean()


def test_cll_is_told_from_normal_b_t_and_monocytes():
    adata = sample(CLL=400, **{"normal B": 150}, T=300, monocyte=150, doublet=20)
    kept = share_kept(adata, sb.pp.cll_mask(adata))
    assert kept["CLL"] > 0.93
    assert kept.drop("CLL").max() < 0.06


def test_a_pure_clone_is_positive_against_the_monocytes():
    adata = sample(CLL=500, T=60, monocyte=60)
    mask = sb.pp.cll_mask(adata)
    kept = share_kept(adata, mask)
    assert kept["CLL"] > 0.93
    assert kept.drop("CLL").max() == 0
    assert list(mask.attrs["thresholds"]) == ["CD19", "CD5", "CD3", "CD14"]


def test_nothing_is_written():
    adata = sample(CLL=200, T=100, monocyte=100)
    obs = adata.obs.copy()
    sb.pp.cll_mask(adata)
    pd.testing.assert_frame_equal(adata.obs, obs)
    assert not adata.uns


def test_thresholds_replace_the_search():
    adata = sample(CLL=200, T=100, monocyte=100)
    mask = sb.pp.cll_mask(
        adata,
        markers=("CD19", "CD5"),
        exclude=(),
        normalize="none",
        thresholds={"CD19": 50, "CD5": 30},
    )
    protein = adata.obsm["protein"]
    assert (mask == (protein["CD19"] >= 50) & (protein["CD5"] >= 30)).all()
    assert mask.attrs["thresholds"] == {"CD19": 50.0, "CD5": 30.0}


def test_it_gates_the_simulated_patients():
    mdata = sb.datasets.cll_toy()
    truth = mdata["rna"].obs["cell_type"] == "CLL"
    mask = sb.pp.cll_mask(mdata)
    assert mask[truth].mean() > 0.99
    assert not mask[~truth].any()


@pytest.mark.parametrize(
    ("n", "arguments", "error", "match"),
    [
        (
            {"CLL": 300},
            {},
            ValueError,
            (
                r"'CD19' does not separate the 300 cells gated so far, nor the 0 "
                r"others,.*thresholds=\{'CD19'"
            ),
        ),
        ({"CLL": 300, "T": 100}, {}, ValueError, "'CD5' does not separate"),
        (
            {"CLL": 300, "T": 100},
            {"markers": ("CD19", "CD23")},
            KeyError,
            "'CD23' is not among the 5 proteins",
        ),
        (
            {"CLL": 300, "T": 100},
            {"markers": ("CD19",), "exclude": ("CD56",)},
            KeyError,
            "'CD56' is not among",
        ),
        (
            {"CLL": 300, "T": 100},
            {"markers": ("CD19",), "exclude": ("CD14",)},
            ValueError,
            "'CD14' does not separate the cells into two",
        ),
        (
            {"CLL": 300, "T": 100},
            {"thresholds": {"CD20": 1.0}},
            KeyError,
            "'CD20', which is in neither markers nor exclude",
        ),
        (
            {"CLL": 300, "T": 100},
            {"thresholds": {"CD3": float("nan")}},
            ValueError,
            r"thresholds\['CD3'\] must be a number.*found nan",
        ),
    ],
)
def test_bad_input(n, arguments, error, match):
    adata = sample(**n)
    with pytest.raises(error, match=match):
        sb.pp.cll_mask(adata, **arguments)


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore:var_names are not unique:UserWarning")
def test_b_cells_of_bone_marrow(shared_file):
    mdata = md.read_h5mu(shared_file("data/bmmc_cite.h5mu"))
    cell_type = mdata["rna"].obs["cell_type"].astype(str)
    b_cells = sb.pp.cll_mask(mdata, markers=("CD19",))
    is_b = cell_type.str.contains(r"\bB\b|Plasmablast")
    # the T cells named after integrin B7 are no B cells; lymphoid progenitors are CD19+ and become
    # B cells
    is_b &= ~cell_type.str.contains("T ")
    assert b_cells[is_b].mean() > 0.95
    assert set(cell_type[b_cells & ~is_b]) <= {"Lymph prog"}
    assert sb.pp.cll_mask(mdata).sum() < 0.2 * is_b.sum()
