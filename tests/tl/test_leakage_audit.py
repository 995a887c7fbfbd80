"""The audit finds what was planted, names it, and leaves a clean split alone."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

import scbert_cll as sb
from scbert_cll.tl._leakage_audit import LeakageReport, leakage_audit
from tests._make import unchanged


@pytest.fixture(scope="module")
def clean() -> AnnData:
    """Cells of ten donors, split by donor; copy before changing it."""
    adata = sb.datasets.cll_toy(n_cells=900, n_genes=400)["rna"].copy()
    adata.obs["cd49d"] = adata.obs["cd49d_true"]
    sb.pp.split_donors(adata, "donor", labels_key="cd49d")
    return adata


@pytest.fixture(scope="module")
def few(clean: AnnData) -> AnnData:
    """A third of the cells, for what is asked three times over; copy before changing it."""
    return clean[::3].copy()


@pytest.fixture(scope="module")
def gap_of_few(few: AnnData) -> pd.DataFrame:
    """The ways to split, compared once."""
    return audit(few.copy(), gap=True, n_repeats=1).gap


def audit(adata: AnnData, **options: object) -> LeakageReport:
    return leakage_audit(adata, **{"gap": False} | options)


def finding(report: LeakageReport, check: str) -> pd.Series:
    found = report.findings.set_index("check")
    rows = [name for name in found.index if name.startswith(check)]
    assert len(rows) == 1, found.index.tolist()
    return found.loc[rows[0]]


def status(report: LeakageReport, check: str) -> str:
    return finding(report, check)["status"]


def grown(adata: AnnData, rows: np.ndarray, values: np.ndarray, name: str, part: str) -> AnnData:
    """The object with further rows of the given values."""
    extra = adata[rows].copy()
    extra.X = sparse.csr_matrix(values.astype(np.float32))
    extra.obs_names = [f"{name}{i}" for i in range(len(rows))]
    extra.obs["split"] = part
    return ad.concat([adata, extra], merge="same", uns_merge="first")


def by_random_cells(adata: AnnData, seed: int = 0) -> None:
    parts = np.random.default_rng(seed).choice(["train", "test"], adata.n_obs, p=[0.8, 0.2])
    adata.obs["split"] = pd.Categorical(parts, ["train", "val", "test"])


# -- a clean split
# --------------------------------------------------------------------------------------------------


def test_a_clean_split_passes(clean: AnnData) -> None:
    adata = clean.copy()
    report = audit(adata)
    assert report.passed
    for check in ("exact duplicates", "repeated names", "near duplicates", "shared donors"):
        assert status(report, check) == "ok"
    assert status(report, "resampled rows") == "cannot tell"
    assert status(report, "preprocessing") == "cannot tell"
    assert len(report.cells) == 0
    assert adata.uns["leakage_audit"]["passed"]


@pytest.mark.parametrize("seed", range(4))
def test_different_cells_of_one_donor_are_no_near_duplicates(clean: AnnData, seed: int) -> None:
    adata = clean.copy()
    by_random_cells(adata, seed)
    report = audit(adata)
    assert status(report, "near duplicates") == "ok"
    assert status(report, "exact duplicates") == "ok"
    assert not report.passed, "but their donors are shared"


def test_balancing_after_the_split_passes(clean: AnnData) -> None:
    for method in ("oversample", "undersample", "smote", "weights"):
        adata = clean.copy()
        sb.pp.balance(adata, "cd49d", method=method)
        report = audit(adata)
        assert report.passed, method
        assert status(report, "resampled rows") == "ok"
        assert status(report, "near duplicates") == "ok"


# -- duplicates
# --------------------------------------------------------------------------------------------------


def test_copies_across_the_split_are_named(clean: AnnData) -> None:
    test = np.flatnonzero(clean.obs["split"] == "test")[:3]
    adata = grown(clean, test, clean.X[test].toarray(), "spare", "train")
    found = finding(audit(adata), "exact duplicates")
    assert found["status"] == "leak"
    assert found["n"] == 3
    assert found["value"] == pytest.approx(3 / (clean.obs["split"] == "test").sum())
    assert f"{clean.obs_names[test[0]]} (test) = spare0 (train)" in found["offenders"]
    assert "split again with all copies of a cell in one part" in found["meaning"]


def test_copies_in_validation_are_a_warning(clean: AnnData) -> None:
    train = np.flatnonzero(clean.obs["split"] == "train")[:2]
    adata = grown(clean, train, clean.X[train].toarray(), "spare", "val")
    report = audit(adata, donor_key=None)
    assert status(report, "exact duplicates") == "warning"
    assert report.passed


def test_oversampling_before_the_split_is_a_leak(clean: AnnData) -> None:
    adata = clean.copy()
    adata.obs["split"] = "train"
    sb.pp.balance(adata, "cd49d", method="oversample")
    by_random_cells(adata)
    report = audit(adata)
    for check in ("exact duplicates", "repeated names", "resampled rows", "shared donors"):
        assert status(report, check) == "leak", check
    synthetic = adata.obs["is_synthetic"] & (adata.obs["split"] == "test")
    named = report.cells[report.cells["check"] == "resampled rows"]["cell"]
    assert set(named) == set(adata.obs_names[synthetic])
    assert finding(report, "resampled rows")["n"] == synthetic.sum()
    assert " and " in finding(report, "resampled rows")["offenders"], (
        "ten by name, then how many more"
    )


def test_names_made_unique_by_a_number_are_a_warning(clean: AnnData) -> None:
    adata = clean.copy()
    train, test = (np.flatnonzero(adata.obs["split"] == part)[0] for part in ("train", "test"))
    names = adata.obs_names.to_list()
    names[test] = f"{names[train]}-1"
    adata.obs_names = names
    found = finding(audit(adata), "repeated names")
    assert found["status"] == "warning"
    assert "libraries that share a barcode" in found["meaning"]


@pytest.mark.filterwarnings("ignore:Observation names are not unique:UserWarning")
def test_repeated_rows_with_names_made_unique(clean: AnnData) -> None:
    """What imbalanced-learn's indices and `obs_names_make_unique` leave."""
    adata = clean[np.r_[np.arange(clean.n_obs), np.arange(50)]].copy()
    adata.obs_names_make_unique()
    by_random_cells(adata)
    report = audit(adata)
    assert status(report, "exact duplicates") == "leak"
    assert status(report, "repeated names") == "warning"


