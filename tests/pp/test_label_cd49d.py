from __future__ import annotations

import re

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import scbert_cll as sb
from scbert_cll.pp import _gate
from tests._make import unchanged

NAMES = ["CD49d", "CD19", "CD5", "CD3", "IgG1", "HLA-DR"]


def cite(n=400, *, positive=0.5, far=80.0, seed=0):
    """Cells of four donors in two batches, each batch with half its cells positive, and raw protein
    in obsm.
    """
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < positive
    protein = rng.negative_binomial(8, 8 / (8 + np.full((n, len(NAMES)), 20.0))).astype(float)
    protein[:, 0] = rng.negative_binomial(8, 8 / (8 + np.where(truth, far, 5.0)))
    adata = AnnData(sparse.csr_matrix(rng.poisson(1.0, (n, 6)).astype(np.float32)))
    adata.obs_names = [f"cell{i}" for i in range(n)]
    adata.obs["donor"] = rng.choice(["A", "B", "C", "D"], n)
    adata.obs["batch"] = adata.obs["donor"].map({"A": "x", "B": "x", "C": "y/z", "D": "y/z"})
    adata.obs["truth"] = truth
    adata.obsm["protein"] = pd.DataFrame(protein, index=adata.obs_names, columns=NAMES)
    return adata


def as_mudata(adata, *, rna="rna", prot="prot"):
    protein = adata.obsm["protein"]
    modality = AnnData(
        sparse.csr_matrix(protein.to_numpy()), obs=pd.DataFrame(index=adata.obs_names)
    )
    modality.var_names = protein.columns
    return md.MuData({rna: AnnData(adata.X.copy(), obs=adata.obs.copy()), prot: modality})


# --- what it writes
# -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", ["clr_cell", "clr_protein"])
def test_gmm_finds_the_two_populations(normalize):
    adata = cite()
    assert sb.pp.label_cd49d(adata, normalize=normalize) is None
    label = adata.obs["cd49d"]
    assert list(label.cat.categories) == ["CD49d-", "CD49d+"]
    assert label.cat.ordered
    sure = label.notna()
    assert sure.mean() > 0.9
    assert ((label[sure] == "CD49d+") == adata.obs["truth"][sure]).mean() > 0.99


def test_posterior_decides_label_and_band():
    adata = cite(far=30.0)
    sb.pp.label_cd49d(adata, margin=0.2, normalize="clr_protein")
    score, label = adata.obs["cd49d_score"], adata.obs["cd49d"]
    assert score.between(0, 1).all()
    assert label.isna().any()
    assert (label.isna() == score.between(0.2, 0.8, inclusive="neither")).all()
    assert ((label == "CD49d+") == (score >= 0.8)).all()


def test_margin_zero_labels_every_cell():
    adata = cite(far=30.0)
    sb.pp.label_cd49d(adata, margin=0.0, normalize="clr_protein")
    assert adata.obs["cd49d"].notna().all()
    assert ((adata.obs["cd49d"] == "CD49d+") == (adata.obs["cd49d_score"] >= 0.5)).all()


def test_levels_split_the_positive_cells_at_their_median():
    adata = cite()
    sb.pp.label_cd49d(adata)
    table = pd.crosstab(adata.obs["cd49d"], adata.obs["cd49d_level"])
    assert list(adata.obs["cd49d_level"].cat.categories) == ["zero", "low", "high"]
    assert table.loc["CD49d-", ["low", "high"]].sum() == 0
    assert table.loc["CD49d+", "zero"] == 0
    assert abs(table.loc["CD49d+", "low"] - table.loc["CD49d+", "high"]) <= 1
    score = adata.obs.groupby("cd49d_level", observed=True)["cd49d_score"].mean()
    assert score["zero"] < score["low"] <= score["high"]


