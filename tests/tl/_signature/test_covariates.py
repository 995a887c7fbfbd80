"""tl.signature adjusts for what donors differ in beside the class, or says why it cannot."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scbert_cll as sb
from benchmarks.signature.designs import homogeneous

BETWEEN = {"groupby": "label", "design": "between"}
WARNED = "ignore:design='between' compares donors"


def found(adata: AnnData, **options) -> pd.Index:
    sb.tl.signature(adata, **BETWEEN | options)
    return pd.Index(sb.get.signature(adata)["gene"])


@pytest.mark.filterwarnings(WARNED)
@pytest.mark.parametrize("agree", [18, 21])
def test_a_covariate_that_goes_with_the_class_is_taken_out(agree: int) -> None:
    for seed in range(2):
        adata = homogeneous(agree=agree, seed=seed)
        genes = found(adata, covariates=["batch"])
        assert adata.var.loc[genes, "of_batch"].sum() <= 1
        assert (adata.var.loc[genes, "truth"] != 0).sum() >= 23
        record = adata.uns["signature"]
        table = record["genes"].set_index("gene")
        means = record["differences"].mean(axis=1)
        np.testing.assert_allclose(means[table.index], table["log2_fc"], atol=1e-10)


def test_without_it_the_call_names_it_with_its_strength() -> None:
    adata = homogeneous(agree=20)
    said = r"go with the class over donors: 'batch' \(Cramér's V 0\.7"
    with pytest.warns(UserWarning, match=said):
        genes = found(adata)
    assert adata.var.loc[genes, "of_batch"].sum() > 5


@pytest.mark.filterwarnings("ignore:.*whatever else tells them apart")
def test_the_former_name_of_the_design_works_for_one_release() -> None:
    adata = homogeneous(n_donors=8, agree=None)
    with pytest.warns(FutureWarning, match="paired=False is now design='between'"):
        old = sb.tl.signature(adata, groupby="label", paired=False, copy=True)
    new = sb.tl.signature(adata, **BETWEEN, copy=True)
    pd.testing.assert_frame_equal(old.uns["signature"]["genes"], new.uns["signature"]["genes"])
    assert old.uns["signature"]["params"]["design"] == "between"


def aliased(adata: AnnData) -> None:
    adata.obs["batch"] = adata.obs["label"].map({"negative": "a", "positive": "b"})


def nearly(adata: AnnData) -> None:
    aliased(adata)
    adata.obs.loc[adata.obs["donor"] == "D02", "batch"] = "a"


def noisy(adata: AnnData) -> None:
    code = adata.obs["donor"].cat.codes
    adata.obs["batch"] = code % 2 + 0.01 * (code % 3)


def of_donor(values) -> object:
    def change(adata: AnnData) -> None:
        adata.obs["batch"] = pd.Series(values)[adata.obs["donor"].cat.codes].to_numpy()

    return change


def twice(adata: AnnData) -> None:
    adata.obs["other"] = adata.obs["batch"].map({"first": "x", "second": "y"})


def ages(adata: AnnData) -> None:
    adata.obs["age"] = np.random.default_rng(0).normal(60, 9, 12)[adata.obs["donor"].cat.codes]
    adata.obs["years"] = 2020 - adata.obs["age"] + 0.01 * (adata.obs["donor"].cat.codes % 2)


@pytest.mark.parametrize(
    ("change", "options", "match"),
    [
        (
            aliased,
            {},
            r"'batch' cannot be told from the class: negative: a 6, b 0; positive: a 0, b 6",
        ),
        (nearly, {}, "Only the donor 'D02' tells the class from the covariates 'batch'"),
        (noisy, {}, r"'batch' can hardly be told .*negative: 0 to 0\.02; positive: 1 to 1\.02"),
        (twice, {"covariates": ["batch", "other"]}, "'batch', 'other' can hardly be told from"),
        (ages, {"covariates": ["age", "years"]}, r"from each other .*: correlation -1\. Leave"),
        (of_donor(["a"] * 12), {}, r"'batch' is the same in all donors \('a'\)"),
        (of_donor([*"aabbaabbaab", "c"]), {}, r"only one donor has: 'c' \('D12'\)"),
        (
            of_donor([*map(str, range(60, 70)), "unknown", "71.5"]),
            {},
            r"words where numbers are meant: 'unknown'.*pd\.to_numeric",
        ),
        (of_donor([np.inf, *range(11)]), {}, "'batch' is infinite"),
        (of_donor([np.nan] * 12), {}, "the same in all donors"),
        (lambda a: None, {"covariates": ["label"]}, "'label' is what is compared"),
        (lambda a: None, {"covariates": ["batch", "batch"]}, "named twice"),
    ],
)
def test_covariates_that_no_model_can_have_are_refused(change, options, match) -> None:
    adata = homogeneous(12, agree=8)
    change(adata)
    with pytest.raises(ValueError, match=match):
        found(adata, **{"covariates": ["batch"]} | options)
    assert "signature" not in adata.uns


def test_what_varies_within_donors_is_no_covariate_between_them() -> None:
    adata = homogeneous(12, agree=8)
    adata.obs["time"] = np.where(np.arange(adata.n_obs) < 10, 1.0, 0.0)
    with pytest.raises(ValueError, match="'time' varies within donors \\('D01'\\)"):
        found(adata, covariates=["time"])
    with pytest.raises(KeyError, match="'timex'"):
        found(adata, covariates=["timex"])
    with pytest.raises(TypeError, match=r"Write \['time'\]"):
        found(adata, covariates="time")


@pytest.mark.filterwarnings(WARNED)
def test_donors_without_a_value_are_left_out_and_counted(tmp_path) -> None:
    adata = homogeneous(12, agree=8)
    adata.obs["age"] = 60.0 + np.arange(12)[adata.obs["donor"].cat.codes] % 5
    adata.obs.loc[adata.obs["donor"].isin(["D01", "D07"]), "age"] = np.nan
    found(adata, covariates=["age"])
    params = adata.uns["signature"]["params"]
    assert params["n_donors_missing"] == 2
    assert params["donors_missing"] == {"age": ["D01", "D07"]}
    assert adata.uns["signature"]["n_donors"] == 10
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad").uns["signature"]["params"]
    assert list(again["donors_missing"]["age"]) == ["D01", "D07"]


@pytest.mark.filterwarnings(WARNED)
def test_too_few_donors_for_the_covariates_are_told() -> None:
    adata = homogeneous(8, agree=None)
    code = adata.obs["donor"].cat.codes.to_numpy()
    for i in range(4):
        adata.obs[f"c{i}"] = np.random.default_rng(i).normal(size=8)[code]
    assert not len(found(adata, covariates=[f"c{i}" for i in range(4)]))
    assert adata.uns["signature"]["reason"] == (
        "8 donors leave 2 degrees of freedom beside the covariates 'c0', 'c1', 'c2', 'c3', and 3 "
        "are needed: 9 donors, or fewer covariates"
    )


def test_within_donors_what_they_share_cancels_and_what_varies_counts() -> None:
    adata = sb.datasets.planted_donors(n_cells=160, n_genes=200, effect="none", rng=0)
    rng = np.random.default_rng(0)
    positive = (adata.obs["label"] == "positive").to_numpy()
    late = rng.random(adata.n_obs) < np.where(positive, 0.8, 0.2)
    # three donors have it the other way round
    late ^= adata.obs["donor"].isin(["D02", "D05", "D08"]).to_numpy()
    counts = adata.X.toarray().astype(np.int64)
    fewer = rng.binomial(counts[:, 10:30], 0.3)
    counts[:, 10:30] = np.where(late[:, None], counts[:, 10:30], fewer)
    adata.X = sparse.csr_matrix(counts.astype(np.float32))
    adata.obs["time"] = np.where(late, "late", "early")
    adata.obs["sex"] = np.where(adata.obs["donor"].cat.codes % 2 == 0, "f", "m")
    tables = {}
    for name in ((), ("sex",), ("sex", "time")):
        sb.tl.signature(adata, groupby="label", covariates=name)
        tables[name] = adata.uns["signature"]["genes"].set_index("gene")
    pd.testing.assert_frame_equal(tables[()], tables["sex",])
    assert adata.uns["signature"]["params"]["covariates_cancelled"] == ["sex"]
    raised = adata.var_names[10:30]
    errors = [tables[name].loc[raised, "error"].median() for name in ((), ("sex", "time"))]
    assert errors[1] < 0.5 * errors[0]
    assert tables["sex", "time"]["selected"].sum() <= 1


def visited() -> AnnData:
    """Donors seen twice: later there are more positive cells, and 30 other genes are higher."""
    adata = sb.datasets.planted_donors(n_cells=320, n_genes=200, rng=0)
    rng = np.random.default_rng(0)
    positive = (adata.obs["label"] == "positive").to_numpy()
    late = rng.random(adata.n_obs) < np.where(positive, 0.75, 0.25)
    genes = rng.permutation(np.flatnonzero(adata.var["truth"] == 0))[:30]
    counts = adata.X.toarray().astype(np.int64)
    fewer = rng.binomial(counts[:, genes], 0.4)
    counts[:, genes] = np.where(late[:, None], counts[:, genes], fewer)
    adata.X = sparse.csr_matrix(counts.astype(np.float32))
    adata.obs["visit"] = np.where(late, "second", "first")
    adata.var["of_visit"] = np.isin(np.arange(adata.n_vars), genes)
    return adata


def test_samples_of_a_donor_are_compared_on_their_own() -> None:
    adata = visited()
    selected = {}
    for key in (None, "visit"):
        sb.tl.signature(adata, groupby="label", sample_key=key)
        selected[key] = adata.var.loc[sb.get.signature(adata)["gene"]]
    assert selected[None]["of_visit"].sum() >= 10
    assert selected["visit"]["of_visit"].sum() <= 1
    assert (selected["visit"]["truth"] != 0).sum() >= 22
    record = adata.uns["signature"]
    assert record["n_donors"] == 8
    assert len(record["samples"]) == 16
    assert (record["samples"]["n_samples"] == 2).all()
    assert record["samples"]["n_cells"].sum() == adata.n_obs
    genes = record["genes"].set_index("gene")
    means = record["differences"].mean(axis=1)
    np.testing.assert_allclose(means[genes.index], genes["log2_fc"], atol=1e-10)


@pytest.mark.slow  # the procedure anew under 19 permutations: 15 s
@pytest.mark.parametrize("single", ["first", "last", "every other"])
def test_donors_may_have_different_numbers_of_samples(single: str) -> None:
    """The mean over a donor's samples counts, whoever has one only."""
    adata = sb.datasets.planted_donors(n_cells=160, n_genes=120, n_planted=15, rng=0)
    donor = adata.obs["donor"].astype(str)
    names = sorted(donor.unique())
    of_one = {"first": names[:1], "last": names[-1:], "every other": names[::2]}[single]
    visit = np.random.default_rng(0).integers(2, size=adata.n_obs) * ~donor.isin(of_one)
    adata.obs["visit"] = donor + " " + visit.astype(str)
    sb.tl.signature(adata, groupby="label", sample_key="visit", min_cells=10)
    record = adata.uns["signature"]
    assert record["n_selected"] > 10
    n_samples = np.where(record["samples"]["donor"].isin(of_one), 1, 2)
    np.testing.assert_array_equal(record["samples"]["n_samples"], n_samples)
    assert record["samples"]["n_cells"].sum() == adata.n_obs
    expression = record["expression"]
    of_donor = {
        name: expression[f"{name}|positive"] - expression[f"{name}|negative"] for name in names
    }
    np.testing.assert_allclose(record["differences"][names], pd.DataFrame(of_donor)[names])