def test_shallow_cells_may_be_equal_by_chance() -> None:
    counts = np.eye(4)[np.random.default_rng(0).integers(0, 4, 60)] * 2
    adata = AnnData(sparse.csr_matrix(counts))
    by_random_cells(adata)
    report = audit(adata)
    assert status(report, "exact duplicates") == "warning"
    assert "cannot tell" in {status(report, "near duplicates"), status(report, "shared donors")}


def test_depth_that_tells_nothing_apart_is_said() -> None:
    counts = np.random.default_rng(0).poisson(0.08, (300, 60))
    counts[:, 0] += 1
    adata = AnnData(sparse.csr_matrix(counts.astype(np.float32)))
    by_random_cells(adata)
    found = finding(audit(adata), "near duplicates")
    assert found["status"] == "cannot tell"
    assert "so few counts that even a copy could not be told" in found["meaning"]


JITTER = {
    "a tenth of the counts lost": lambda x, rng: rng.binomial(x.astype(int), 0.9),
    "each count drawn anew": lambda x, rng: rng.poisson(x),
    "20 % noise": lambda x, rng: np.rint(x * np.exp(rng.normal(0, 0.2, x.shape))),
    "one count more": lambda x, rng: x + np.eye(1, x.shape[1], 200),
    "twice the depth": lambda x, rng: 2 * x,
}


@pytest.mark.parametrize("jitter", JITTER)
def test_jittered_copies_are_a_leak(clean: AnnData, jitter: str) -> None:
    rng, rows = np.random.default_rng(1), np.flatnonzero(clean.obs["split"] == "train")[:40]
    changed = JITTER[jitter](clean.X[rows].toarray(), rng)
    report = audit(grown(clean, rows, changed, "jittered", "test"), donor_key=None)
    assert status(report, "near duplicates") == "leak"
    named = report.cells[report.cells["check"] == "near duplicates"]
    assert named["cell"].str.startswith("jittered").all(), "and no cell that was there before"
    right = (named["twin"] == clean.obs_names[rows][named["cell"].str[8:].astype(int)]).mean()
    assert right > 0.95
    assert len(named) > (5 if jitter == "each count drawn anew" else 38)
    assert named["value"].max() < 1