def test_quantile_labels_the_outer_parts_of_each_batch():
    adata = cite()
    sb.pp.label_cd49d(
        adata, method="quantile", quantiles=(0.25, 0.75), batch_key="batch", donor_key="donor"
    )
    for _, cells in adata.obs.groupby("batch"):
        share = cells["cd49d"].value_counts(normalize=True, dropna=False)
        assert share["CD49d-"] == pytest.approx(0.25, abs=0.03)
        assert share["CD49d+"] == pytest.approx(0.25, abs=0.03)
        order = cells.sort_values("cd49d_score")["cd49d_level"]
        assert order.is_monotonic_increasing
    assert adata.uns["cd49d"]["score"] == "rank"
    donors = adata.uns["cd49d"]["donors"]
    assert donors[["pct_positive", "clinical_class", "cd49d_call"]].isna().all(axis=None)
    assert (donors["n_neg"] + donors["n_pos"]).sum() == adata.obs["cd49d"].notna().sum()


def test_manual_threshold_pair_and_per_batch():
    adata = cite()
    level = np.log1p(adata.obsm["protein"]["CD49d"])
    level -= level.groupby(adata.obs["batch"]).transform("mean")
    cuts = {"x": (-0.5, 0.5), "y/z": 0.0}
    sb.pp.label_cd49d(
        adata, method="manual", thresholds=cuts, batch_key="batch", normalize="clr_protein"
    )
    x = adata.obs["batch"] == "x"
    expected = np.select(
        [level >= np.where(x, 0.5, 0.0), np.where(x, level <= -0.5, level < 0)],
        ["CD49d+", "CD49d-"],
        "",
    )
    assert (adata.obs["cd49d"].astype(object).fillna("") == expected).all()
    between = x & (level > -0.5) & (level < 0.5)
    assert (adata.obs.loc[between, "cd49d_level"] == "low").all()
    table = adata.uns["cd49d"]["thresholds"]
    assert table.loc["x"].tolist() == [-0.5, 0.0, 0.5]
    assert table.loc["y/z"].tolist() == [0.0, 0.0, 0.0]


def test_batches_are_gated_apart():
    adata = cite(n=800)
    second = (adata.obs["batch"] == "y/z").to_numpy()
    adata.obsm["protein"].loc[second, "CD49d"] *= (
        12  # another antibody lot: its negatives look like the first's positives
    )
    sb.pp.label_cd49d(
        adata,
        batch_key="batch",
        normalize="none",
        method="manual",
        thresholds={"x": 20.0, "y/z": 240.0},
    )
    sb.pp.label_cd49d(adata, batch_key="batch", normalize="clr_protein", key_added="fitted")
    agree = adata.obs["fitted"].notna()
    assert (adata.obs["fitted"][agree] == adata.obs["cd49d"][agree]).mean() > 0.98


def test_cells_outside_the_gate_stay_unlabelled_and_without_influence():
    adata = cite()
    inside = np.arange(adata.n_obs) < 300
    by_column, by_series, alone = adata.copy(), adata.copy(), adata[inside].copy()
    by_column.obs["b"] = inside
    sb.pp.label_cd49d(by_column, cells="b", normalize="clr_protein")
    sb.pp.label_cd49d(
        by_series, cells=pd.Series(inside, index=adata.obs_names)[::-1], normalize="clr_protein"
    )
    sb.pp.label_cd49d(alone, normalize="clr_protein")
    sb.pp.label_cd49d(adata, cells=inside, normalize="clr_protein")
    for column in ("cd49d", "cd49d_level", "cd49d_score"):
        assert adata.obs[column][~inside].isna().all()
        pd.testing.assert_series_equal(adata.obs[column], by_column.obs[column])
        pd.testing.assert_series_equal(adata.obs[column], by_series.obs[column])
    assert (
        adata.obs["cd49d"][inside].astype(object).eq(alone.obs["cd49d"].astype(object))
    ).mean() > 0.99


def test_gated_cells_set_the_zero_of_clr_across_cells():
    adata = cite()
    inside = adata.obs["truth"].to_numpy()
    level = np.log1p(adata.obsm["protein"]["CD49d"])
    sb.pp.label_cd49d(adata, method="manual", thresholds=0.0, cells=inside, normalize="clr_protein")
    assert (
        (adata.obs["cd49d"] == "CD49d+")[inside] == (level >= level[inside].mean())[inside]
    ).all()


def test_row_order_does_not_matter():
    adata = cite()
    shuffled = adata[np.random.default_rng(1).permutation(adata.n_obs)].copy()
    sb.pp.label_cd49d(adata)
    sb.pp.label_cd49d(shuffled)
    pd.testing.assert_frame_equal(shuffled.obs.loc[adata.obs_names], adata.obs, rtol=1e-6)


