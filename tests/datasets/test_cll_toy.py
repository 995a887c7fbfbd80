from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, mannwhitneyu, spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GroupKFold, cross_val_predict

from scbert_cll.datasets import cll_toy


@pytest.fixture(scope="module")
def toy():
    return cll_toy()


@pytest.fixture(scope="module")
def control():
    return cll_toy(programme=False)


def cll_cells(mdata):
    """log2(1 + 1e4 c / N) of the CLL cells, their true class and their donor."""
    rna = mdata["rna"][mdata["rna"].obs["cell_type"] == "CLL"]
    counts = rna.X.toarray()
    logs = np.log2(1 + 1e4 * counts / counts.sum(1, keepdims=True))
    return (
        pd.DataFrame(logs, rna.obs_names, rna.var_names),
        rna.obs["cd49d_true"] == "CD49d+",
        rna.obs["donor"],
    )


def within_bimodal(mdata):
    """Rank test of every gene between the two halves of the bimodal donors, smaller p of both: sign
    and p.
    """
    logs, positive, donor = cll_cells(mdata)
    patterns = mdata["rna"].uns["truth_donors"]["pattern"]
    out = []
    for name in patterns.index[patterns.str.startswith("bimodal")]:
        here = donor == name
        test = mannwhitneyu(logs[here & positive], logs[here & ~positive])
        n = (here & positive).sum() * (here & ~positive).sum()
        out.append(
            pd.DataFrame({"effect": test.statistic / n - 0.5, "p": test.pvalue}, index=logs.columns)
        )
    return out


def test_modalities_are_paired_raw_counts(toy):
    rna, prot = toy["rna"], toy["prot"]
    assert (rna.shape, prot.shape) == ((2000, 800), (2000, 6))
    assert (rna.obs_names == prot.obs_names).all()
    assert rna.X.format == "csr"
    for X in (rna.X.data, prot.X):
        assert X.dtype == np.float32
        assert (X >= 0).all()
        assert (np.trunc(X) == X).all()
    assert list(prot.var_names) == ["CD49d", "CD19", "CD5", "CD3", "CD14", "IgG1"]
    assert {"ITGA4", "MS4A1", "CD79A", "CD3E", "LYZ", "MT-CO1", "RPL3", "IGKC"} <= set(
        rna.var_names
    )
    assert rna.var_names.is_unique
    assert rna.var["chromosome"].isin([*map(str, range(1, 23)), "X", "Y", "MT"]).all()
    assert rna.var.loc["ITGA4", "chromosome"] == "2"
    pd.testing.assert_frame_equal(toy.obs, rna.obs)


def test_survives_h5mu(toy, tmp_path):
    toy.write(tmp_path / "toy.h5mu")
    back = mudata.read_h5mu(tmp_path / "toy.h5mu")
    pd.testing.assert_frame_equal(back.obs, toy.obs)
    for key in ("truth", "truth_donors"):
        pd.testing.assert_frame_equal(back["rna"].uns[key], toy["rna"].uns[key])
    assert (back["rna"].X != toy["rna"].X).nnz == 0


def test_the_default_object_stays_as_it_was(toy):
    """What is written about the toy was measured on this object; other processors may round a count
    otherwise.
    """
    X, prot = toy["rna"].X.astype(np.float64), toy["prot"].X
    sums = [
        X.sum(),
        X.getnnz(),
        (X @ np.arange(800)).sum(),
        (np.arange(2000) @ X).sum(),
        prot.sum(dtype=np.float64),
    ]
    np.testing.assert_allclose(sums, [3724918, 556519, 457021468, 3711380753, 732380], rtol=1e-5)


def test_seed_decides(toy):
    again, other = cll_toy(rng=np.random.default_rng(0)), cll_toy(rng=1)
    assert (again["rna"].X != toy["rna"].X).nnz == 0
    assert (again["prot"].X == toy["prot"].X).all()
    pd.testing.assert_frame_equal(again.obs, toy.obs)
    assert (other["rna"].X != toy["rna"].X).nnz > 0