def test_smote_before_the_split_is_a_leak(clean: AnnData) -> None:
    adata = clean.copy()
    adata.obs["split"] = "train"
    sb.pp.balance(adata, "cd49d", method="smote")
    by_random_cells(adata)
    # without the tell-tale names and columns
    adata.obs_names = [f"c{i}" for i in range(adata.n_obs)]
    synthetic = adata.obs.pop("is_synthetic")
    del adata.uns["balance"]
    report = audit(adata, donor_key=None)
    assert status(report, "near duplicates") == "leak"
    assert status(report, "exact duplicates") == "ok"
    named = report.cells[report.cells["check"] == "near duplicates"]
    involved = synthetic[named["cell"]].to_numpy() | synthetic[named["twin"]].to_numpy()
    assert involved.all(), "no pair of two real cells"
    assert not report.passed


def test_smote_after_the_logarithm_is_a_leak(clean: AnnData) -> None:
    """Values that are no counts are compared by distance."""
    adata = clean.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    assert status(audit(adata), "near duplicates") == "ok"
    adata.obs["split"] = "train"
    sb.pp.balance(adata, "cd49d", method="smote")
    by_random_cells(adata)
    found = finding(audit(adata), "near duplicates")
    assert found["status"] == "leak"
    assert "20th" in found["meaning"]


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["sorted_pbmc", "pbmc_5k"])
def test_real_cells_are_no_near_duplicates_and_their_copies_are(shared_file, name: str) -> None:
    adata = ad.read_h5ad(shared_file(f"data/{name}.h5ad"))
    adata = adata[np.random.default_rng(0).permutation(adata.n_obs)[:1500]].copy()
    by_random_cells(adata)
    assert status(audit(adata, donor_key=None), "near duplicates") == "ok"
    rows = np.flatnonzero(adata.obs["split"] == "train")[:50]
    fewer = np.random.default_rng(1).binomial(adata.X[rows].toarray().astype(int), 0.8)
    report = audit(grown(adata, rows, fewer, "fewer", "test"), donor_key=None)
    assert (report.cells["check"] == "near duplicates").sum() > 45
    assert report.cells["cell"].str.startswith("fewer").all()


# -- donors
# --------------------------------------------------------------------------------------------------


def test_shared_donors_are_named_with_their_cells(clean: AnnData) -> None:
    adata = clean.copy()
    donor = adata.obs.loc[adata.obs["split"] == "test", "donor"].iloc[0]
    own = np.flatnonzero(adata.obs["donor"] == donor)
    adata.obs.loc[adata.obs_names[own[:7]], "split"] = "train"
    found = finding(audit(adata), "shared donors")
    assert found["status"] == "leak"
    assert found["offenders"] == f"{donor} (train 7, test {len(own) - 7})"


def test_donors_that_train_and_validate_are_a_warning(clean: AnnData) -> None:
    adata = clean.copy()
    donor = adata.obs.loc[adata.obs["split"] == "val", "donor"].iloc[0]
    adata.obs.loc[adata.obs_names[adata.obs["donor"] == donor][:7], "split"] = "train"
    report = audit(adata)
    assert status(report, "shared donors") == "warning"
    assert report.passed


def test_donors_that_are_not_known(clean: AnnData) -> None:
    adata = clean.copy()
    assert status(audit(adata, donor_key=None), "shared donors") == "cannot tell"
    adata.obs.loc[adata.obs_names[3], "donor"] = None
    found = finding(audit(adata), "shared donors")
    assert found["status"] == "cannot tell"
    assert found["meaning"].startswith("1 cells have no donor")
    del adata.obs["donor"]
    assert status(audit(adata), "shared donors") == "cannot tell"