def test_mudata_writes_to_the_rna_and_pairs_by_name():
    adata = cite()
    mdata = as_mudata(adata)
    mdata.mod["prot"] = mdata["prot"][::-1].copy()
    sb.pp.label_cd49d(adata, donor_key="donor")
    out = sb.pp.label_cd49d(mdata, donor_key="donor", copy=True)
    assert "cd49d" not in mdata["rna"].obs
    assert sb.pp.label_cd49d(mdata, donor_key="donor") is None
    for result in (out, mdata):
        assert "cd49d" not in result["prot"].obs
        pd.testing.assert_series_equal(result["rna"].obs["cd49d"], adata.obs["cd49d"])
        pd.testing.assert_frame_equal(
            result["rna"].uns["cd49d"]["donors"], adata.uns["cd49d"]["donors"]
        )


def test_columns_of_the_mudata_itself_are_found():
    adata = cite()
    mdata = as_mudata(adata)
    del mdata["rna"].obs["donor"]
    mdata.obs["donor"] = adata.obs["donor"].reindex(mdata.obs_names)
    sb.pp.label_cd49d(mdata, donor_key="donor")
    assert list(mdata["rna"].uns["cd49d"]["donors"].index) == ["A", "B", "C", "D"]


def test_copy_and_survival_on_disk(tmp_path):
    adata = cite()
    out = sb.pp.label_cd49d(adata, batch_key="batch", donor_key="donor", copy=True)
    assert "cd49d" not in adata.obs
    assert "cd49d" not in adata.uns
    out.write_h5ad(tmp_path / "x.h5ad")
    back = ad.read_h5ad(tmp_path / "x.h5ad")
    pd.testing.assert_frame_equal(
        back.obs[["cd49d", "cd49d_level", "cd49d_score"]],
        out.obs[["cd49d", "cd49d_level", "cd49d_score"]],
    )
    for table in ("thresholds", "separation", "donors", "classes"):
        pd.testing.assert_frame_equal(
            back.uns["cd49d"][table], out.uns["cd49d"][table], check_index_type=False
        )
    assert back.uns["cd49d"]["params"]["marker"] == "CD49d"
    assert back.uns["cd49d"]["params"]["batch_key"] == "batch"
    assert (
        out.uns["cd49d"]["classes"]["n_cells"].to_dict()
        == out.obs["cd49d"].value_counts().to_dict()
    )


@pytest.mark.parametrize("stored", ["array", "csr", "csc", "csr_array"])
def test_every_kind_of_protein_matrix(stored):
    adata, reference = cite(), cite()
    protein = adata.obsm.pop("protein").to_numpy()
    kinds = {
        "array": np.asarray,
        "csr": sparse.csr_matrix,
        "csc": sparse.csc_matrix,
        "csr_array": sparse.csr_array,
    }
    adata.obsm["protein"] = kinds[stored](protein)
    adata.uns["protein_names"] = np.array(NAMES)
    sb.pp.label_cd49d(adata)
    sb.pp.label_cd49d(reference)
    pd.testing.assert_series_equal(adata.obs["cd49d"], reference.obs["cd49d"])


@pytest.mark.parametrize(
    "name",
    [
        "cd49d",
        "CD-49d",
        "CD49d_TotalSeqB",
        "Hu.CD49d",
        "anti-human CD49d",
        "CD49d-TotalSeqC",
        "CD49d_A0576",
        "adt_CD49d",
    ],
)
def test_marker_is_found_under_a_vendors_name(name):
    adata, reference = cite(), cite()
    adata.obsm["protein"] = adata.obsm["protein"].rename(columns={"CD49d": name})
    sb.pp.label_cd49d(adata)
    sb.pp.label_cd49d(reference)
    pd.testing.assert_series_equal(adata.obs["cd49d"], reference.obs["cd49d"])
    assert adata.uns["cd49d"]["params"]["protein"] == name


