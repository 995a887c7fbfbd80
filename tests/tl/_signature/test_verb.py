"""tl.signature finds what is planted within donors, and nothing where nothing is."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse, stats

import scbert_cll as sb
from scbert_cll.model import ScBERTClassifier


def found(adata: AnnData, **kwargs) -> pd.DataFrame:
    sb.tl.signature(adata, **{"groupby": "label"} | kwargs)
    genes = adata.uns["signature"]["genes"]
    return genes[genes["selected"]].set_index("gene") if len(genes) else genes


def scored(adata: AnnData) -> tuple[float, float]:
    """Recall of the planted genes and share of false ones; signs must be right."""
    signature, truth = found(adata), adata.var["truth"]
    hits = truth[signature.index] != 0
    assert (truth[signature.index][hits] == signature["sign"][hits]).all()
    return hits.sum() / (truth != 0).sum(), float((~hits & (signature.index != "ITGA4")).mean())


@pytest.mark.parametrize(
    ("design", "size", "recall", "worst", "false"),
    [
        ("paired", 1.2, 0.95, 0.9, 0.05),
        ("paired", 0.6, 0.9, 0.85, 0.08),
        ("gated", 1.2, 0.9, 0.85, 0.05),
        ("gated", 0.6, 0.75, 0.5, 0.08),
    ],
)
def test_planted_genes_are_found(design, size, recall, worst, false) -> None:
    scores = [
        scored(sb.datasets.planted_donors(design=design, size=size, rng=seed)) for seed in range(5)
    ]
    mean = np.mean(scores, axis=0)
    assert mean[0] >= recall
    assert min(score[0] for score in scores) >= worst
    assert mean[1] <= false
    assert max(score[1] for score in scores) <= 0.15


@pytest.mark.parametrize("effect", ["none", "donor", "abundance", "slope"])
@pytest.mark.parametrize("design", ["paired", "gated"])
def test_nothing_is_found_where_nothing_is(design, effect) -> None:
    n = []
    for seed in range(5):
        adata = sb.datasets.planted_donors(design=design, effect=effect, rng=seed)
        n.append(len(found(adata)))
        if not n[-1]:
            assert adata.uns["signature"]["reason"].startswith(
                ("no gene has q < 0.05", "1 gene has", "2 genes have")
            )
    assert np.mean(n) <= 0.2
    assert max(n) <= 1


def test_a_gene_that_is_there_twice_is_found_twice() -> None:
    adata = sb.datasets.planted_donors(rng=0)
    planted = np.flatnonzero(adata.var["truth"] != 0)
    twin = adata[:, planted].copy()
    twin.var_names = twin.var_names + "_twin"
    both = ad.concat([adata, twin], axis=1, merge="same")
    names = set(found(both).index)
    genes = adata.var_names[planted]
    assert sum({gene, f"{gene}_twin"} <= names for gene in genes) >= 0.95 * len(genes)


def test_stored_zeros_are_no_counts() -> None:
    """A cell of nothing but stored zeros, and zeros stored here and there, change nothing."""
    adata = sb.datasets.planted_donors(n_cells=60, n_genes=80, rng=0)
    adata.X.data[: adata.X.indptr[1]] = 0
    with_zeros = adata.copy()
    adata.X.eliminate_zeros()
    assert with_zeros.X.nnz > adata.X.nnz
    pd.testing.assert_frame_equal(found(with_zeros), found(adata))


def test_the_unit_is_the_donor() -> None:
    """Genes that a single donor raises in its positive cells are no signature, however many cells
    it has.
    """
    adata = sb.datasets.planted_donors(effect="none", rng=1)
    counts = adata.X.toarray()
    raised = ((adata.obs["donor"] == "D01") & (adata.obs["label"] == "positive")).to_numpy()
    counts[np.ix_(raised, range(10, 20))] *= 4
    adata.X = sparse.csr_matrix(counts)
    assert not set(adata.var_names[10:20]) & set(found(adata).index)


def test_too_few_donors_are_told(tmp_path) -> None:
    adata = sb.datasets.planted_donors(n_donors=8, rng=0)
    adata = adata[adata.obs["donor"].isin(["D01", "D02", "D03"])].copy()
    assert not len(found(adata))
    assert adata.uns["signature"]["reason"] == (
        "3 donors have 20 cells of every class (D01, D02, D03; negative: 3 donors; positive: "
        "3 donors), "
        "and 4 are needed to tell genes from donors"
    )
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert ad.read_h5ad(tmp_path / "a.h5ad").uns["signature"]["n_donors"] == 0


def test_two_donors_can_be_asked_for_and_spare_none() -> None:
    adata = sb.datasets.planted_donors(rng=0)
    adata = adata[adata.obs["donor"].isin(["D01", "D02"])].copy()
    found(adata, min_donors=2)
    record = adata.uns["signature"]
    assert record["n_donors"] == 2
    assert (record["genes"]["n_left_out"] == 0).all()
    assert record["genes"]["p"].between(0, 1).all()


def test_donors_are_compared_with_each_other_on_request_only() -> None:
    """Half of the donors are nearly all positive: nothing is within donors, and what tells the
    donors apart is in the rest.
    """
    adata = sb.datasets.planted_donors(n_donors=12, n_cells=80, rng=0)
    odd = adata.obs["donor"].cat.codes.to_numpy() % 2 == 1
    positive = (adata.obs["label"] == "positive").to_numpy()
    adata = adata[odd == positive].copy()  # each donor of one class
    assert not len(found(adata))
    reason = adata.uns["signature"]["reason"]
    assert reason.startswith("0 donors have 20 cells of every class")
    assert "design='between' would compare 12 donors with each other" in reason
    with pytest.warns(UserWarning, match="whatever else tells them apart"):
        signature = found(adata, design="between")
    truth = adata.var["truth"]
    assert (truth[signature.index] != 0).sum() >= 0.5 * (truth != 0).sum()
    record = adata.uns["signature"]
    means = record["differences"].mean(axis=1)
    np.testing.assert_allclose(means[signature.index], signature["log2_fc"])
    assert set(record["samples"]["class"]) == {"negative", "positive"}
    assert len(record["samples"]) == 12
    with pytest.warns(UserWarning, match="tells them apart"):
        assert not len(found(adata, design="between", min_donors=7))
    assert adata.uns["signature"]["reason"] == (
        "12 donors are mostly of one class (negative: 6; positive: 6), and 7 of each are needed"
    )


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"design": "between", "groupby": "three"}, "design='between' compares two classes"),
        ({"groupby": "level", "design": "both"}, r"'level'\] holds numbers.*design='between'"),
        ({"design": "beside"}, "design must be one of"),
        ({"veto": True}, "veto=True needs a model"),
        ({"min_donors": 1}, "min_donors"),
        ({"alpha": 0.7}, "alpha"),
    ],
)
def test_what_makes_no_sense_is_refused(options, match) -> None:
    adata = sb.datasets.planted_donors(n_cells=30, n_genes=60, rng=0)
    adata.obs["three"] = pd.Categorical(np.arange(adata.n_obs) % 3)
    adata.obs["level"] = np.random.default_rng(0).normal(size=adata.n_obs)
    with pytest.raises(ValueError, match=match):
        found(adata, **options)
    assert "signature" not in adata.uns


def test_what_is_written_is_consistent_and_survives_a_file(tmp_path) -> None:
    adata = sb.datasets.planted_donors(size=0.6, rng=0)
    sb.tl.signature(adata, groupby="label")
    adata.write_h5ad(tmp_path / "a.h5ad")
    record = ad.read_h5ad(tmp_path / "a.h5ad").uns["signature"]
    genes = record["genes"].set_index("gene")
    differences = record["differences"].loc[genes.index]
    np.testing.assert_allclose(differences.mean(axis=1), genes["log2_fc"], atol=1e-12)
    np.testing.assert_allclose(genes["log2_fc"] / genes["error"], genes["t"])
    np.testing.assert_allclose(stats.false_discovery_control(genes["p"]), genes["q"])
    assert (genes["low"] < genes["log2_fc"]).all()
    assert (genes["selected"] == ((genes["q"] < 0.05) & genes["agrees"])).all()
    assert genes.loc[genes["selected"], "coefficient"].abs().min() > record["gate"]
    assert record["samples"]["n_cells"].sum() == adata.n_obs
    same = np.sign(differences).eq(genes["sign"], axis=0).sum(axis=1)
    assert (same == genes["n_same_sign"]).all()
    assert genes.loc[genes["selected"], "n_same_sign"].min() >= 5
    assert record["n_tested"] == len(genes)
    assert genes["n_left_out"].max() == record["n_donors"] == 8


def test_ordered_levels_are_a_slope() -> None:
    adata = sb.datasets.planted_donors(n_cells=240, rng=0)
    halves = np.random.default_rng(0).random(adata.n_obs) < 0.5
    positive = adata.obs["label"] == "positive"
    level = np.where(
        halves, "low", np.where(positive, "high", "zero")
    )  # the middle level is a mixture of both
    adata.obs["level"] = pd.Categorical(level, ["zero", "low", "high"], ordered=True)
    by_level, by_class = found(adata.copy(), groupby="level"), found(adata)
    truth = adata.var["truth"]
    assert (truth[by_level.index] != 0).sum() >= 0.9 * (truth != 0).sum()
    both = by_level.index.intersection(by_class.index)
    np.testing.assert_allclose(
        by_level.loc[both, "log2_fc"], by_class.loc[both, "log2_fc"], atol=0.5
    )
    assert list(adata.uns["signature"]["params"]["classes"]) == ["negative", "positive"]


@pytest.fixture(scope="module")
def learned():
    """Donors of an additive effect, and a network trained on six of them."""
    adata = sb.datasets.planted_donors(n_cells=80, n_genes=120, n_planted=18, rng=0)
    sb.pp.split_donors(adata, "donor", labels_key="label", rng=0)
    sb.pp.bin_expression(adata)
    ScBERTClassifier.setup_anndata(adata, labels_key="label")
    model = ScBERTClassifier(adata, rng=0, gene_embedding="learned")
    model.train(8, split_key="split", accelerator="cpu", enable_progress_bar=False)
    return adata, model


def test_a_network_puts_its_evidence_beside_each_gene_and_selects_none(learned) -> None:
    adata, model = learned[0].copy(), learned[1]
    alone = sb.tl.signature(adata, groupby="label", copy=True).uns["signature"]["genes"]
    sb.tl.signature(adata, model, groupby="label")
    record = adata.uns["signature"]
    pd.testing.assert_frame_equal(record["genes"][list(alone)], alone)
    assert record["auroc_within"] > 0.9
    signature = sb.get.signature(adata)
    truth = adata.var["truth"][signature["gene"]].to_numpy()
    assert (np.sign(signature["attribution"])[truth != 0] == truth[truth != 0]).mean() >= 0.9
    assert (signature["attribution_z"] * signature["attribution"] > 0).all()
    held = adata[adata.obs["split"].isin(["test", "val"])].copy()
    sb.tl.gene_attribution(held, model, groupby="label", donor_key="donor", split_key="none")
    assert record["n_attribution_donors"] == held.obs["donor"].nunique()
    by_donor = model.get_gene_attribution(held.obs["donor"], held).values.loc[signature["gene"]]
    np.testing.assert_allclose(
        by_donor.mean(axis=1), signature["attribution"], rtol=1e-3, atol=1e-6
    )


def test_a_veto_takes_genes_away_and_adds_none(learned) -> None:
    adata, model = learned[0].copy(), learned[1]
    signature = found(adata, groupby="label")
    sb.tl.signature(adata, model, groupby="label", veto=True)
    vetoed = sb.get.signature(adata)
    assert set(vetoed["gene"]) <= set(signature.index)
    assert vetoed["attribution_agrees"].all()
    assert adata.uns["signature"]["n_selected"] == len(vetoed)
    assert adata.uns["signature"]["arms"].loc["0", "n_selected"] == len(vetoed)


def test_a_network_that_has_learned_nothing_has_no_veto(learned) -> None:
    adata, model = learned[0].copy(), learned[1].randomized("all", rng=1)
    with (
        pytest.warns(UserWarning, match="there is little to attribute"),
        pytest.raises(ValueError, match=r"veto=True needs an AUROC of 0\.75"),
    ):
        sb.tl.signature(adata, model, groupby="label", veto=True)
    assert "signature" not in adata.uns


def test_held_out_donors_without_positive_cells_have_no_attention_to_show(learned) -> None:
    adata, model = learned[0].copy(), learned[1]
    held, positive = adata.obs["split"] != "train", adata.obs["label"] == "positive"
    adata.obs["label"] = adata.obs["label"].where(~(held & positive))
    sb.tl.signature(adata, model, groupby="label", min_donors=6)
    genes = adata.uns["signature"]["genes"]
    assert genes["attention"].isna().all()
    assert genes["attribution"].notna().all()
    assert np.isnan(adata.uns["signature"]["auroc_within"])


def test_cells_the_network_was_trained_on_are_told(learned) -> None:
    adata, model = learned[0].copy(), learned[1]
    with pytest.warns(UserWarning, match="says what it has memorised"):
        sb.tl.signature(adata, model, groupby="label", split_key="none")
    assert adata.uns["signature"]["attribution_cells"] == "any"
    adata.obs["split"] = "train"
    with pytest.raises(
        ValueError, match=r"No donor has 20 labelled cells that are test or validation cells"
    ):
        sb.tl.signature(adata, model, groupby="label")


def test_many_genes_that_go_up_do_not_push_the_others_down() -> None:
    """A fifth of the genes change, most of them upwards: sizes are told by those that do not."""
    for seed in range(2):
        adata = sb.datasets.planted_donors(n_genes=120, n_planted=24, n_cells=300, rng=seed)
        signature, truth = found(adata), adata.var["truth"]
        assert (truth[signature.index] == 0).sum() <= 1
        assert (truth[signature.index] != 0).sum() == 24


def test_the_markers_gene_is_known_by_any_name() -> None:
    adata = sb.datasets.planted_donors(n_cells=60, n_genes=100)
    for name in ("CD49D", "ENSG00000115232.14", "ITGA4"):
        adata.var_names = [name, *adata.var_names[1:]]
        sb.tl.signature(adata, groupby="label", min_detected=0)
        genes = adata.uns["signature"]["genes"].set_index("gene")
        assert genes.index[genes["family"] == "marker"].tolist() == [name]