def test_cells_come_in_no_order(toy):
    for key in ("donor", "cell_type", "cd49d_true"):
        codes = toy.obs[key].cat.codes.to_numpy()
        assert np.mean(codes[1:] == codes[:-1]) < np.mean(codes[:, None] == codes) + 0.05


def test_depth_and_detection_are_realistic(toy):
    X = toy["rna"].X
    total, detected = np.ravel(X.sum(1)), np.ravel((X > 0).sum(1))
    assert 1500 < np.median(total) < 4000
    assert 0.3 < np.log(total).std() < 0.6
    assert np.quantile(detected, 0.1) > 150
    assert np.quantile(detected, 0.8) < 350


def test_counts_are_overdispersed_beyond_library_size(toy):
    logs, _, donor = cll_cells(toy)
    rna = toy["rna"][logs.index[donor == donor.iloc[0]]].X.toarray()
    scaled = rna * (rna.sum() / len(rna) / rna.sum(1, keepdims=True))
    mean, var = scaled.mean(0), scaled.var(0)
    assert (var[mean > 2] > 1.3 * mean[mean > 2]).mean() > 0.8


def test_genes_move_in_modules(toy):
    logs, _, donor = cll_cells(toy)
    one = logs[donor == donor.iloc[0]]
    one = one.loc[:, (one > 0).mean() > 0.3]
    top = [
        np.linalg.eigvalsh(np.corrcoef(x.T))[-1]
        for x in (one.to_numpy(), np.random.default_rng(0).permuted(one, axis=0))
    ]
    assert top[0] > 1.5 * top[1]


@pytest.mark.parametrize(("n_donors", "seed"), [(10, 0), (10, 3), (5, 0), (17, 1)])
def test_donors(n_donors, seed):
    mdata = cll_toy(n_donors=n_donors, n_cells=60 * n_donors, n_genes=200, rng=seed)
    table, obs = mdata["rna"].uns["truth_donors"], mdata["rna"].obs
    assert len(table) == n_donors
    counts = table["pattern"].value_counts()
    assert counts["bimodal_low"] == counts["bimodal_high"] == 1
    assert (
        (table.loc[table["trisomy12"], "pattern"] == "pos_homogeneous").sum()
        == 1
        == table["trisomy12"].sum()
    )
    cll = obs[obs["cell_type"] == "CLL"]
    pct = 100 * (cll["cd49d_true"] == "CD49d+").groupby(cll["donor"], observed=True).mean()
    np.testing.assert_allclose(pct, table["pct_positive"])
    low, high = (
        table.groupby("pattern")["pct_positive"].min(),
        table.groupby("pattern")["pct_positive"].max(),
    )
    assert high["neg_homogeneous"] < 5 < 10 < low["bimodal_low"] <= high["bimodal_low"] < 30
    assert 30 < low["bimodal_high"] <= high["bimodal_high"] < 80 < 90 < low["pos_homogeneous"]


def test_more_donors_with_trisomy_12_differ_in_its_genes_alone():
    few, more = (cll_toy(n_donors=12, n_genes=300, n_trisomy12=n)["rna"] for n in (1, 3))
    tables = [rna.uns["truth_donors"] for rna in (few, more)]
    counts = [table.loc[table["trisomy12"], "pattern"].value_counts() for table in tables]
    assert [n.to_dict() for n in counts] == [{"pos_homogeneous": n} for n in (1, 3)]
    pd.testing.assert_series_equal(tables[0]["pattern"], tables[1]["pattern"])
    of_other = few.obs["donor"].isin(tables[0].index[~tables[1]["trisomy12"]]).to_numpy()
    totals = [rna[~of_other].to_df().mean() for rna in (few, more)]
    ratio = (totals[1] / totals[0]).groupby(few.var["chromosome"] == "12", observed=True).median()
    assert ratio[True] > 1.15 * ratio[False]
    assert not cll_toy(n_trisomy12=0)["rna"].obs["trisomy12"].any()