def test_any_marker_names_its_own_classes():
    adata = cite()
    adata.obsm["protein"] = adata.obsm["protein"].rename(columns={"CD49d": "CD38"})
    sb.pp.label_cd49d(adata, marker="CD38", key_added="cd38")
    assert list(adata.obs["cd38"].cat.categories) == ["CD38-", "CD38+"]
    assert {"cd38", "cd38_level", "cd38_score"} <= set(adata.obs)
    assert "cd38" in adata.uns


# --- the numbers
# --------------------------------------------------------------------------------------------------


def test_clr_is_the_published_formula():
    adata = cite()
    counts = adata.obsm["protein"].to_numpy()
    x, g = counts[:, 0], np.exp(np.log1p(counts).mean(axis=1))
    for normalize, level in (
        ("clr_cell", np.log1p(x / g)),
        ("clr_protein", np.log1p(x) - np.log1p(x).mean()),
        ("none", x),
    ):
        cut = float(np.sort(level)[200:202].mean())
        sb.pp.label_cd49d(adata, method="manual", thresholds=cut, normalize=normalize)
        assert ((adata.obs["cd49d"] == "CD49d+") == (level >= cut)).all()


def test_ashmans_d_and_bic_of_a_known_mixture():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1.0, 20_000), rng.normal(6, 2.0, 20_000)])
    mixture = _gate.fit_mixture(x, 0)
    assert mixture.ashman_d == pytest.approx(np.sqrt(2) * 6 / np.sqrt(1 + 4), rel=0.02)
    assert mixture.means == pytest.approx([0, 6], abs=0.06)
    assert mixture.sds == pytest.approx([1, 2], rel=0.02)
    one = -2 * np.log(
        np.exp(-((x - x.mean()) ** 2) / 2 / x.var()) / np.sqrt(2 * np.pi * x.var())
    ).sum() + 2 * np.log(x.size)
    assert mixture.bic_1 == pytest.approx(one, rel=1e-6)


@settings(max_examples=100, deadline=None)
@given(
    gap=st.floats(0.5, 8),
    sds=st.tuples(st.floats(0.2, 3), st.floats(0.2, 3)),
    weight=st.floats(0.05, 0.95),
    p=st.floats(0.02, 0.98),
)
def test_posterior_never_falls_and_cut_inverts_it(gap, sds, weight, p):
    mixture = _gate.Mixture(
        np.array([0.0, gap]), np.array(sds), np.array([1 - weight, weight]), 1.0, 0.0
    )
    x = np.linspace(-20, 30, 2001)
    posterior = mixture.posterior(x)
    assert (np.diff(posterior) >= -1e-12).all()
    assert ((posterior >= 0) & (posterior <= 1)).all()
    between = x[(x >= 0) & (x <= gap)]
    density = [
        w / s * np.exp(-0.5 * ((between - m) / s) ** 2)
        for w, s, m in zip(mixture.weights, mixture.sds, mixture.means, strict=True)
    ]
    np.testing.assert_allclose(
        mixture.posterior(between), density[1] / (density[0] + density[1]), atol=1e-9
    )
    cut = mixture.cut(p)
    if np.isfinite(cut):
        assert mixture.posterior(np.array([cut]))[0] == pytest.approx(p, abs=1e-6)


