from __future__ import annotations

import matplotlib.pyplot as plt
import mudata
import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from scbert_cll import datasets, pl


@pytest.fixture(scope="module")
def toy():
    return datasets.cll_toy(n_cells=1500, n_genes=250)


def by_hand(mdata, donor=None):
    rna, prot = mdata["rna"].X.toarray(), np.log1p(mdata["prot"].X)
    gene = rna[:, mdata["rna"].var_names.get_loc("ITGA4")] / rna.sum(1)
    level = np.log1p(mdata["prot"].X[:, 0] / np.exp(prot.mean(1)))
    here = slice(None) if donor is None else (mdata.obs["donor"] == donor).to_numpy()
    return spearmanr(gene[here], level[here]).statistic


def test_cells(toy):
    ax = pl.cd49d(toy, levels="cell", show=False)
    umi = toy["rna"][:, "ITGA4"].X.toarray().ravel()
    assert (
        ax.get_title()
        == f"Cells: ρ = {by_hand(toy):.2f}\nITGA4 detected in {np.mean(umi > 0):.0%} of 1,500"
    )
    n = [int(t.get_text().split("\n")[1].replace(",", "")) for t in ax.get_xticklabels()]
    assert n == [(umi == 0).sum(), (umi == 1).sum(), (umi == 2).sum(), (umi > 2).sum()]
    assert "CD49d protein" in ax.get_ylabel()
    assert "ITGA4 UMI" in ax.get_xlabel()


def test_within_donors(toy):
    ax = pl.cd49d(toy, levels="within", show=False)
    donors = toy.obs["donor"].cat.categories
    rho = pd.Series({d: by_hand(toy, d) for d in donors})
    n = toy.obs["donor"].value_counts().reindex(rho.index) - 3
    pooled = np.tanh(np.average(np.arctanh(rho), weights=n))
    assert ax.get_title() == f"Within donors: ρ = {pooled:.2f}\npooled over 10 of 10 donors"
    assert [t.get_text() for t in ax.get_yticklabels()] == ["pooled", *rho.sort_values().index]
    np.testing.assert_allclose(ax.collections[1].get_offsets()[:, 0], rho.sort_values(), atol=1e-6)
    assert ax.collections[3].get_offsets()[0, 0] == pytest.approx(pooled, abs=1e-6)
    low, high = ax.collections[0].get_segments()[0][:, 0]
    assert low < rho.min() < high
    assert np.arctanh(high) - np.arctanh(low) == pytest.approx(
        2 * 1.96 * np.sqrt(1.06 / n[rho.idxmin()])
    )


def test_donors(toy):
    ax = pl.cd49d(toy, levels="donor", show=False)
    rna, prot = toy["rna"].to_df(), np.log1p(toy["prot"].to_df())
    scaled = toy["prot"].to_df()["CD49d"] / np.exp(prot.mean(axis=1))
    level = np.log1p(scaled).groupby(toy.obs["donor"], observed=True).mean()
    total = rna.groupby(toy.obs["donor"], observed=True).sum()
    cpm = np.log2(1 + 1e6 * total["ITGA4"] / total.sum(axis=1))
    points = ax.collections[0].get_offsets()
    np.testing.assert_allclose(points[:, 0], cpm, rtol=1e-5)
    np.testing.assert_allclose(points[:, 1], level, rtol=1e-5)
    assert ax.get_title() == f"Donors: ρ = {spearmanr(cpm, level).statistic:.2f}\n10 donors"


def test_all_levels_by_default(toy):
    assert [ax.get_title().split(":")[0] for ax in pl.cd49d(toy, show=False)] == [
        "Cells",
        "Within donors",
        "Donors",
    ]


def test_anndata_with_protein_in_obsm(toy):
    adata = toy["rna"].copy()
    adata.obsm["protein"] = toy["prot"].to_df()
    titles = [[ax.get_title() for ax in pl.cd49d(data, show=False)] for data in (adata, toy)]
    assert titles[0] == titles[1]


def test_cells_argument(toy):
    cll = toy.obs["cell_type"] == "CLL"
    ax = pl.cd49d(toy, cells=cll, levels="cell", show=False)
    assert ax.get_title().endswith(f"of {cll.sum():,}")
    alone = toy[cll.to_numpy()].copy()
    assert ax.get_title() == pl.cd49d(alone, levels="cell", show=False).get_title()


