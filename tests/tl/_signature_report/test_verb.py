"""Gates: a planted signature passes them, plain rankings do not, and nothing is made of nothing."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

import scbert_cll as sb
from scbert_cll.model import ScBERTClassifier
from tests._make import unchanged

FEW = {"n_random": 19, "n_permutations": 19, "n_network": 19}
RUN = ["sufficiency", "comprehensiveness", "permuted labels", "stability"]


def planted(**options) -> ad.AnnData:
    adata = sb.datasets.planted_donors(
        **{"n_cells": 80, "n_genes": 150, "n_planted": 15, "rng": 0} | options
    )
    sb.tl.signature(adata, groupby="label")
    return adata


def gate(report, name: str, subject: str = "signature") -> pd.Series:
    return report.gates.set_index(["gate", "subject"]).loc[name, subject]


@pytest.fixture(scope="session")
def made():
    adata = planted()
    return adata, sb.tl.signature_report(adata, **FEW)


@pytest.fixture
def reported(made):
    """Planted donors, their signature, and its report; the object is one's own."""
    return made[0].copy(), made[1]


# -- what passes and what does not
# ------------------------------------------------------------------------------------


def test_a_planted_signature_passes(reported) -> None:
    adata, report = reported
    own = report.gates[report.gates["subject"] == "signature"].set_index("gate")
    assert (own.loc[RUN, "passed"] == "yes").all()
    assert report.passed
    assert own.loc["sufficiency", "value"] > 0.95 > own.loc["sufficiency", "null_high"]
    assert (
        own.loc["sufficiency", "low"]
        <= own.loc["sufficiency", "value"]
        <= own.loc["sufficiency", "high"]
    )
    assert own.loc["comprehensiveness", "value"] > 0.2
    assert own.loc["permuted labels", "value"] == adata.uns["signature"]["n_selected"]
    assert own.loc["permuted labels", "null"] <= 1


def test_abundant_genes_are_stable_and_fail(reported) -> None:
    _, report = reported
    stable = gate(report, "stability", "abundance")
    assert stable["value"] > 0.8
    assert stable["passed"] == "no", "they are as stable where labels mean nothing"
    permuted = gate(report, "permuted labels", "abundance")
    assert (permuted["value"], permuted["null"], permuted["passed"]) == (permuted["value"],) * 2 + (
        "no",
    )
    assert (
        gate(report, "comprehensiveness", "abundance")["value"]
        < gate(report, "comprehensiveness")["value"] / 4
    )


def test_sufficiency_is_that_of_donors_the_genes_were_not_found_in(reported) -> None:
    """The same by hand: donors held out, tl.signature on the others, a regression of its genes,
    pairs within donors.
    """
    adata, report = reported
    donors, positive = (
        adata.obs["donor"].astype(str).to_numpy(),
        (adata.obs["label"] == "positive").to_numpy(),
    )
    log = adata.X.toarray() * (1e4 / adata.X.sum(axis=1).A1)[:, None]
    log = pd.DataFrame(np.log1p(log), columns=adata.var_names)
    right = pairs = 0.0
    names = np.unique(donors)
    for _, test in GroupKFold(4).split(names, groups=names):
        held = np.isin(donors, names[test])
        training = adata[~held].copy()
        sb.tl.signature(training, groupby="label")
        table = training.uns["signature"]["genes"]
        genes = table.loc[table["selected"], "gene"]
        scaler = StandardScaler().fit(log.loc[~held, genes])
        model = LogisticRegression(C=0.003, max_iter=2000)
        model.fit(scaler.transform(log.loc[~held, genes]), positive[~held])
        for donor in names[test]:
            own = donors == donor
            logit = model.decision_function(scaler.transform(log.loc[own, genes]))
            n = positive[own].sum() * (~positive[own]).sum()
            right, pairs = right + n * roc_auc_score(positive[own], logit), pairs + n
    assert gate(report, "sufficiency")["value"] == pytest.approx(right / pairs, abs=2e-4)


def test_genes_that_matter_are_missed_and_bring_it_back(reported) -> None:
    curves = reported[1].curves.set_index(["direction", "subject", "k"])["value"]
    n = 20
    assert curves["deletion", "signature", n] < curves["deletion", "random", n] - 0.2
    assert curves["insertion", "signature", 5] > curves["insertion", "random", 5] + 0.2
    for subject in ("signature", "abundance", "random"):
        assert curves["insertion", subject, 0] == 0.5
        assert curves["deletion", subject, 0] == pytest.approx(curves["deletion", "signature", 0])