# -- preprocessing
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "ok"),
        ({"method": "quantile"}, "ok"),
        ({"method": "uniform"}, "warning"),
        ({"method": "gene_quantile"}, "warning"),
        ({"method": "gene_quantile", "fit_on": "split"}, "ok"),
        ({"method": "uniform", "fit_on": "few"}, "cannot tell"),
    ],
)
def test_bins(clean: AnnData, options: dict[str, str], expected: str) -> None:
    adata = clean.copy()
    adata.obs["few"] = np.arange(adata.n_obs) < 30
    sb.pp.bin_expression(adata, key_added="tokens", **options)
    found = finding(audit(adata), "uns['tokens']")
    assert found["status"] == expected
    if expected == "warning":
        assert found["n"] == adata.n_obs
        assert "of which test cells are a part. Bin again with fit_on=split_key" in found["meaning"]


def test_bins_of_another_object_cannot_be_told(clean: AnnData) -> None:
    adata, other = clean.copy(), clean.copy()
    sb.pp.bin_expression(other, method="uniform")
    sb.pp.bin_expression(adata, edges=other.uns["binned"])
    assert status(audit(adata), "uns['binned']") == "cannot tell"


@pytest.mark.parametrize("method", ["oversample", "undersample"])
def test_balancing_does_not_change_who_was_learned_from(clean: AnnData, method: str) -> None:
    for fit_on, expected in (("split", "ok"), (None, "warning")):
        adata = clean.copy()
        sb.pp.bin_expression(adata, method="uniform", fit_on=fit_on)
        sb.pp.balance(adata, "cd49d", method=method)
        assert status(audit(adata), "uns['binned']") == expected


def test_gene_vectors(clean: AnnData) -> None:
    adata = clean.copy()
    sb.tl.gene2vec(adata, n_dims=4, epochs=1)
    sb.tl.gene2vec(adata, n_dims=4, epochs=1, split_key=None, key_added="all_cells")
    ready = pd.DataFrame(np.ones((adata.n_vars, 2)), index=adata.var_names)
    sb.tl.gene2vec(adata, vectors=ready, key_added="ready")
    report = audit(adata)
    assert status(report, "uns['gene2vec']") == "ok"
    assert status(report, "uns['all_cells']") == "warning"
    assert status(report, "uns['ready']") == "cannot tell"


def test_vectors_made_before_the_split(clean: AnnData) -> None:
    adata = clean.copy()
    split = adata.obs.pop("split")
    sb.tl.gene2vec(adata, n_dims=4, epochs=1)
    adata.obs["split"] = split
    assert status(audit(adata), "uns['gene2vec']") == "warning"


def normalised(adata: AnnData) -> AnnData:
    adata = adata.copy()
    adata.layers["counts"] = adata.X.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


def scanpy_steps(adata: AnnData) -> AnnData:
    """Genes and components of whatever cells there are."""
    sc.pp.highly_variable_genes(adata, n_top_genes=100)
    sc.pp.pca(adata, n_comps=8, svd_solver="arpack", random_state=0)
    return adata


def scaled(adata: AnnData) -> AnnData:
    adata.X = adata.X.toarray()
    sc.pp.scale(adata)
    return adata


SCANPY = ("var['highly_variable']", "obsm['X_pca']", "var['mean']")


def test_scanpy_on_all_cells_is_a_warning(clean: AnnData) -> None:
    adata = scanpy_steps(normalised(clean))
    report = audit(adata, layer="counts")
    assert {check: status(report, check) for check in SCANPY[:2]} == dict.fromkeys(
        SCANPY[:2], "warning"
    )
    report = audit(scaled(adata), layer="counts")
    assert {check: status(report, check) for check in SCANPY[1:]} == dict.fromkeys(
        SCANPY[1:], "warning"
    )
    assert status(report, "uns['log1p']") == "ok"
    assert report.passed, "a warning is not a leak"