def test_donor_table_on_the_simulated_patients():
    mdata = sb.datasets.cll_toy()
    sb.pp.label_cd49d(
        mdata, cells=sb.pp.cll_mask(mdata), donor_key="donor", normalize="clr_protein"
    )
    rna = mdata["rna"]
    donors = rna.uns["cd49d"]["donors"]
    above = rna.obs["cd49d_score"].dropna() >= 0.5
    np.testing.assert_allclose(
        donors["pct_positive"],
        100 * above.groupby(rna.obs["donor"], observed=True).mean(),
        atol=0.6,
    )
    assert (donors["ci_low"] < donors["pct_positive"]).all()
    assert (donors["pct_positive"] < donors["ci_high"]).all()
    truth = rna.uns["truth_donors"]
    assert donors["clinical_class"].astype(str).to_dict() == truth["pattern"].to_dict()
    np.testing.assert_allclose(donors["pct_positive"], truth["pct_positive"], atol=15)
    assert ((donors["cd49d_call"] == "negative") == (truth["pattern"] == "neg_homogeneous")).all()
    assert (donors["bimodal"] == truth["pattern"].str.startswith("bimodal")).all()


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.02, "neg_homogeneous"),
        (0.98, "pos_homogeneous"),
        (0.2, "bimodal_low"),
        (0.5, "bimodal_high"),
    ],
)
def test_clinical_class_by_the_rule_of_30_percent(share, expected):
    adata = cite(n=600)
    donor = np.where(np.arange(600) < 300, "pool", "patient")
    truth = np.arange(600) % 2 == 0
    truth[300:] = np.arange(300) < share * 300
    rng = np.random.default_rng(3)
    adata.obsm["protein"]["CD49d"] = rng.negative_binomial(
        12, 12 / (12 + np.where(truth, 100.0, 5.0))
    ).astype(float)
    adata.obs["donor"] = donor
    sb.pp.label_cd49d(adata, donor_key="donor", normalize="clr_protein")
    row = adata.uns["cd49d"]["donors"].loc["patient"]
    assert row["pct_positive"] == pytest.approx(100 * share, abs=2)
    assert row["clinical_class"] == expected
    assert row["cd49d_call"] == ("negative" if expected == "neg_homogeneous" else "positive")


def test_two_populations_on_one_side_of_the_threshold_are_not_bimodal():
    adata = cite(n=400, far=100.0)
    adata.obs["donor"] = "A"
    for threshold, bimodal in ((20.0, True), (1.0, False)):
        cuts = np.log1p(threshold) - np.log1p(adata.obsm["protein"]["CD49d"]).mean()
        sb.pp.label_cd49d(
            adata, method="manual", thresholds=cuts, donor_key="donor", normalize="clr_protein"
        )
        assert adata.uns["cd49d"]["donors"].loc["A", "bimodal"] == bimodal


# --- where it refuses
# ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("far", [5.0, 9.0])
def test_one_population_gets_no_labels(far):
    adata = cite(far=far)
    match = r"two populations.*Ashman's D = .*method='quantile'.*thresholds=.*normalize="
    with unchanged(adata), pytest.raises(ValueError, match=match):
        sb.pp.label_cd49d(adata, normalize="clr_protein")


@pytest.mark.parametrize(
    ("mean", "size"),
    [(0.5, 50.0), (1.0, 50.0), (2.0, 50.0), (3.0, 2.0), (8.0, 1.0), (20.0, 1.0), (60.0, 2.0)],
)
def test_counting_noise_and_skew_are_no_second_population(mean, size):
    adata = cite()
    rng = np.random.default_rng(5)
    adata.obsm["protein"]["CD49d"] = rng.negative_binomial(
        size, size / (size + mean), adata.n_obs
    ).astype(float)
    for normalize in ("clr_cell", "clr_protein"):
        with unchanged(adata), pytest.raises(ValueError, match="not fall into two populations"):
            sb.pp.label_cd49d(adata, normalize=normalize)


def test_populations_a_few_counts_apart_are_none():
    adata = cite()
    rng = np.random.default_rng(0)
    adata.obsm["protein"]["CD49d"] = rng.poisson(np.where(adata.obs["truth"], 3.4, 0.02)).astype(
        float
    )
    match = r"medians 2\.\d\d sd of counting noise apart \(at least 3\)"
    with unchanged(adata), pytest.raises(ValueError, match=match):
        sb.pp.label_cd49d(adata, normalize="clr_protein")


def test_a_batch_with_one_population_is_named():
    adata = cite()
    adata.obsm["protein"].loc[adata.obs["batch"] == "y/z", "CD49d"] = np.random.default_rng(
        0
    ).poisson(30, (adata.obs["batch"] == "y/z").sum())
    with unchanged(adata), pytest.raises(ValueError, match=r"batch 'y/z'"):
        sb.pp.label_cd49d(adata, batch_key="batch", normalize="clr_protein")
    with pytest.raises(ValueError, match="two populations") as error:
        sb.pp.label_cd49d(adata, batch_key="batch", normalize="clr_protein")
    assert "batch 'x'" not in str(error.value)