@pytest.mark.parametrize("effect", ["none", "slope"])
def test_an_empty_signature_is_said_to_be_empty(effect: str, tmp_path) -> None:
    adata = planted(effect=effect, n_genes=120)
    report = sb.tl.signature_report(adata, **FEW)
    own = report.gates[report.gates["subject"] == "signature"].set_index("gate")
    assert (own.loc[RUN, "passed"] == "not run").all()
    assert own.loc["sufficiency", "note"].startswith("the signature is empty: no gene has q < 0.05")
    assert own.loc["permuted labels", "value"] == 0
    assert np.isnan(own.loc["sufficiency", "value"])
    assert not report.passed
    assert f"The signature is empty: {adata.uns['signature']['reason']}." in str(report)
    plain = report.gates[report.gates["subject"] == "abundance"].set_index("gate")["passed"]
    assert plain["permuted labels"] == "no"
    assert gate(report, "sufficiency", "abundance")["value"] < 0.65
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad").uns["signature_report"]
    pd.testing.assert_frame_equal(back["gates"], report.gates, check_dtype=False)


# -- which genes there are
# --------------------------------------------------------------------------------------------


def test_a_signature_of_chromosome_12_fails() -> None:
    adata = planted(n_cells=64, n_genes=90)
    adata.var["chromosome"] = np.where(adata.var["truth"] != 0, "chr12", "chr1")
    found = gate(sb.tl.signature_report(adata, **FEW), "chromosome 12")
    assert found["passed"] == "no"
    assert found["value"] > 0.8
    assert found["null"] == pytest.approx(15 / 90, abs=0.02)
    adata.var["chr"] = np.where(
        (adata.var["truth"] == 0) & (np.arange(adata.n_vars) % 9 == 0), "12", "1"
    )
    assert (
        gate(sb.tl.signature_report(adata, chromosome_key="chr", **FEW), "chromosome 12")["passed"]
        == "yes"
    )


def test_families_and_reference_genes_are_looked_for() -> None:
    adata = sb.datasets.planted_donors(n_cells=80, n_genes=120, n_planted=12, rng=0)
    names, truth = (
        adata.var_names.to_numpy(dtype=object).copy(),
        np.flatnonzero(adata.var["truth"] != 0),
    )
    names[truth[:5]] = ["MT-CO1", "MT-CO2", "MT-ND1", "RPL3", "RPS4X"]
    names[truth[5:9]] = ["CD38", "ITGB1", "MKI67", "CCL3"]
    names[truth[9]], names[np.flatnonzero(adata.var["truth"] == 0)[1]] = "LYZ", "CD3E"
    adata.var_names = names
    sb.tl.signature(adata, groupby="label")
    report = sb.tl.signature_report(adata, **FEW)
    assert gate(report, "families")["passed"] == "no"
    assert gate(report, "families")["note"] == "3 mitochondrial, 2 ribosomal"
    assert gate(report, "other cells")["note"] == "LYZ"
    assert gate(report, "other cells")["passed"] == "no"
    known = gate(report, "reference genes")
    assert known["value"] > 0.8
    assert known["passed"] == "information"
    assert known["p"] < 0.05
    assert known["note"].startswith("5 of ")


def test_sets_are_listed_and_have_no_rule(reported) -> None:
    adata, _ = reported
    sets = {
        "planted": adata.var_names[adata.var["truth"] != 0].tolist(),
        "other": adata.var_names[1:20].tolist(),
    }
    report = sb.tl.signature_report(adata, gene_sets=sets, **FEW)
    found = gate(report, "gene sets")
    assert (found["value"], found["note"], found["passed"]) == (1, "planted", "information")
    own = report.enrichment[report.enrichment["subject"] == "signature"].set_index("set")
    assert own.loc["planted", "q"] < 1e-6 < own.loc["other", "q"]
    assert len(adata.uns["signature_report"]["enrichment"]) == 4


# -- with a network
# --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def asked():
    adata = planted(n_cells=48, n_genes=100)
    sb.pp.split_donors(adata, "donor", labels_key="label", rng=0)
    sb.pp.bin_expression(adata)
    ScBERTClassifier.setup_anndata(adata, labels_key="label")
    model = ScBERTClassifier(adata, rng=0, gene_embedding="learned")
    model.train(10, split_key="split", accelerator="cpu", enable_progress_bar=False)
    return adata, model, sb.tl.signature_report(adata, model, n_refits=1, **FEW)


