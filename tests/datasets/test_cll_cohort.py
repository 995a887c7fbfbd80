"""The simulated cohort: what was planted is there, what was not is not, and random genes are
significant.
"""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from scbert_cll._survival.models import fit
from scbert_cll._survival.outcome import Outcome
from scbert_cll.datasets import cll_cohort, cll_toy

COVARIATES = ["unmutated", "TP53", "trisomy12", "NOTCH1", "pretreated", "age"]
SEEDS = range(12)


@pytest.fixture(scope="module")
def default():
    return cll_cohort()


def standardized(values):
    return (values - values.mean(axis=0)) / values.std(axis=0)


def z_sum(cohort, table):
    """Weighted sum of z-scores, mean 0 and SD 1."""
    values = standardized(cohort.X)[:, cohort.var_names.get_indexer(table["gene"])]
    return standardized(values @ table["weight"].to_numpy())


def random_sums(cohort, weight, n=200, seed=0):
    """The same sum of random ordinary genes, one column per set."""
    rng, values = np.random.default_rng(seed), standardized(cohort.X)
    ordinary = np.flatnonzero(cohort.var_names.str.startswith("GENE"))
    sums = [values[:, rng.choice(ordinary, len(weight), replace=False)] @ weight for _ in range(n)]
    return standardized(np.stack(sums, axis=1))


def score_test(cohort, scores):
    """z of the score test of a Cox model with one variable, for each column."""
    order = np.argsort(-cohort.obs["TTT"].to_numpy())
    event, scores = cohort.obs["treated"].to_numpy()[order], scores[order]
    n = np.arange(1, len(order) + 1)[:, None]
    mean = np.cumsum(scores, axis=0) / n
    variance = np.cumsum(scores**2, axis=0) / n - mean**2
    return event @ (scores - mean) / np.sqrt(event @ variance)


def proliferation(cohort):
    genes = pd.DataFrame({"gene": cohort.uns["truth"]["proliferation"], "weight": 1.0})
    return z_sum(cohort, genes)


def adjusted(cohort, **scores):
    """Cox model of treatment on covariates and scores, complete cases."""
    table = cohort.obs.assign(
        unmutated=cohort.obs["IGHV"].map({"mutated": 0.0, "unmutated": 1.0}).astype(float)
    )
    table = table[["TTT", "treated", *COVARIATES]].assign(**scores).dropna()
    outcome = Outcome(table["treated"].to_numpy(dtype=bool), table["TTT"].to_numpy())
    return fit(outcome, table.drop(columns=["TTT", "treated"])).table().set_index("variable")


def cohorts(hazard_ratio):
    return [cll_cohort(n_genes=400, hazard_ratio=hazard_ratio, rng=seed) for seed in SEEDS]


# -- the object
# --------------------------------------------------------------------------------------------------


def test_what_is_in_it(default):
    assert default.shape == (300, 1500)
    assert default.X.dtype == np.float64
    assert 2.5 < default.X.min() < 5
    assert 12 < default.X.max() < 15.5
    truth = default.uns["truth"]
    for table in (truth["signature"], truth["decoy"]):
        assert list(table) == ["gene", "weight"]
        assert len(table) == 30
        assert set(table["gene"]) <= set(default.var_names)
    assert truth["signature"]["gene"].iloc[0] == "ITGA4"
    assert (truth["signature"]["weight"] > 0).sum() == 20
    assert not set(truth["signature"]["gene"]) & set(truth["decoy"]["gene"])
    assert {"MKI67", "PCNA"} <= set(truth["proliferation"]) <= set(default.var_names)
    assert truth["hazard_ratio"] == 1.6
    assert (truth["patients"].index == default.obs_names).all()


def test_columns_of_patients(default):
    obs = default.obs
    for name in ("treated", "died_untreated", "died", "trisomy12", "pretreated"):
        assert set(obs[name]) == {0, 1}
        assert obs[name].dtype.kind == "i"
    assert list(obs["IGHV"].cat.categories) == ["mutated", "unmutated"]
    assert list(obs["Binet"].cat.categories) == ["A", "B", "C"]
    missing = obs.isna().mean()
    assert (missing[["IGHV", "TP53", "NOTCH1"]].between(0.005, 0.08)).all()
    assert missing.drop(["IGHV", "TP53", "NOTCH1", "TTFT"]).max() == 0
    assert (obs["TTFT"].isna() == (obs["pretreated"] == 1)).all()