def test_evidence_of_a_batch_too_small_for_a_mixture_is_missing_by_the_same_names():
    adata = cite()
    small = (adata.obs["batch"] == "x") & (np.cumsum(adata.obs["batch"] == "x") <= 12)
    keep = small | (adata.obs["batch"] != "x")
    sb.pp.label_cd49d(
        adata, method="quantile", batch_key="batch", cells=keep.to_numpy(), normalize="clr_protein"
    )
    separation = adata.uns["cd49d"]["separation"]
    assert list(separation) == [
        *("n_cells", "ashman_d", "valley", "bic_1", "bic_2", "count_gap"),
        *("mean_neg", "mean_pos", "sd_neg", "sd_pos", "weight_pos"),
    ]
    assert separation.loc["x", "n_cells"] == 12
    assert separation.loc["x"].drop("n_cells").isna().all()
    assert separation.loc["y/z"].notna().all()


def test_too_few_cells_for_a_mixture():
    adata = cite()
    with unchanged(adata), pytest.raises(ValueError, match="fewer than 20 cells"):
        sb.pp.label_cd49d(adata, cells=np.arange(adata.n_obs) < 10)


def test_a_donor_is_never_gated_alone():
    for method in ("gmm", "quantile"):
        adata = cite()
        match = r"single donor.*'A', 'B', 'C', 'D'.*batch_key=None"
        with unchanged(adata), pytest.raises(ValueError, match=match):
            sb.pp.label_cd49d(adata, batch_key="donor", donor_key="donor", method=method)


def corrupt(value):
    adata = cite()
    adata.obsm["protein"].iloc[7, 0] = value
    return adata


def without_names():
    adata = cite()
    adata.obsm["protein"] = adata.obsm["protein"].to_numpy()
    return adata


def wrong_names():
    adata = without_names()
    adata.uns["protein_names"] = NAMES[:3]
    return adata


def name_alone():
    adata = without_names()
    adata.uns["protein_names"] = "CD49d"  # not a list of one
    return adata


def renamed(**columns):
    adata = cite()
    adata.obsm["protein"] = adata.obsm["protein"].rename(columns=columns)
    return adata


def two_matrices():
    adata = cite()
    adata.obsm["adt"] = adata.obsm["protein"]
    return adata


def none_at_all():
    adata = cite()
    del adata.obsm["protein"]
    adata.obsm["X_pca"] = np.ones((adata.n_obs, 2))
    return adata


def antibodies_among_genes():
    adata = none_at_all()
    adata.var["feature_types"] = ["Gene Expression"] * 4 + ["Antibody Capture"] * 2
    return adata


def constant():
    adata = cite()
    adata.obsm["protein"]["CD49d"] = 0.0
    return adata


def unpaired():
    mdata = as_mudata(cite())
    return md.MuData({"rna": mdata["rna"][:-2].copy(), "prot": mdata["prot"][1:].copy()})