@pytest.mark.parametrize(("n_donors", "n_bimodal"), [(10, 6), (10, 7), (12, 5), (6, 3)])
def test_more_bimodal_donors(n_donors, n_bimodal):
    table = cll_toy(n_donors=n_donors, n_cells=40 * n_donors, n_genes=200, n_bimodal=n_bimodal)[
        "rna"
    ].uns["truth_donors"]
    counts = table["pattern"].value_counts()
    assert counts["bimodal_low"] == (n_bimodal + 1) // 2
    assert counts["bimodal_high"] == n_bimodal // 2
    assert counts["pos_homogeneous"] >= 2
    assert counts["neg_homogeneous"] >= 1
    assert counts.sum() == n_donors
    low, high = table["pattern"] == "bimodal_low", table["pattern"] == "bimodal_high"
    assert table.loc[low, "pct_positive"].between(10, 30).all()
    assert table.loc[high, "pct_positive"].between(50, 70).all()


def test_libraries_hold_whole_donors_of_both_kinds(toy):
    table = toy["rna"].uns["truth_donors"]
    assert len(toy.obs[["donor", "batch"]].drop_duplicates()) == len(table)
    positive = table["pct_positive"] >= 30
    assert table.groupby("batch").size().min() >= 4
    assert positive.groupby(table["batch"]).sum().min() >= 2
    assert (~positive).groupby(table["batch"]).sum().min() >= 2


def test_contaminants(toy):
    kind, protein = toy.obs["cell_type"], toy["prot"].to_df()
    assert 0.06 < (kind != "CLL").mean() < 0.1
    assert (toy.obs.loc[kind != "CLL", "cd49d_true"] == "CD49d+").all()
    assert toy.obs["cd49d_latent"].isna().equals(kind != "CLL")
    medians = protein.groupby(kind, observed=True).median()
    for cell_type, marker in {"CLL": "CD19", "T": "CD3", "monocyte": "CD14"}.items():
        assert medians[marker].idxmax() == cell_type
        assert medians.loc[cell_type, marker] > 5 * medians[marker].drop(cell_type).max()
    negative = protein.loc[toy.obs["cd49d_true"] == "CD49d-", "CD49d"]
    assert medians.loc[["T", "monocyte"], "CD49d"].min() > negative.quantile(0.99)
    rna = toy["rna"].to_df().groupby(kind, observed=True).mean()
    assert (rna[["CD3E", "LYZ", "CD79A"]].idxmax() == ["T", "monocyte", "CLL"]).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_protein_separates_into_two_populations(toy, axis):
    cll = (toy.obs["cell_type"] == "CLL").to_numpy()
    logs = np.log1p(toy["prot"].X[cll])
    clr = (logs - logs.mean(axis, keepdims=True))[:, :1]
    mixture = GaussianMixture(2, random_state=0).fit(clr)
    distance = np.sqrt(2) * np.ptp(mixture.means_) / np.sqrt(mixture.covariances_.sum())
    assert distance > 2.5
    called = mixture.predict(clr) == mixture.means_.argmax()
    agreement = np.mean(called == (toy.obs["cd49d_true"][cll] == "CD49d+"))
    assert 0.9 < agreement < 0.99


def test_itga4_is_rare_and_weakly_tied(toy):
    logs, _, donor = cll_cells(toy)
    prot = np.log1p(toy["prot"].to_df().loc[logs.index])
    level = prot["CD49d"] - prot.mean(axis=1)
    rho = [
        spearmanr(logs.loc[donor == d, "ITGA4"], level[donor == d]).statistic
        for d in donor.cat.categories
    ]
    assert 0.1 < (logs["ITGA4"] > 0).mean() < 0.35
    assert 0.08 < np.tanh(np.mean(np.arctanh(rho))) < 0.25
    assert "ITGA4" not in set(toy["rna"].uns["truth"]["gene"])


