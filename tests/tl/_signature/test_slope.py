"""tl.signature takes a number as a slope, within donors or between them."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scbert_cll as sb
from tests._cli.called import run

WARNED = "ignore:design='between' compares donors"
N_TRUE = 16


def study(
    design: str = "within",
    effect: float = 0.0,
    own: float = 0.0,
    *,
    n_donors: int = 8,
    n_cells: int = 120,
    seed: int = 0,
) -> AnnData:
    """160 genes of donors with a level per cell or per donor.

    `effect` is the log2 fold change per 1 of the first 16 genes, up and down; `own` the standard
    deviation of every donor's own slope. High cells have more counts.
    """
    rng, n_genes = np.random.default_rng(seed), 160
    donor = np.repeat(np.arange(n_donors), n_cells)
    level = rng.normal(size=n_donors)[donor]
    if design == "within":
        level += rng.normal(size=len(donor))
    sign = np.where(np.arange(n_genes) % 2, -1, 1) * (np.arange(n_genes) < N_TRUE)
    slope = effect * sign + own * rng.normal(size=(n_donors, n_genes))
    log = rng.normal(0.5, 1, n_genes) + 0.3 * rng.normal(size=(n_donors, n_genes))[donor]
    log += np.log(2) * level[:, None] * slope[donor] + 0.3 * level[:, None] * (design == "within")
    counts = rng.poisson(np.exp(log)).astype(np.float32)
    obs = pd.DataFrame({"donor": [f"D{i:02}" for i in donor], "level": level})
    var = pd.DataFrame(index=[f"G{i}" for i in range(n_genes)])
    adata = AnnData(sparse.csr_matrix(counts), obs.set_axis([f"c{i}" for i in obs.index]), var)
    adata.var["true"] = sign != 0
    return adata


def found(adata: AnnData, **options) -> pd.DataFrame:
    sb.tl.signature(adata, **{"groupby": "level", "gene": None} | options)
    return adata.uns["signature"]["genes"]


@pytest.mark.filterwarnings(WARNED)
@pytest.mark.parametrize(("design", "own"), [("within", 0.0), ("within", 0.3), ("between", 0.0)])
def test_without_an_effect_p_is_uniform_and_nothing_is_found(design: str, own: float) -> None:
    tables = [found(study(design, own=own, seed=seed), design=design) for seed in range(6)]
    share = np.mean([(table["p"] < 0.05).mean() for table in tables])
    assert 0.03 < share < 0.07  # of 960 genes; three standard errors are 0.021
    assert sum(table["selected"].sum() for table in tables) <= 1


@pytest.mark.filterwarnings(WARNED)
@pytest.mark.parametrize(("design", "n_donors"), [("within", 8), ("between", 16)])
def test_a_planted_slope_is_found_with_its_size(design: str, n_donors: int) -> None:
    adata = study(design, 0.6, n_donors=n_donors)
    table = found(adata, design=design).set_index("gene")
    true = adata.var_names[adata.var["true"]]
    assert table.loc[true, "selected"].sum() >= 14
    assert table.drop(true)["selected"].sum() <= 1
    assert (table["sign"] * table["log2_fc"])[true].mean() == pytest.approx(0.6, abs=0.05)
    record = adata.uns["signature"]
    means = record["differences"].mean(axis=1)
    np.testing.assert_allclose(means[table.index], table["log2_fc"], atol=1e-10)
    assert record["slope"]["unit"] == "log2 fold change per 1 of level"
    samples = record["samples"]
    spread = samples["level"].std()
    if design == "within":
        spread = samples.groupby("donor")["level"].std(ddof=0).median()
    assert record["slope"]["sd"] == pytest.approx(spread)
    assert record["slope"]["high"] == samples["level"].max()
    # a hundredth as long per 1 of a hundredth, and nothing else is new
    adata.obs["level"] *= 100
    again = found(adata, design=design).set_index("gene").loc[table.index]
    np.testing.assert_allclose(again["log2_fc"], table["log2_fc"] / 100, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(again["t"], table["t"], rtol=1e-6, atol=1e-9)
    assert (again["selected"] == table["selected"]).all()


@pytest.mark.filterwarnings(WARNED)
@pytest.mark.parametrize("design", ["within", "between"])
def test_two_levels_are_two_classes(design: str) -> None:
    adata = sb.datasets.planted_donors(n_cells=100, n_genes=120, n_planted=15, rng=0)
    positive = adata.obs["label"] == "positive"
    if design == "between":
        adata = adata[(adata.obs["donor"].cat.codes % 2 == 1) == positive].copy()
        positive = adata.obs["label"] == "positive"
    classes = found(adata, groupby="label", design=design).copy()
    adata.obs["level"] = np.where(positive, 5.5, 3.5)
    slopes = found(adata, design=design)
    columns = ["t", "p", "q", "coefficient"]
    np.testing.assert_allclose(slopes[columns], classes[columns], rtol=1e-7)
    np.testing.assert_allclose(2 * slopes["log2_fc"], classes["log2_fc"], rtol=1e-7)
    same = ["gene", "sign", "selected", "n_left_out"]
    pd.testing.assert_frame_equal(slopes[same], classes[same])


@pytest.mark.parametrize(
    ("values", "is_slope"),
    [
        (lambda x: pd.cut(x, 3, labels=["low", "middle", "high"]), False),
        (lambda x: pd.qcut(x, 10, labels=False), False),
        (lambda x: pd.qcut(x, 11, labels=False), True),
        (lambda x: pd.qcut(x, 3, labels=False).astype(float).where(x > -2), False),
        (lambda x: pd.qcut(x, 3, labels=False) / 100, True),
        (lambda x: (x > 0).where(x > -2).astype(float), False),
        (lambda x: (10 * x).round().astype("Int64").where(x > -2), True),
        (lambda x: x > 0, False),
    ],
)
def test_what_is_a_number(values, is_slope: bool) -> None:
    adata = study(n_cells=250)
    adata.obs["level"] = values(adata.obs["level"])
    found(adata, min_cells=2)
    record = adata.uns["signature"]
    assert ("slope" in record) == is_slope
    assert (len(record["params"]["classes"]) == 0) == is_slope


def test_cells_without_a_number_are_left_out_and_counted() -> None:
    adata = study(effect=0.6)
    missing = np.arange(adata.n_obs) % 7 == 0
    fewer = adata[~missing].copy()
    adata.obs["level"] = adata.obs["level"].where(~missing)
    pd.testing.assert_frame_equal(found(adata), found(fewer))
    assert adata.uns["signature"]["params"]["n_cells_missing"] == missing.sum()


def infinite(adata: AnnData) -> None:
    adata.obs.loc["c7", "level"] = np.inf


def constant(adata: AnnData) -> None:
    adata.obs["level"] = 2.5


def missing(adata: AnnData) -> None:
    adata.obs["level"] = np.nan


def of_donors(adata: AnnData) -> None:
    adata.obs["level"] = adata.obs.groupby("donor")["level"].transform("mean")


def few(adata: AnnData) -> None:
    adata.obs["level"] = pd.qcut(adata.obs["level"], 3, labels=False)


@pytest.mark.parametrize(
    ("change", "options", "match"),
    [
        (infinite, {}, r"\['level'\] is infinite in 'c7'; make it missing"),
        (constant, {}, r"\['level'\] is the same \(2\.5\) in all cells"),
        (missing, {}, "needs at least two classes; found none"),
        (of_donors, {}, "the same in all cells of each donor.*design='between'"),
        (lambda a: None, {"design": "both"}, "design='within', design='between'"),
        (few, {"design": "between"}, r"compares two classes.*e\.g\. adata\.obs\['level'\] / 100"),
    ],
)
def test_numbers_without_a_slope_are_refused(change, options, match: str) -> None:
    adata = study(n_cells=40)
    change(adata)
    with pytest.raises(ValueError, match=match):
        found(adata, **options)
    assert "signature" not in adata.uns


@pytest.mark.filterwarnings(WARNED)
def test_what_is_said_of_refused_numbers_works() -> None:
    adata = study(n_cells=40)
    of_donors(adata)
    assert len(found(adata, design="between"))
    few(adata)
    adata.obs["level"] = adata.obs["level"] / 100
    assert len(found(adata, design="between"))


@pytest.mark.filterwarnings(WARNED)
def test_too_few_donors_name_the_design_that_would_work() -> None:
    adata = study(n_cells=60)
    of_donor = adata.obs.groupby("donor")["level"].transform("mean")
    flat = adata.obs["donor"] > "D02"
    adata.obs["level"] = adata.obs["level"].where(~flat, of_donor)
    assert not len(found(adata))
    record = adata.uns["signature"]
    reason = (
        r"3 donors have two groups of 20 cells or more that differ enough in the number \(D00, D01,"
        r" D02\), and 4 are needed\. design='between' would compare 8 donors with each other, if "
        r"nothing but the number .* find a log2 fold change per 1 of it of \d"
    )
    assert pd.Series([record["reason"]]).str.match(reason).all(), record["reason"]
    assert record["params"]["donors_not_compared"] == [f"D0{i}" for i in range(3, 8)]
    assert len(found(adata, design="between"))
    found(adata[adata.obs["donor"] < "D04"].copy(), design="between")
    adata = adata[adata.obs["donor"] < "D04"].copy()
    assert not len(found(adata, design="between"))
    said = "4 donors leave 2 degrees of freedom beside the slope, and 3 are needed: 5 donors"
    assert adata.uns["signature"]["reason"] == said


def test_a_covariate_that_goes_with_the_number_is_named_and_taken_out() -> None:
    adata = study("between", 1.0, n_donors=24, n_cells=60)
    donor = adata.obs["donor"].str[1:].astype(int).to_numpy()
    level = adata.obs.groupby("donor")["level"].first().to_numpy()
    rng = np.random.default_rng(0)
    late = level + rng.normal(0, 0.6, 24) > 0
    adata.obs["batch"] = np.where(late, "late", "early")[donor]
    counts = adata.X.toarray().astype(np.int64)
    fewer = rng.binomial(counts[:, 100:], 0.4)
    counts[:, 100:] = np.where(late[donor][:, None], counts[:, 100:], fewer)
    adata.X = sparse.csr_matrix(counts.astype(np.float32))
    with pytest.warns(UserWarning, match=r"with the number over donors: 'batch' \(correlation 0\."):
        before = found(adata, design="between").set_index("gene")
    with pytest.warns(UserWarning, match="but for 'batch'"):
        after = found(adata, design="between", covariates=["batch"]).set_index("gene")
    genes, true = adata.var_names[100:], adata.var_names[adata.var["true"]]
    assert before.loc[genes, "selected"].sum() > 5
    assert after.loc[genes, "selected"].sum() <= 1
    assert after.loc[true, "selected"].sum() >= 12
    adata.obs["twice"] = 2 * adata.obs["level"] + 1
    with pytest.raises(ValueError, match="'twice' cannot be told from the number: correlation 1"):
        found(adata, design="between", covariates=["twice"])


def test_within_donors_a_sample_or_a_covariate_that_goes_with_the_number_cancels() -> None:
    adata = study(n_cells=240)
    rng = np.random.default_rng(0)
    centred = adata.obs["level"] - adata.obs.groupby("donor")["level"].transform("mean")
    late = (centred + rng.normal(0, 0.7, adata.n_obs) > 0).to_numpy()
    counts = adata.X.toarray().astype(np.int64)
    fewer = rng.binomial(counts[:, 100:], 0.5)
    counts[:, 100:] = np.where(late[:, None], counts[:, 100:], fewer)
    adata.X = sparse.csr_matrix(counts.astype(np.float32))
    adata.obs["visit"] = np.where(late, "second", "first")
    n = {}
    for name, options in {"": {}, "samples": {"sample_key": "visit"}}.items():
        n[name] = int(found(adata, **options)["selected"].sum())
    assert n[""] > 10
    assert n["samples"] <= 1
    samples = adata.uns["signature"]["samples"]
    assert (samples["n_samples"] == 2).all()
    assert samples["n_cells"].sum() == adata.n_obs
    with pytest.raises(ValueError, match=r"'visit' can.* be told from the number.*first: "):
        found(adata, covariates=["visit"])


@pytest.mark.filterwarnings(WARNED)
@pytest.mark.parametrize("design", ["within", "between"])
def test_what_comes_after_takes_a_slope(design: str, tmp_path: Path) -> None:
    found(adata := study(design, 1.2, n_donors=12), design=design)
    adata.write_h5ad(tmp_path / "a.h5ad")
    adata = ad.read_h5ad(tmp_path / "a.h5ad")
    genes = sb.get.signature(adata)["gene"]
    assert len(genes) >= 12
    axes = sb.pl.signature(adata, show=False)
    assert axes.get_title(loc="left") or axes.figure.texts
    assert axes.get_xlabel() == "log₂ fold change per 1 of level"
    with pytest.raises(ValueError, match=r"slope over the numbers of 'level'.*Draw pl\.signature"):
        sb.pl.signature_heatmap(adata, show=False)
    sb.tl.score_signature(adata)
    assert adata.obs["signature_score"].corr(adata.obs["level"]) > 0.5
    sb.io.write_gmt(adata, tmp_path / "s.gmt")
    assert "level:slope;12_donors" in (tmp_path / "s.gmt").read_text()
    sb.io.write_csv(adata, tmp_path / "s.csv")
    table = sb.io.read_csv(tmp_path / "s.csv")
    assert table["gene"].tolist() == adata.uns["signature"]["genes"]["gene"].tolist()
    report = sb.tl.signature_report(adata, n_random=19, n_permutations=19)
    gates = report.gates.set_index("gate")
    assert gates.loc["permuted labels", "note"].str.contains("slope over numbers").all()


def test_the_command_line_takes_a_number(tmp_path: Path) -> None:
    adata = study(effect=0.8)
    adata.write_h5ad(tmp_path / "a.h5ad")
    out = tmp_path / "out"
    assert run("signature", tmp_path / "a.h5ad", "--out", out, "--labels-key", "level") == 0
    table = pd.read_csv(out / "signature.csv", keep_default_na=False)
    assert table.loc[table["selected"], "gene"].isin(adata.var_names[adata.var["true"]]).sum() >= 14