BAD = {
    "negative": (
        lambda: corrupt(-1.0),
        {},
        ValueError,
        r"negative values, first -1 \(cell 'cell7', protein 'CD49d'\)",
    ),
    "NaN": (
        lambda: corrupt(np.nan),
        {},
        ValueError,
        r"NaN or infinite values, first nan \(cell 'cell7', protein 'CD49d'\)",
    ),
    "infinite": (lambda: corrupt(np.inf), {}, ValueError, "NaN or infinite"),
    "not whole": (
        lambda: corrupt(1.5),
        {},
        ValueError,
        r"not whole numbers, first 1\.5 .*normalize='none'",
    ),
    "missing marker": (
        cite,
        {"marker": "CD49e"},
        KeyError,
        r"'CD49e' is not among the 6 proteins in adata\.obsm\['protein'\], closest first: 'CD49d'",
    ),
    "two alike": (
        lambda: renamed(CD49d="CD49d_TotalSeqB", CD19="CD49d_TotalSeqC"),
        {},
        KeyError,
        (
            "fits more than one protein.*TotalSeqB.*TotalSeqC.*name one of them exactly, e.g. "
            "'CD49d_TotalSeqB' in place of 'CD49d'"
        ),
    ),
    "twice": (
        lambda: renamed(CD19="CD49d"),
        {},
        ValueError,
        "protein names of .* must be unique.*CD49d.*make_index_unique",
    ),
    "constant": (
        constant,
        {"normalize": "clr_protein"},
        ValueError,
        "same level .0. in all 400 gated cells",
    ),
    "no protein": (
        none_at_all,
        {},
        KeyError,
        r"adata\.obsm has none of the usual names.*it holds 'X_pca'.*protein_key",
    ),
    "wrong key": (
        cite,
        {"protein_key": "adt"},
        KeyError,
        r"'adt' is not in adata\.obsm; it has 'protein'",
    ),
    "two matrices": (
        two_matrices,
        {},
        KeyError,
        "more than one of the usual names .'protein', 'adt'.*protein_key",
    ),
    "no names": (without_names, {}, KeyError, r"without column names.*protein_names"),
    "wrong names": (wrong_names, {}, ValueError, "holds 3 names for the 6 columns"),
    "name alone": (name_alone, {}, ValueError, "holds 5 names for the 6 columns"),
    "10x": (
        antibodies_among_genes,
        {},
        ValueError,
        "2 of 6 rows of var are not genes.*separate them first.*mudata.MuData",
    ),
    "unpaired": (
        unpaired,
        {},
        ValueError,
        r"3 cells are in only one.*'cell0', 'cell398', 'cell399'.*sc_cll.pp.intersect_obs\(mdata\)",
    ),
    "no rna": (
        lambda: as_mudata(cite(), rna="transcripts"),
        {},
        KeyError,
        r"none of the usual names.*'transcripts'.*rna_key",
    ),
    "no modality": (
        lambda: as_mudata(cite(), prot="abs"),
        {},
        KeyError,
        r"mdata\.mod has none.*'rna', 'abs'.*protein_key",
    ),
    "no donor": (
        cite,
        {"donor_key": "patient"},
        KeyError,
        "'patient' is not in adata.obs; it has 'donor'",
    ),
    "no cells column": (cite, {"cells": "is_b"}, KeyError, "'is_b' is not in adata.obs"),
    "cells not boolean": (
        cite,
        {"cells": "donor"},
        ValueError,
        r"obs\['donor'\] must hold one boolean for each of 400 cells",
    ),
    "cells too short": (
        cite,
        {"cells": np.ones(3, dtype=bool)},
        ValueError,
        "one boolean for each of 400 cells",
    ),
    "cells of others": (
        cite,
        {"cells": pd.Series([True], index=["z"])},
        ValueError,
        "says nothing about 400 cells: 'cell0'",
    ),
    "no cell": (
        cite,
        {"cells": np.zeros(400, dtype=bool)},
        ValueError,
        "selects none of the 400 cells",
    ),
    "method": (
        cite,
        {"method": "kmeans"},
        ValueError,
        "method must be one of 'gmm', 'quantile', 'manual'; found 'kmeans'",
    ),
    "normalize": (cite, {"normalize": "clr"}, ValueError, "normalize must be one of 'clr_cell'"),
    "margin": (cite, {"margin": 0.5}, ValueError, r"margin must lie in \[0, 0.5\)"),
    "quantiles": (
        cite,
        {"method": "quantile", "quantiles": (0.7, 0.3)},
        ValueError,
        "quantiles must be two rising numbers",
    ),
    "manual without": (
        cite,
        {"method": "manual"},
        ValueError,
        "thresholds= belongs to method='manual' and is needed there",
    ),
    "thresholds without manual": (
        cite,
        {"thresholds": 1.0},
        ValueError,
        "found method='gmm', thresholds=1.0",
    ),
    "thresholds wrong way": (
        cite,
        {"method": "manual", "thresholds": (2.0, 1.0)},
        ValueError,
        "low <= high",
    ),
    "thresholds NaN": (cite, {"method": "manual", "thresholds": np.nan}, ValueError, "finite"),
    "threshold missing": (
        cite,
        {"method": "manual", "thresholds": {"x": 1.0}, "batch_key": "batch"},
        KeyError,
        "'y/z' is not in thresholds",
    ),
    "threshold too high": (
        cite,
        {"method": "manual", "thresholds": 99.0},
        ValueError,
        r"No cell is labelled 'CD49d\+'",
    ),
    "type": (lambda: 3, {}, TypeError, "Expected an AnnData, found int"),
}