def test_scanpy_on_training_cells_is_ok(clean: AnnData) -> None:
    adata = normalised(clean)
    train = scaled(scanpy_steps(adata[adata.obs["split"] == "train"].copy()))
    adata.var = train.var
    dense = adata.X.toarray()
    adata.obsm["X_pca"] = (dense - dense[adata.obs["split"] == "train"].mean(axis=0)) @ train.varm[
        "PCs"
    ]
    adata.X = (dense - train.var["mean"].to_numpy()) / train.var["std"].to_numpy()
    log = AnnData(sparse.csr_matrix(dense), obs=adata.obs, var=adata.var)
    report = audit(adata, layer="counts")
    assert status(report, "obsm['X_pca']") == "ok"
    assert status(report, "var['mean']") == "ok"
    assert status(report, "var['highly_variable']") == "cannot tell", (
        "X is no longer what the genes were chosen on"
    )
    assert status(audit(log), "var['highly_variable']") == "ok"


def test_values_that_belong_to_no_cells_here_cannot_be_told(clean: AnnData) -> None:
    adata = clean.copy()
    adata.obsm["X_pca"] = np.random.default_rng(0).normal(3, 1, (adata.n_obs, 4))
    adata.var["highly_variable"] = True
    adata.var["mean"], adata.var["std"] = 0.0, 1.0
    report = audit(adata)
    assert {check: status(report, check) for check in SCANPY} == dict.fromkeys(
        SCANPY, "cannot tell"
    )


# -- the gap
# --------------------------------------------------------------------------------------------------


def no_signal(
    n_cells: int, n_genes: int, shares: list[float], *, by_donor: bool = False
) -> AnnData:
    """Cells whose class is drawn at random: with the same shares in all donors, or with shares of
    each donor's own.
    """
    rng = np.random.default_rng(0)
    adata = sb.datasets.cll_toy(n_cells=n_cells, n_genes=n_genes, programme=False)["rna"].copy()
    donor = adata.obs["donor"].cat.codes.to_numpy()
    chance = (
        rng.dirichlet(4 * np.array(shares), 10)[donor]
        if by_donor
        else np.tile(shares, (n_cells, 1))
    )
    drawn = (chance.cumsum(axis=1) < rng.random((n_cells, 1))).sum(axis=1).clip(0, 2)
    adata.obs["cd49d_level"] = pd.Categorical(
        np.array(["zero", "low", "high"])[drawn], ["zero", "low", "high"]
    )
    sb.pp.split_donors(adata, "donor")
    return adata


def gap_of(adata: AnnData, n_repeats: int) -> pd.Series:
    report = leakage_audit(adata, labels_key="cd49d_level", n_repeats=n_repeats)
    scores = report.gap.set_index("scheme")
    assert (scores["low"] <= scores["macro_f1"]).all()
    assert (scores["macro_f1"] <= scores["high"]).all()
    assert scores["n_repeats"].eq(n_repeats).all()
    np.testing.assert_allclose(
        scores["n_test"] / (scores["n_test"] + scores["n_train"]), 0.2, atol=0.05
    )
    found = finding(report, "gap")
    assert found["status"] == "warning"
    assert found["value"] == pytest.approx(
        scores.loc["A", "macro_f1"] - scores.loc["C", "macro_f1"]
    )
    assert report.passed, "the gap is about the data, not about the split"
    return scores["macro_f1"]


STUDY = [8038 / 17218, 7160 / 17218, 2020 / 17218]  # shares of the study's classes


@pytest.mark.parametrize(
    ("shares", "least"), [([0.6, 0.2, 0.2], 0.8), (STUDY, 0.55)], ids=["one large", "two large"]
)
def test_gap_without_signal(shares: list[float], least: float) -> None:
    """What resampling alone earns where nothing can be learned: .91 / .24 / .26 and .64 / .26 / .26
    when written.

    With two large classes, which are hardly oversampled, neither can be told from the other and
    only the third looks known: about (.55 + .55 + 1) / 3.
    """
    score = gap_of(no_signal(600, 200, shares), 1)
    assert score["A"] > least
    assert score["B"] < 0.4
    assert score["C"] < 0.4


@pytest.mark.slow  # cells of a whole study
def test_gap_without_signal_at_the_studys_size() -> None:
    score = gap_of(no_signal(3444, 400, STUDY), 1)
    assert score["A"] > 0.65
    assert score["B"] < 0.4
    assert score["C"] < 0.4