def test_trisomy_12_is_a_dosage(toy):
    counts, chromosome = toy["rna"].to_df(), toy["rna"].var["chromosome"]
    cll = toy.obs["cell_type"] == "CLL"
    share = counts[cll].groupby(toy.obs.loc[cll, "donor"], observed=True).sum()
    share = share.loc[:, share.min() > 20]
    donors = toy["rna"].uns["truth_donors"]
    ratio = np.log(
        share.loc[donors.index[donors["trisomy12"]][0]]
        / share.drop(donors.index[donors["trisomy12"]]).median()
    )
    on_12 = chromosome.loc[ratio.index] == "12"
    assert on_12.sum() > 20
    assert np.exp(ratio[on_12].median() - ratio[~on_12].median()) == pytest.approx(1.4, abs=0.15)


def test_truth_names_twenty_up_and_ten_down(toy, control):
    truth = toy["rna"].uns["truth"]
    assert truth["gene"].is_unique
    assert truth["gene"].isin(toy["rna"].var_names).all()
    assert truth["sign"].value_counts().to_dict() == {1: 20, -1: 10}
    assert (np.sign(truth["log_fc"]) == truth["sign"]).all()
    assert not (toy["rna"].var.loc[truth["gene"], "chromosome"] == "12").any()
    off = control["rna"].uns["truth"]
    assert off["gene"].equals(truth["gene"])
    assert (off[["sign", "log_fc"]] == 0).all(axis=None)
    assert (truth["part"] == "programme").all()


def test_control_differs_in_the_planted_genes_alone(toy, control):
    differs = np.ravel((toy["rna"].X != control["rna"].X).sum(0)) > 0
    assert set(toy["rna"].var_names[differs]) == set(toy["rna"].uns["truth"]["gene"])
    assert (toy["prot"].X == control["prot"].X).all()
    pd.testing.assert_frame_equal(toy.obs, control.obs)


def test_programme_acts_within_bimodal_donors(toy):
    truth = toy["rna"].uns["truth"].set_index("gene")
    for table in within_bimodal(toy):
        planted, other = table.loc[truth.index], table.drop(truth.index)
        assert (np.sign(planted["effect"]) == truth["sign"]).mean() > 0.9
        assert (planted["p"] < 0.05).mean() > 0.5
        assert (other["p"] < 0.05).mean() < 0.1


@pytest.fixture(scope="module")
def combination():
    return cll_toy(n_bimodal=6, programme="combination")


@pytest.fixture(scope="module")
def subset():
    return cll_toy(n_bimodal=6, programme="subset")


def part_scores(mdata, cells):
    """Signed sum of standardised logs over the genes of each part, by CLL cell."""
    logs, _, donor = cll_cells(mdata)
    logs = logs[cells] if cells is not None else logs
    scaled = logs.groupby(donor.loc[logs.index], observed=True).transform(
        lambda x: (x - x.mean()) / (x.std() + 1e-9)
    )
    truth = mdata["rna"].uns["truth"]
    return {
        part: scaled[own["gene"]] @ own["sign"].to_numpy() for part, own in truth.groupby("part")
    }


def bimodal_cells(mdata):
    """Which CLL cells are of a bimodal donor."""
    _, _, donor = cll_cells(mdata)
    return (
        donor.map(mdata["rna"].uns["truth_donors"]["pattern"]).str.startswith("bimodal").to_numpy()
    )


@pytest.mark.parametrize("programme", ["combination", "subset"])
def test_variants_differ_in_the_planted_genes_alone(programme, request):
    other, plain = request.getfixturevalue(programme), cll_toy(n_bimodal=6, programme=False)
    differs = np.ravel((other["rna"].X != plain["rna"].X).sum(0)) > 0
    assert set(other["rna"].var_names[differs]) == set(other["rna"].uns["truth"]["gene"])
    assert (other["prot"].X == plain["prot"].X).all()
    assert set(other.obs) - set(plain.obs) == {"switch"}
    assert not other.obs.loc[other.obs["cell_type"] != "CLL", "switch"].any()


def test_combination_has_no_effect_of_a_single_gene(combination):
    truth = combination["rna"].uns["truth"]
    assert truth["part"].value_counts().to_dict() == {"first": 15, "second": 15}
    hits = sum(
        (table.loc[truth["gene"], "p"] < 0.05).sum() for table in within_bimodal(combination)
    )
    assert hits <= 18  # 180 tests at 5 %: 9 expected