@pytest.mark.parametrize("word", ["Antibody Capture", "Custom", "ADT", "protein"])
def test_the_remedy_for_antibodies_among_the_genes(word):
    adata = antibodies_among_genes()
    adata.var["feature_types"] = (
        adata.var["feature_types"].astype(str).replace("Antibody Capture", word)
    )
    adata.var_names = [f"G{i}" for i in range(4)] + ["CD49d", "CD19"]
    with pytest.raises(ValueError, match="2 of 6 rows of var are not genes") as told:
        sb.pp.label_cd49d(adata)
    names = {"adata": adata, "mudata": md}
    exec(str(told.value).split("separate them first: ")[1].removesuffix("."), names)  # noqa: S102
    assert list(names["data"]["prot"].var_names) == ["CD49d", "CD19"]
    assert names["data"]["rna"].n_vars == 4


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    make, arguments, error, match = BAD[case]
    data = make()
    if isinstance(data, int):
        with pytest.raises(error, match=match):
            sb.pp.label_cd49d(data)
        return
    with unchanged(data), pytest.raises(error, match=match):
        sb.pp.label_cd49d(data, **arguments)


def test_tied_quantiles():
    adata = cite()
    adata.obsm["protein"].loc[adata.obs_names[:300], "CD49d"] = 0.0
    with unchanged(adata), pytest.raises(ValueError, match=r"on the same level.*'all'.*tied"):
        sb.pp.label_cd49d(adata, method="quantile")


def test_missing_donor_of_a_gated_cell():
    adata = cite()
    adata.obs.loc["cell5", "donor"] = None
    match = r"obs\['donor'\] is missing for 1 cells \('cell5'\)"
    with unchanged(adata), pytest.raises(ValueError, match=match):
        sb.pp.label_cd49d(adata, donor_key="donor")
    outside = np.arange(adata.n_obs) != 5
    sb.pp.label_cd49d(adata, donor_key="donor", cells=outside)
    assert adata.uns["cd49d"]["donors"]["n_cells"].sum() == adata.n_obs - 1


def test_a_view_is_refused_but_can_be_copied():
    adata = cite()
    view = adata[: adata.n_obs - 1]
    with pytest.raises(ValueError, match="view of another AnnData"):
        sb.pp.label_cd49d(view)
    assert view.is_view
    assert "cd49d" in sb.pp.label_cd49d(view, copy=True).obs


def test_a_backed_object_is_refused(tmp_path):
    cite().write_h5ad(tmp_path / "x.h5ad")
    backed = ad.read_h5ad(tmp_path / "x.h5ad", backed="r")
    with pytest.raises(ValueError, match=re.escape("is backed by")):
        sb.pp.label_cd49d(backed)
    backed.file.close()


# --- real data
# --------------------------------------------------------------------------------------------------


@pytest.mark.realdata
@pytest.mark.filterwarnings("ignore:var_names are not unique:UserWarning")
def test_cd49d_of_bone_marrow_is_one_population(shared_file):
    mdata = md.read_h5mu(shared_file("data/bmmc_cite.h5mu"))
    for normalize in ("clr_cell", "clr_protein"):
        match = r"'CD49d' does not fall.*D = (1|2\.[0-2]).*no dip"
        with unchanged(mdata), pytest.raises(ValueError, match=match):
            sb.pp.label_cd49d(mdata, normalize=normalize)
    sb.pp.label_cd49d(mdata, method="quantile", donor_key="donor")
    assert mdata["rna"].obs["cd49d"].value_counts().to_dict() == {"CD49d-": 200, "CD49d+": 200}


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("normalize", "d", "labelled"), [("clr_protein", 4.4, 0.94), ("clr_cell", 4.3, 0.93)]
)
def test_cd45ra_of_blood_is_two_populations(shared_file, normalize, d, labelled):
    adata = ad.read_h5ad(shared_file("data/pbmc_10k_cite.h5ad"))
    sb.pp.label_cd49d(
        adata, marker="CD45RA", donor_key=None, key_added="cd45ra", normalize=normalize
    )
    assert adata.uns["cd45ra"]["separation"].loc["all", "ashman_d"] == pytest.approx(d, abs=0.1)
    assert adata.obs["cd45ra"].notna().mean() == pytest.approx(labelled, abs=0.01)