def test_donors_with_their_own_class_mix_help_a_split_by_cells() -> None:
    score = gap_of(no_signal(600, 200, [0.4, 0.3, 0.3], by_donor=True), 2)
    assert score["A"] > score["B"] > score["C"] + 0.05


@pytest.mark.parametrize("known", [True, False], ids=["is_synthetic", "plain copies"])
def test_copies_that_are_there_already_are_left_out_of_the_gap(
    few: AnnData, gap_of_few: pd.DataFrame, known: bool
) -> None:
    oversampled = few.copy()
    oversampled.obs["split"] = "train"
    sb.pp.balance(oversampled, "cd49d", method="oversample")
    by_random_cells(oversampled)
    if not known:
        del oversampled.obs["is_synthetic"]
    pd.testing.assert_frame_equal(audit(oversampled, gap=True, n_repeats=1).gap, gap_of_few)


def test_a_labelled_cell_stays_in_the_gap_where_its_copy_has_no_label(
    few: AnnData, gap_of_few: pd.DataFrame
) -> None:
    copies = few[:40].copy()
    copies.obs["cd49d"] = pd.Categorical.from_codes(
        [-1] * copies.n_obs, dtype=copies.obs["cd49d"].dtype
    )
    copies.obs_names = copies.obs_names + "-again"
    both = ad.concat([copies, few])
    pd.testing.assert_frame_equal(audit(both, gap=True, n_repeats=1).gap, gap_of_few)


def test_smoted_cells_are_left_out_of_the_gap(few: AnnData, gap_of_few: pd.DataFrame) -> None:
    adata = few.copy()
    sb.pp.balance(adata, "cd49d", method="smote")
    pd.testing.assert_frame_equal(audit(adata, gap=True, n_repeats=1).gap, gap_of_few)


def test_gap_without_donors_has_two_rows(clean: AnnData) -> None:
    adata = clean[:300].copy()
    report = leakage_audit(adata, donor_key=None, n_repeats=1)
    assert report.gap["scheme"].tolist() == ["A", "B"]
    scores = report.gap.set_index("scheme")["macro_f1"]
    assert finding(report, "gap")["value"] == pytest.approx(scores["A"] - scores["B"])


def test_gap_of_two_donors_holds_out_one(clean: AnnData) -> None:
    adata = clean[clean.obs["donor"].isin(clean.obs["donor"].cat.categories[:4])].copy()
    adata.obs["donor"] = adata.obs["donor"].astype(str)
    adata.obs["cd49d"] = np.random.default_rng(0).choice(["CD49d-", "CD49d+"], adata.n_obs)
    adata.obs["split"] = np.where(adata.obs["donor"] == "D01", "test", "train")
    adata.obs.loc[adata.obs_names[:5], "cd49d"] = None
    report = leakage_audit(adata, n_repeats=1)
    row = report.gap.set_index("scheme").loc["C"]
    assert "4 donors: one is tested at a time" in row["note"]
    assert row["n_train"] + row["n_test"] == adata.n_obs - 5, "cells without a label take no part"


# -- the report
# --------------------------------------------------------------------------------------------------


def test_the_report_reads_as_markdown(clean: AnnData) -> None:
    adata = clean[:300].copy()
    adata.obs_names = [f"a|{i}" for i in range(300)]
    adata.obs["split"] = np.where(np.arange(300) < 240, "train", "test")
    adata.X = sparse.csr_matrix(np.vstack([adata.X[:299].toarray(), adata.X[:1].toarray()]))
    text = str(leakage_audit(adata, n_repeats=1))
    assert text.startswith("# Leakage audit\n\nNot passed: 2 leak, ")
    assert "| exact duplicates | **leak** |" in text
    assert "a\\|299 (test) = a\\|0 (train)" in text, "a name must not break the table"
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in table} == {7, 10}
    assert "## One classifier, the same cells, split in three ways" in text
    assert "nan" not in text