def test_attention_goes_through_the_same_gates_and_fails(asked) -> None:
    _, _, report = asked
    for name in ("permuted labels", "stability", "random head", "random network"):
        assert gate(report, name, "attention")["passed"] == "no", name
    assert gate(report, "random head", "attention")["value"] == pytest.approx(1), (
        "no head takes part in attention"
    )
    assert gate(report, "stability", "attention")["value"] > 0.8
    own = report.gates[report.gates["subject"] == "signature"].set_index("gate")["passed"]
    assert (own[[*RUN, "network sufficiency", "network comprehensiveness"]] == "yes").all()
    assert "attention" in report.to_markdown().splitlines()[4]


def test_an_attribution_that_was_learned_goes_with_the_weights(asked) -> None:
    _, _, report = asked
    head, whole = (gate(report, name, "attribution") for name in ("random head", "random network"))
    assert whole["value"] < 0.3
    assert whole["value"] < gate(report, "random network", "attention")["value"] - 0.3
    assert head["low"] <= head["value"] <= head["high"]
    shares = [
        gate(report, "refitted on permuted labels", who)["value"]
        for who in ("attribution", "attention")
    ]
    assert all(0 <= share <= 1 for share in shares)
    assert shares[0] < 1


def test_what_the_network_loses_is_what_it_says_of_cells_it_was_not_trained_on(asked) -> None:
    """The same by hand: the signature of the training donors, dropped from the test cells."""
    adata, model, report = asked
    held = (adata.obs["split"] == "test").to_numpy()
    training = adata[~adata.obs["donor"].isin(adata.obs["donor"][held].unique())].copy()
    sb.tl.signature(training, groupby="label")
    table = training.uns["signature"]["genes"]
    cells = adata[held].copy()
    genes = table.loc[table["selected"], "gene"].tolist()
    proba = model.predict_parts(cells).network.to_numpy(np.float64)
    logit = np.log(proba[:, 1]) - np.log(proba[:, 0])
    less = logit + model.get_set_effects({"all": genes}, cells)["all"].to_numpy()
    positive = (cells.obs["label"] == "positive").to_numpy()
    assert cells.obs["donor"].nunique() == 1, "so that an AUROC is one within donors"
    lost = roc_auc_score(positive, logit) - roc_auc_score(positive, less)
    found = gate(report, "network comprehensiveness")
    assert found["value"] == pytest.approx(lost, abs=1e-4)
    assert np.isnan(found["low"]), "one donor has no interval over donors"
    assert found["note"] == "test cells"


@pytest.mark.slow  # a second report with a network
def test_a_model_without_a_split_is_told(asked, tmp_path) -> None:
    adata, model, _ = asked
    adata = adata.copy()
    del adata.obs["split"]
    report = sb.tl.signature_report(adata, model, **FEW)
    assert gate(report, "network sufficiency")["note"].startswith(
        "cells the network was trained on"
    )
    assert set(report.curves["reader"]) == {"linear", "network"}
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad").uns["signature_report"]
    pd.testing.assert_frame_equal(back["curves"], report.curves, check_dtype=False)
    assert back["params"]["with_model"]


# -- what cannot be looked at
# -----------------------------------------------------------------------------------------


def test_donors_that_are_too_few_to_hold_one_out() -> None:
    adata = planted(n_donors=4)
    report = sb.tl.signature_report(adata, **FEW)
    again = report.gates["gate"].isin(
        ["sufficiency", "comprehensiveness", "permuted labels", "stability"]
    )
    assert (report.gates.loc[again, "passed"] == "not run").all()
    assert gate(report, "sufficiency")["note"].startswith("4 donors have cells enough")
    hits = adata.var_names[
        adata.var["truth"] != 0
    ].tolist()  # what is in a signature can be said without other donors
    table = sb.tl.signature_report(adata, gene_sets={"planted": hits}, **FEW).enrichment
    assert table.loc[table["subject"] == "signature", "p"].item() < 0.001
    assert not report.passed
    assert "curves" not in adata.uns["signature_report"]


def test_five_donors_are_held_out_one_at_a_time() -> None:
    report = sb.tl.signature_report(planted(n_donors=5), **FEW)
    assert gate(report, "sufficiency")["value"] > 0.9