def test_labels_are_permuted_within_samples(tmp_path) -> None:
    adata = visited()
    sb.tl.signature(adata, groupby="label", sample_key="visit")
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    report = sb.tl.signature_report(again, n_random=19, n_permutations=19)
    row = report.gates[report.gates["gate"] == "permuted labels"].iloc[0]
    assert row["passed"] == "yes"


@pytest.mark.filterwarnings("ignore:.*whatever else tells them apart")
@pytest.mark.parametrize("design", ["between", "both"])
def test_samples_of_donors_that_are_compared_are_no_donors(design: str) -> None:
    adata = sb.datasets.planted_donors(n_donors=12, n_cells=160, n_genes=200, rng=0)
    donor = adata.obs["donor"].cat.codes.to_numpy()
    kept = (donor % 2 == 1) == (adata.obs["label"] == "positive")
    adata = adata[kept | ((donor < 2) & (design == "both"))].copy()
    adata.obs["visit"] = np.where(np.arange(adata.n_obs) % 2, "a", "b")
    sb.tl.signature(adata, **BETWEEN | {"design": design, "sample_key": "visit"})
    record = adata.uns["signature"]
    assert record["n_donors"] == 12
    assert len(record["samples"]) == (12 if design == "between" else 14)
    assert (record["samples"]["n_samples"] == 2).all()
    assert (record["genes"]["p"] <= 1).all()
    assert record["n_selected"] > 10


def test_a_sample_that_is_the_donor_is_refused() -> None:
    adata = homogeneous(12, agree=8)
    adata.obs["sample"] = "s" + adata.obs["donor"].astype(str)
    for key in ("donor", "sample"):
        with pytest.raises(ValueError, match=r"one sample of each donor.*Leave sample_key out"):
            found(adata, sample_key=key)
    adata.obs["sample"] = adata.obs["sample"].where(np.arange(adata.n_obs) > 0)
    with pytest.raises(ValueError, match=r"'sample'\] is missing for 1 cells"):
        found(adata, sample_key="sample")