def test_combination_tells_the_class_by_both_parts(combination):
    bimodal = bimodal_cells(combination)
    _, positive, _ = cll_cells(combination)
    parts = part_scores(combination, bimodal)
    assert 0.4 < roc_auc_score(positive[bimodal], parts["first"]) < 0.6
    assert 0.4 < roc_auc_score(positive[bimodal], parts["second"]) < 0.6
    assert roc_auc_score(positive[bimodal], -parts["first"] * parts["second"]) > 0.9
    on = combination.obs["switch"].loc[parts["first"].index]
    assert roc_auc_score(on, parts["first"]) > 0.9
    assert roc_auc_score(on != positive[bimodal], parts["second"]) > 0.9


def test_subset_acts_where_its_markers_are(subset):
    truth, bimodal = subset["rna"].uns["truth"], bimodal_cells(subset)
    assert truth["part"].value_counts().to_dict() == {"programme": 24, "marker": 6}
    _, positive, _ = cll_cells(subset)
    on = subset.obs["switch"].loc[positive.index]
    assert on.mean() == pytest.approx(0.3, abs=0.04)
    assert abs(on[positive].mean() - on[~positive].mean()) < 0.05
    parts = part_scores(subset, bimodal)
    assert roc_auc_score(on[bimodal], parts["marker"]) > 0.65
    inside, outside = (on == here for here in (True, False))
    for cells, low, high in ((inside, 0.85, 1.0), (outside, 0.4, 0.6)):
        chosen = cells[bimodal]
        assert low < roc_auc_score(positive[bimodal][chosen], parts["programme"][chosen]) < high


def test_unknown_programme_is_refused():
    with pytest.raises(
        ValueError,
        match=r"programme must be one of 'additive', 'combination', 'subset'; found 'epistatic'",
    ):
        cll_toy(programme="epistatic")


def test_control_has_no_programme(toy, control):
    genes = toy["rna"].uns["truth"]["gene"]
    hits = [(table.loc[genes, "p"] < 0.05).sum() for table in within_bimodal(control)]
    assert sum(hits) <= 8  # 60 tests at 5 %: 3 expected
    up = toy["rna"].uns["truth"]["sign"].to_numpy() > 0
    right = [(table.loc[genes, "effect"].to_numpy() > 0) == up for table in within_bimodal(control)]
    assert binomtest(int(np.sum(right)), 60).pvalue > 0.01


@pytest.mark.parametrize("programme", [True, False])
def test_difficulty_with_donors_held_out(toy, control, programme):
    logs, positive, donor = cll_cells(toy if programme else control)
    model = LogisticRegression(class_weight="balanced", C=0.003, tol=0.01)
    score = cross_val_predict(
        model, logs, positive, groups=donor, cv=GroupKFold(5), method="predict_proba"
    )[:, 1]
    f1, auroc = f1_score(positive, score > 0.5, average="macro"), roc_auc_score(positive, score)
    if programme:
        assert 0.80 < f1 < 0.93
        assert 0.88 < auroc < 0.97
    else:
        assert f1 < 0.6
        assert auroc < 0.65


@pytest.mark.parametrize(
    ("size", "match"),
    [
        ({"n_donors": 4}, "n_donors >= 5.*found 4"),
        ({"n_cells": 199}, "n_cells >= 200.*found 199"),
        ({"n_genes": 199}, "n_genes >= 200.*found 199"),
        ({"n_bimodal": 1}, "n_bimodal from 2 to n_donors - 3 = 7.*two positive donors.*found 1"),
        ({"n_trisomy12": 4}, "n_trisomy12 must be .*3; found 4"),
        ({"n_bimodal": 8}, "n_bimodal from 2 to n_donors - 3 = 7.*found 8"),
    ],
)
def test_too_small_is_refused(size, match):
    with pytest.raises(ValueError, match=match):
        cll_toy(**size)