def test_too_few_donors_for_a_signature() -> None:
    adata = sb.datasets.planted_donors(n_cells=80, n_genes=100, rng=0)
    adata = adata[adata.obs["donor"].isin(["D01", "D02", "D03"])].copy()
    sb.tl.signature(adata, groupby="label")
    report = sb.tl.signature_report(adata, **FEW)
    assert set(report.gates["passed"]) == {"not run"}
    assert "3 donors have 20 cells of every class" in str(report)


# -- donors of one class
# --------------------------------------------------------------------------------------------------


def of_one_class(n_donors: int = 12, n_complete: int = 0, **options) -> ad.AnnData:
    """Donors of both classes, then of one in turn; a batch goes with the class in all but four."""
    adata = sb.datasets.planted_donors(
        **{"n_donors": n_donors, "n_cells": 80, "n_genes": 100, "n_planted": 12, "rng": 0} | options
    )
    donor = adata.obs["donor"].cat.codes.to_numpy()
    is_last = adata.obs["label"] == "positive"
    adata.obs["batch"] = np.where((donor % 2 == 1) ^ np.isin(donor, [2, 3, 8, 9]), "b", "a")
    return adata[(donor < n_complete) | ((donor % 2 == 1) == is_last)].copy()


@pytest.mark.filterwarnings("ignore:.*whatever else")
@pytest.mark.parametrize(
    ("n_complete", "design", "words", "n_possible"),
    [
        (0, "between", "labels of whole donors change places within strata of 'batch'", 225),
        (3, "both", "labels of cells change places within donors among those alike", np.inf),
    ],
)
def test_donors_of_one_class_are_permuted_and_held_out(
    n_complete: int, design: str, words: str, n_possible: float, tmp_path
) -> None:
    adata = of_one_class(12 + n_complete, n_complete)
    sb.tl.signature(adata, groupby="label", design=design, covariates=["batch"])
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    report = sb.tl.signature_report(back, **FEW)
    own = report.gates[report.gates["subject"] == "signature"].set_index("gate")
    assert (own.loc[RUN, "passed"] == "yes").all()
    assert own.loc["permuted labels", "p"] == 0.05
    assert own.loc["permuted labels", "rule"].endswith("at most 1 gene in half of the arrangements")
    assert words in own.loc["permuted labels", "note"]
    assert gate(report, "permuted labels", "abundance")["passed"] == "no"
    assert own.loc["sufficiency", "value"] > 0.95 > own.loc["sufficiency", "null_high"]
    entry = back.uns["signature_report"]["params"]["permutations"]
    assert entry["scheme"] in own.loc["permuted labels", "note"]
    assert entry["n"] == 19
    if design == "between":
        assert entry["n_possible"] == n_possible
    runs = report.stability[report.stability["subject"] == "signature"]
    assert len(runs) == 20


@pytest.mark.filterwarnings("ignore:.*whatever else")
def test_sufficiency_between_donors_is_that_of_pairs_of_cells_of_held_out_donors() -> None:
    adata = of_one_class(n_genes=80)
    sb.tl.signature(adata, groupby="label", design="between")
    report = sb.tl.signature_report(adata, **FEW)
    donors = adata.obs["donor"].astype(str).to_numpy()
    positive = (adata.obs["label"] == "positive").to_numpy()
    log = adata.X.toarray() * (1e4 / adata.X.sum(axis=1).A1)[:, None]
    log = pd.DataFrame(np.log1p(log), columns=adata.var_names)
    right = pairs = 0.0
    kinds = [np.unique(donors[positive == last]) for last in (False, True)]
    folds = zip(*(GroupKFold(4).split(kind, groups=kind) for kind in kinds), strict=True)
    for parts in folds:
        out = [kind[test] for kind, (_, test) in zip(kinds, parts, strict=True)]
        held = np.isin(donors, np.concatenate(out))
        training = adata[~held].copy()
        sb.tl.signature(training, groupby="label", design="between")
        table = training.uns["signature"]["genes"]
        genes = table.loc[table["selected"], "gene"]
        scaler = StandardScaler().fit(log.loc[~held, genes])
        model = LogisticRegression(C=0.003, max_iter=2000)
        model.fit(scaler.transform(log.loc[~held, genes]), positive[~held])
        logit = model.decision_function(scaler.transform(log.loc[held, genes]))
        n = positive[held].sum() * (~positive[held]).sum()
        right, pairs = right + n * roc_auc_score(positive[held], logit), pairs + n
    assert gate(report, "sufficiency")["value"] == pytest.approx(right / pairs, abs=2e-4)