def test_times_are_coherent(default):
    obs = default.obs
    assert obs["TTT"].between(0, obs["OS"], inclusive="right").all()
    assert not ((obs["treated"] == 1) & (obs["died_untreated"] == 1)).any()
    censored = (obs["treated"] == 0) & (obs["died_untreated"] == 0)
    assert (obs.loc[obs["treated"] == 0, "TTT"] == obs.loc[obs["treated"] == 0, "OS"]).all()
    assert (obs.loc[obs["died_untreated"] == 1, "died"] == 1).all()
    assert (obs.loc[censored, "died"] == 0).all()
    first = obs[obs["pretreated"] == 0]
    np.testing.assert_allclose(first["TTFT"], first["years_to_sample"] + first["TTT"])


def test_frequencies():
    obs = pd.concat([cll_cohort(n_genes=200, rng=seed).obs for seed in range(20)])
    assert 0.45 < obs["treated"].mean() < 0.55
    assert 0.07 < obs["died_untreated"].mean() < 0.13
    assert (obs["IGHV"].dropna() == "unmutated").mean() == pytest.approx(0.40, abs=0.03)
    assert obs["TP53"].mean() == pytest.approx(0.10, abs=0.02)
    assert obs["trisomy12"].mean() == pytest.approx(0.15, abs=0.02)
    assert obs["NOTCH1"].mean() == pytest.approx(0.10, abs=0.02)


def test_seed_decides_and_the_hazard_ratio_changes_the_outcome_alone(default):
    again, other, null = cll_cohort(), cll_cohort(rng=1), cll_cohort(hazard_ratio=1.0)
    np.testing.assert_array_equal(again.X, default.X)
    pd.testing.assert_frame_equal(again.obs, default.obs)
    assert (other.X != default.X).mean() > 0.99
    np.testing.assert_array_equal(null.X, default.X)
    changed = {"TTT", "treated", "died_untreated", "TTFT"}
    pd.testing.assert_frame_equal(null.obs.drop(columns=changed), default.obs.drop(columns=changed))
    assert (null.obs["TTT"] != default.obs["TTT"]).mean() > 0.3


def test_survives_h5ad(default, tmp_path):
    default.write_h5ad(tmp_path / "cohort.h5ad")
    back = ad.read_h5ad(tmp_path / "cohort.h5ad")
    np.testing.assert_array_equal(back.X, default.X)
    pd.testing.assert_frame_equal(back.obs, default.obs)
    for name in ("signature", "decoy", "hazard_ratios", "patients"):
        pd.testing.assert_frame_equal(back.uns["truth"][name], default.uns["truth"][name])
    assert list(back.uns["truth"]["proliferation"]) == default.uns["truth"]["proliferation"]
    assert (
        set(back.uns["cohort"]["outcomes"])
        == set(default.uns["cohort"]["outcomes"])
        < set(back.obs)
    )


# -- the truth
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_planted", [8, 30, 60])
def test_reliability_of_the_planted_sum(n_planted):
    found = []
    for seed in range(5):
        cohort = cll_cohort(n_genes=300, n_planted=n_planted, rng=seed)
        score = z_sum(cohort, cohort.uns["truth"]["signature"])
        found.append(np.corrcoef(score, cohort.uns["truth"]["patients"]["programme"])[0, 1] ** 2)
    assert np.mean(found) == pytest.approx(0.95, abs=0.015)


def test_programme_is_higher_with_trisomy_12_and_unmutated_ighv():
    one = cll_cohort(n_patients=3000, n_genes=200)
    programme = one.uns["truth"]["patients"]["programme"]
    assert programme.mean() == pytest.approx(0, abs=0.06)
    assert programme.std() == pytest.approx(1, abs=0.04)
    by_trisomy, by_ighv = (
        programme.groupby(one.obs[c], observed=True).mean() for c in ("trisomy12", "IGHV")
    )
    assert by_trisomy[1] - by_trisomy[0] > 0.7
    assert by_ighv["unmutated"] - by_ighv["mutated"] > 0.5


def test_the_conditional_hazard_ratio_is_recovered():
    rows = [
        adjusted(
            one, score=z_sum(one, one.uns["truth"]["signature"]), proliferation=proliferation(one)
        )
        for one in cohorts(1.6)
    ]
    score = pd.DataFrame([row.loc["score"] for row in rows])
    truth = np.log(1.6)
    assert score["coef"].mean() == pytest.approx(truth, abs=0.1)
    covered = (np.log(score["ci_low"]) < truth) & (truth < np.log(score["ci_high"]))
    assert (
        covered.sum() >= len(rows) - 3
    )  # 12 intervals of 95 %: more than three misses in 1 of 450