def test_without_donors(toy):
    ax = pl.cd49d(toy, donor_key=None, show=False)
    assert ax.get_title().startswith("Cells")


def test_two_donors_have_no_correlation_between_them(toy, legible):
    few = toy[toy.obs["donor"].isin(["D01", "D02"]).to_numpy()].copy()
    fig = pl.cd49d(few, return_fig=True)
    assert [ax.get_title() for ax in fig.axes[1:]][1] == "Donors: too few for ρ\n2 donors"
    assert "pooled over 2 of 2 donors" in fig.axes[1].get_title()
    legible(fig)


def test_donor_without_the_gene_is_left_out_and_counted(toy):
    data = toy.copy()
    rna = data["rna"].X.tolil()
    rna[(data.obs["donor"] == "D03").to_numpy(), data["rna"].var_names.get_loc("ITGA4")] = 0
    data["rna"].X = rna.tocsr()
    ax = pl.cd49d(data, levels="within", show=False)
    assert "pooled over 9 of 10 donors" in ax.get_title()
    assert "D03" not in [t.get_text() for t in ax.get_yticklabels()]


def test_gene_that_no_cell_has(toy, legible):
    data = toy.copy()
    rna = data["rna"].X.tolil()
    rna[:, data["rna"].var_names.get_loc("ITGA4")] = 0
    data["rna"].X = rna.tocsr()
    fig = pl.cd49d(data, return_fig=True)
    assert fig.axes[0].get_title() == "Cells: ρ undefined\nITGA4 detected in 0% of 1,500"
    assert fig.axes[1].get_title() == "Within donors: none has enough\ncells with the gene"
    assert fig.axes[2].get_title() == "Donors: ρ undefined\n10 donors"
    legible(fig)


@pytest.mark.parametrize("figsize", [None, (3.5, 7)])
def test_legible(toy, legible, figsize):
    legible(pl.cd49d(toy, figsize=figsize, return_fig=True))


def test_forty_donors_are_legible(legible):
    fig = pl.cd49d(datasets.cll_toy(n_donors=40, n_cells=1600, n_genes=200), return_fig=True)
    assert fig.axes[1].get_ylabel() == "40 donors"
    legible(fig)


def test_changes_nothing(toy):
    before = toy.copy()
    pl.cd49d(toy, show=False)
    assert (toy["rna"].X != before["rna"].X).nnz == 0
    np.testing.assert_array_equal(toy["prot"].X, before["prot"].X)
    pd.testing.assert_frame_equal(toy.obs, before.obs)


def test_errors(toy):
    with pytest.raises(KeyError, match=r"'CD38' is not among the 6 proteins"):
        pl.cd49d(toy, marker="CD38")
    with pytest.raises(KeyError, match=r"'ITGA9' is not in adata.var_names"):
        pl.cd49d(toy, gene="ITGA9")
    with pytest.raises(
        KeyError,
        match=r"'patient' is neither in mdata\['rna'\].obs nor in mdata.obs; they have 'donor'",
    ):
        pl.cd49d(toy, donor_key="patient")
    with pytest.raises(
        ValueError, match="levels must be one of 'cell', 'within', 'donor'; found 'cells'"
    ):
        pl.cd49d(toy, levels="cells")
    with pytest.raises(
        ValueError, match="levels 'donor' compare donors: name their column with donor_key="
    ):
        pl.cd49d(toy, levels="donor", donor_key=None)
    with pytest.raises(ValueError, match="ax holds one level, there are 3; name one with levels="):
        pl.cd49d(toy, ax=plt.figure().add_subplot())
    with pytest.raises(ValueError, match="leaves no cell to draw"):
        pl.cd49d(toy, cells=np.zeros(1500, bool))
    data = toy.copy()
    data["rna"].X = data["rna"].X * 0.5
    with pytest.raises(ValueError, match="must hold raw counts"):
        pl.cd49d(data)


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore:var_names are not unique:UserWarning")
def test_bone_marrow(shared_file, legible):
    data = mudata.read_h5mu(shared_file("data/bmmc_cite.h5mu"))
    fig = pl.cd49d(data, return_fig=True)
    legible(fig)
    rho = float(fig.axes[0].get_title().split("ρ = ")[1].split("\n")[0])
    assert 0.1 < rho < 0.4