@pytest.mark.filterwarnings("ignore:.*whatever else")
@pytest.mark.parametrize(
    ("n_donors", "min_donors", "why"),
    [
        (8, 4, "with donors held out (negative: 4; positive: 4) there are fewer than the 4 that"),
        (6, 2, "the labels can be arranged in 10 ways, and it takes 20 for a p of 0.05"),
    ],
)
def test_few_donors_or_arrangements_are_told(n_donors: int, min_donors: int, why: str) -> None:
    adata = of_one_class(n_donors)
    sb.tl.signature(adata, groupby="label", design="between", min_donors=min_donors)
    report = sb.tl.signature_report(adata, **FEW)
    assert gate(report, "permuted labels")["passed"] == "not run"
    assert gate(report, "permuted labels")["note"].startswith(why)
    assert not report.passed


@pytest.mark.filterwarnings("ignore:.*whatever else")
def test_where_the_class_is_nothing_donors_give_no_gene() -> None:
    adata = of_one_class(effect="none")
    sb.tl.signature(adata, groupby="label", design="between")
    report = sb.tl.signature_report(adata, **FEW)
    assert gate(report, "permuted labels")["p"] > 0.05
    assert gate(report, "permuted labels", "abundance")["passed"] == "no"
    assert not report.passed


# -- the report
# --------------------------------------------------------------------------------------------------


def test_same_seed_same_report_and_nothing_else_changes(reported) -> None:
    adata, report = reported
    del adata.uns["signature_report"]
    again = adata.copy()
    with unchanged(again):
        second = sb.tl.signature_report(again, **FEW)
        del again.uns["signature_report"]
    pd.testing.assert_frame_equal(second.gates, report.gates)
    pd.testing.assert_frame_equal(second.curves, report.curves)


def test_the_report_reads_as_markdown(reported) -> None:
    text = str(reported[1])
    assert text.startswith("# Signature report\n\nPassed: 4 gates passed, 0 not, 3 not run.\n")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {5}
    assert rows[0] == "| gate | signature | abundance | passes if |"
    assert "nan" not in text
    assert "- permuted labels (abundance): a ranking has as many genes" in text


def test_levels_and_unlabelled_cells(tmp_path) -> None:
    """Three ordered levels: the outer two are told apart; cells without a level take no part."""
    adata = sb.datasets.planted_donors(n_cells=120, n_genes=100, n_planted=12, rng=0)
    rng = np.random.default_rng(0)
    middle = np.where(
        rng.random(adata.n_obs) < 0.35,
        "low",
        np.where(adata.obs["label"] == "positive", "high", "zero"),
    )
    adata.obs["level"] = pd.Categorical(middle, ["zero", "low", "high"], ordered=True)
    adata.obs.loc[adata.obs_names[::10], "level"] = np.nan
    sb.tl.signature(adata, groupby="level", exclude_genes=["ITGA4"])
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    report = sb.tl.signature_report(back, **FEW)
    assert report.passed
    pd.testing.assert_frame_equal(report.gates, sb.tl.signature_report(adata, **FEW).gates)


# -- bad input
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"key": "other"}, KeyError, r"'other' is not in adata.uns.*Run tl\.signature first"),
        ({"n_random": 18}, ValueError, "n_random must be a whole number from 19"),
        ({"n_network": 5}, ValueError, "n_network must be a whole number from 19"),
        ({"n_permutations": 18}, ValueError, "n_permutations must be a whole number from 19"),
        ({"n_refits": -1}, ValueError, "n_refits must be a whole number from 0"),
        ({"model": "scbert"}, TypeError, "Expected a model"),
        ({"gene_sets": 3}, TypeError, "sets"),
    ],
)
def test_bad_input(reported, options: dict, error: type[Exception], message: str) -> None:
    adata, _ = reported
    with unchanged(adata), pytest.raises(error, match=message):
        sb.tl.signature_report(adata, **FEW | options)


def test_what_the_signature_was_found_in_must_be_there(reported) -> None:
    adata, _ = reported
    with pytest.raises(KeyError, match=r"'donor' is not in adata\.obs"):
        sb.tl.signature_report(_without(adata.copy(), "donor"))
    log = adata.copy()
    log.X = sparse.csr_matrix(np.log1p(log.X.toarray()))
    with pytest.raises(ValueError, match="must hold raw counts"):
        sb.tl.signature_report(log)
    with pytest.raises(ValueError, match="view of another AnnData"):
        sb.tl.signature_report(adata[:100])


def _without(adata: ad.AnnData, column: str) -> ad.AnnData:
    del adata.obs[column]
    return adata