def test_hazards_are_what_the_truth_says():
    one = cll_cohort(n_patients=6000, n_genes=150)
    latent = one.uns["truth"]["patients"]
    found = adjusted(one, programme=latent["programme"], proliferation=latent["proliferation"])
    ratios = one.uns["truth"]["hazard_ratios"].set_index("variable")["treatment"]
    ratios = ratios.rename({"IGHV: unmutated": "unmutated", "age (10 years)": "age"})
    z = (found["coef"] - np.log(ratios)[found.index]) / found["se"]
    assert len(z) == len(ratios) == 8
    assert z.abs().max() < 3.3
    assert found["se"].max() < 0.08


def test_without_an_effect_the_score_says_nothing_beyond_the_covariates():
    null = cohorts(1.0)
    score = [
        adjusted(one, score=z_sum(one, one.uns["truth"]["signature"])).loc["score"] for one in null
    ]
    table = pd.DataFrame(score)
    assert abs(table["coef"].mean()) < 0.1
    assert (table["p"] < 0.05).sum() <= 3
    alone = [score_test(one, z_sum(one, one.uns["truth"]["signature"])[:, None])[0] for one in null]
    assert np.mean(alone) > 1, "it is confounded with IGHV"


def test_random_genes_are_often_significant():
    for weigh, low, high in ((lambda w: w, 0.20, 0.60), (np.abs, 0.60, 1.0)):
        share = []
        for one in (cll_cohort(rng=seed) for seed in range(6)):
            weight = weigh(one.uns["truth"]["signature"]["weight"].to_numpy())
            share.append((np.abs(score_test(one, random_sums(one, weight))) > 1.96).mean())
        assert low < np.mean(share) < high


def test_the_signature_beats_random_genes_and_the_decoy_does_not():
    naive, rank, planted = [], [], []
    for one in (cll_cohort(rng=seed) for seed in range(6)):
        decoy, signature = one.uns["truth"]["decoy"], one.uns["truth"]["signature"]
        z = abs(score_test(one, z_sum(one, decoy)[:, None])[0])
        naive.append(z)
        rank.append(
            (np.abs(score_test(one, random_sums(one, decoy["weight"].to_numpy()))) >= z).mean()
        )
        own = abs(score_test(one, z_sum(one, signature)[:, None])[0])
        planted.append(
            (
                np.abs(score_test(one, random_sums(one, signature["weight"].to_numpy()))) >= own
            ).mean()
        )
    assert np.median(naive) > 2.58, "p < .01"
    assert np.median(rank) > 0.1
    assert min(rank[:1]) > 0.05, "the default object"
    assert max(planted) < 0.02


def test_the_decoy_is_typical_of_the_transcriptome():
    decoy, others = [], []
    for seed in range(10):
        one = cll_cohort(rng=seed)
        ordinary = one.var_names.str.startswith("GENE")
        chosen = one.var_names.isin(one.uns["truth"]["decoy"]["gene"])
        decoy.append([one.var["proliferation"][chosen].mean(), one.X[:, chosen].mean()])
        others.append([one.var["proliferation"][ordinary].mean(), one.X[:, ordinary].mean()])
        assert (one.var["programme"][chosen] == 0).all()
    loading, level = np.abs(np.mean(decoy, axis=0) - np.mean(others, axis=0))
    assert loading < 0.04
    assert level < 0.3


def test_a_signature_of_cells_can_be_planted():
    found = cll_toy(n_cells=400, n_genes=300)["rna"].uns["truth"]
    cohort = cll_cohort(n_genes=300, programme=dict(zip(found["gene"], found["sign"], strict=True)))
    signature = cohort.uns["truth"]["signature"]
    assert signature["gene"].tolist() == found["gene"].tolist()
    assert (np.sign(signature["weight"]).to_numpy() == found["sign"].to_numpy()).all()
    assert cohort.var_names.is_unique
    assert cohort.shape == (300, 300)


# -- what is refused
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"n_patients": 10}, "n_patients must be a whole number from 20 to inf; found 10"),
        ({"n_planted": 1}, "n_planted must be a whole number from 2 to inf; found 1"),
        ({"n_genes": 120}, "n_genes must be a whole number from 142 to inf; found 120"),
        ({"hazard_ratio": 0}, "hazard_ratio must be a number from 0.01 to 100; found 0"),
        (
            {"programme": {"ITGA4": 1.0}},
            "programme must give at least two genes weights above or below 0; found 1",
        ),
        ({"programme": {"ITGA4": 1.0, "CD44": 0.0}}, "found 2, without such a weight 'CD44'"),
        ({"programme": {"ITGA4": 1.0, "CD44": np.nan}}, "found 2, without such a weight 'CD44'"),
        (
            {"programme": {"ITGA4": 1.0, "MKI67": 1.0}},
            "leave the proliferation genes to proliferation; found 'MKI67'",
        ),
    ],
)
def test_what_cannot_be_simulated_is_refused(asked, match):
    with pytest.raises(ValueError, match=match):
        cll_cohort(**asked)