def test_survives_h5ad(few: AnnData, tmp_path: Path) -> None:
    adata = few.copy()
    by_random_cells(adata)
    adata.X = adata.X[np.r_[np.arange(adata.n_obs - 50), np.arange(50)]]
    report = leakage_audit(adata, n_repeats=1, key_added="audit")
    empty = few.copy()
    audit(empty)
    for i, written in enumerate((adata, empty)):
        written.write_h5ad(tmp_path / f"{i}.h5ad")
    back = ad.read_h5ad(tmp_path / "0.h5ad").uns["audit"]
    assert back["findings"]["status"].tolist() == report.findings["status"].tolist()
    assert list(back["findings"].index) == [str(i) for i in range(len(report.findings))]
    assert back["cells"]["cell"].tolist() == report.cells["cell"].tolist()
    np.testing.assert_allclose(back["gap"]["macro_f1"], report.gap["macro_f1"])
    assert back["params"] | {"rng": 0} == adata.uns["audit"]["params"]
    assert not back["passed"]
    assert "gap" not in ad.read_h5ad(tmp_path / "1.h5ad").uns["leakage_audit"]


def test_same_seed_same_report_and_nothing_else_changes(clean: AnnData) -> None:
    first, second = clean[:300].copy(), clean[:300].copy()
    first.obs["split"] = second.obs["split"] = np.where(np.arange(300) < 240, "train", "test")
    before = first.copy()
    reports = [leakage_audit(adata, n_repeats=1, rng=3) for adata in (first, second)]
    assert str(reports[0]) == str(reports[1])
    pd.testing.assert_frame_equal(first.obs, before.obs)
    assert (first.X != before.X).nnz == 0
    assert set(first.uns) - set(before.uns) == {"leakage_audit"}


@pytest.mark.parametrize("form", ["csc", "csr_array", "dense", "integers"])
def test_other_formats_give_the_same_report(clean: AnnData, form: str) -> None:
    adata = clean.copy()
    by_random_cells(adata)
    expected = str(audit(adata))
    change = {
        "csc": sparse.csc_matrix,
        "csr_array": sparse.csr_array,
        "dense": lambda x: x.toarray(),
    }
    adata.X = change.get(form, lambda x: x.astype(np.int64))(adata.X)
    assert str(audit(adata)) == expected


# -- bad input
# --------------------------------------------------------------------------------------------------


def drop(column: str):
    return lambda adata: adata.obs.pop(column)


def one_class(adata: AnnData) -> None:
    adata.obs["cd49d"] = "CD49d+"


def no_test(adata: AnnData) -> None:
    adata.obs["split"] = "train"


def negative(adata: AnnData) -> None:
    adata.X = adata.X * -1


@pytest.mark.parametrize(
    ("spoil", "options", "error", "message"),
    [
        (drop("split"), {}, KeyError, "'split' is not in adata.obs.*Make one with pp.split_donors"),
        (no_test, {}, ValueError, r"adata.obs\['split'\] has no cell in 'test'"),
        (drop("cd49d"), {"gap": True}, KeyError, "'cd49d' is not in adata.obs"),
        (one_class, {"gap": True}, ValueError, "needs at least two classes"),
        (drop("donor"), {"donor_key": "patient"}, KeyError, "'patient' is not in adata.obs"),
        (negative, {}, ValueError, "adata.X holds negative values"),
        (lambda a: None, {"layer": "raw"}, KeyError, "'raw' is not in adata.layers"),
        (lambda a: None, {"near_duplicate_alpha": 0}, ValueError, "near_duplicate_alpha must be"),
        (lambda a: None, {"n_repeats": 0}, ValueError, "n_repeats must be"),
    ],
)
def test_bad_input(
    clean: AnnData, spoil, options: dict, error: type[Exception], message: str
) -> None:
    adata = clean.copy()
    spoil(adata)
    with unchanged(adata), pytest.raises(error, match=message):
        audit(adata, **options)


def test_labels_are_not_needed_without_the_gap(clean: AnnData) -> None:
    adata = clean.copy()
    del adata.obs["cd49d"]
    assert audit(adata).passed


def test_a_view_and_repeated_names_are_refused(clean: AnnData) -> None:
    with pytest.raises(ValueError, match="view of another AnnData"):
        audit(clean[:500])
    with pytest.raises(TypeError, match="Expected an AnnData"):
        audit(pd.DataFrame())
