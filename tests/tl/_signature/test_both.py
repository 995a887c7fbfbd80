"""tl.signature(design="both") takes donors of one class beside few of both, or says why not."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse, stats

import scbert_cll as sb

pytestmark = pytest.mark.filterwarnings("ignore:design='both' compares donors")


def study(n_bimodal: int = 2, n_donors: int = 12, *, clones: bool = False) -> AnnData:
    """Donors of both classes, then of one; with clones, other genes go with the latter's class."""
    adata = sb.datasets.planted_donors(n_donors=n_donors, n_cells=120, n_genes=400, rng=0)
    donor = adata.obs["donor"].cat.codes.to_numpy()
    kept = (donor < n_bimodal) | ((donor % 2 == 1) == (adata.obs["label"] == "positive"))
    adata = adata[kept].copy()
    if clones:
        donor = adata.obs["donor"].cat.codes.to_numpy()
        rng = np.random.default_rng(0)
        genes = rng.permutation(np.flatnonzero(adata.var["truth"] == 0))[:120]
        counts = adata.X.toarray().astype(np.int64)
        fewer = rng.binomial(counts[:, genes], 0.2)
        of_clone = (donor >= n_bimodal) & (donor % 2 == 1)
        up = np.arange(len(genes)) % 2 == 0
        counts[:, genes] = np.where(of_clone[:, None] ^ up, fewer, counts[:, genes])
        adata.X = sparse.csr_matrix(counts.astype(np.float32))
    return adata


def record(adata: AnnData, **options) -> dict:
    sb.tl.signature(adata, groupby="label", **{"design": "both"} | options)
    return adata.uns["signature"]


def test_two_donors_of_both_classes_and_ten_of_one_find_the_genes(tmp_path) -> None:
    adata = study()
    assert record(adata, design="within")["n_selected"] == 0
    reason = adata.uns["signature"]["reason"]
    assert "2 donors have 20 cells of every class" in reason
    assert "design='both' would join 2 donors with both classes and 12 compared" in reason
    assert "(80 % power" in reason
    held = record(adata)
    genes = held["genes"].set_index("gene")
    truth = adata.var["truth"][genes.index]
    selected = genes["selected"]
    assert (truth[selected] != 0).sum() >= 0.85 * (truth != 0).sum()
    assert (truth[selected] == 0).mean() <= 0.1
    assert (genes.loc[selected, "p_disagree"] > 0.05).all()
    assert held["n_donors"] == 12
    assert held["n_donors_within"] == 2
    assert held["verdict"].startswith("joined: ")
    assert len(held["samples"]) == 14
    low, high = (genes[f"log2_fc_{part}"] for part in ("within", "between"))
    assert genes["log2_fc"].between(np.minimum(low, high), np.maximum(low, high)).all()
    reach = (genes["high_within"] - genes["low_within"]) / 2 / genes["error_within"]
    assert (reach > stats.t.isf(0.025, 9) - 1e-9).all()  # two donors, and eight of the prior
    assert (genes["low_between"] < genes["log2_fc_between"]).all()
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    texts = [text.get_text() for text in sb.pl.signature(again, return_fig=True).findobj(plt.Text)]
    assert any("within 2 donors and between 12" in text.replace("\n", " ") for text in texts)


def test_where_clones_tell_donors_apart_it_is_the_signature_within() -> None:
    few = record(study(clones=True))
    assert not few["n_selected"]
    assert few["reason"].startswith("not joined: the difference between donors is another")
    assert few["reason"].endswith("too few for a signature within them (4 are needed)")
    adata = study(n_bimodal=5, n_donors=14, clones=True)
    held = record(adata)
    assert held["verdict"].startswith("not joined: ")
    assert "n_donors_within" not in held
    other = sb.tl.signature(adata, groupby="label", copy=True)
    within = other.uns["signature"]
    pd.testing.assert_frame_equal(held["genes"], within["genes"])
    pd.testing.assert_frame_equal(held["differences"], within["differences"])
    assert held["n_selected"] > 0
    few_draws = {"n_random": 19, "n_permutations": 19}
    reports = [sb.tl.signature_report(cells, **few_draws) for cells in (adata, other)]
    pd.testing.assert_frame_equal(reports[0].gates, reports[1].gates)
    ran = reports[0].gates.set_index(["gate", "subject"]).loc[("permuted labels", "signature")]
    assert ran["passed"] != "not run"


def test_covariates_of_donors_and_of_samples_are_in_their_parts() -> None:
    adata = study(n_bimodal=4, n_donors=14)
    donor = adata.obs["donor"].cat.codes.to_numpy()
    adata.obs["age"] = np.random.default_rng(0).normal(60, 9, 14)[donor]
    adata.obs["time"] = np.random.default_rng(1).normal(size=adata.n_obs)
    held = record(adata, covariates=["age", "time"])
    assert held["params"]["covariates_cancelled"] == []
    assert held["n_selected"] > 10
    adata.obs["share"] = np.where(donor < 4, 0.5, donor % 2)
    said = "'share' cannot be told from the class: negative: 0 to 0; negative and positive: 0.5"
    with pytest.raises(ValueError, match=said):
        record(adata, covariates=["share"])


def test_with_donors_of_both_classes_only_it_is_within() -> None:
    adata = sb.datasets.planted_donors(n_cells=80, n_genes=100, rng=0)
    both = record(adata)["genes"]
    pd.testing.assert_frame_equal(both, record(adata, design="within")["genes"])


def test_one_donor_of_both_classes_is_too_few() -> None:
    held = record(study(n_bimodal=1))
    assert held["reason"].startswith("1 donor of 12 has 20 cells of both classes")
    assert "design='between' would compare 12 donors" in held["reason"]
