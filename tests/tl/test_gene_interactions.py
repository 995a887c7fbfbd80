"""tl.gene_interactions finds what only two genes together say, and nothing where each gene counts
for itself.
"""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import scbert_cll as sb
from scbert_cll.model import ScBERTClassifier
from tests._make import unchanged

GENES = ["G0", "G1", "G10", "G11", "G30"]


@pytest.fixture(scope="session")
def _adata():
    """Six donors; ten genes up and ten down with the label."""
    rng = np.random.default_rng(0)
    is_b = rng.random(180) < 0.5
    mean = np.full((180, 40), 2.0)
    mean[:, :10] = np.where(is_b, 4, 1)[:, None]
    mean[:, 10:20] = np.where(is_b, 1, 4)[:, None]
    adata = ad.AnnData(
        rng.poisson(mean).astype(np.float32), var=pd.DataFrame(index=[f"G{i}" for i in range(40)])
    )
    adata.obs["donor"] = [f"donor{i % 6}" for i in range(180)]
    adata.obs["label"] = pd.Categorical(np.where(is_b, "b", "a"))
    adata.obs_names = [f"cell{i}" for i in range(180)]
    sb.pp.bin_expression(adata, target_sum=100)
    return adata


def _train(adata, **network) -> ScBERTClassifier:
    ScBERTClassifier.setup_anndata(adata, labels_key="label")
    choices = {"n_hidden": 16, "n_heads": 2, "gene_embedding": "learned", "rng": 0}
    model = ScBERTClassifier(adata, **choices | network)
    model.train(4, accelerator="cpu", enable_progress_bar=False)
    return model


@pytest.fixture(scope="session")
def _model(_adata):
    return _train(_adata.copy())


@pytest.fixture
def learned(_adata, _model):
    return _adata.copy(), _model


def _logit(model, adata, dropped) -> np.ndarray:
    """Log-odds of the last class, of cells without the tokens of some genes."""
    other = adata.copy()
    tokens = other.layers["binned"].toarray()
    tokens[:, other.var_names.isin(dropped)] = 0
    other.layers["binned"] = type(other.layers["binned"])(tokens)
    log = np.log(model.predict_parts(other).network.to_numpy(np.float64))
    return log[:, 1] - log[:, 0]


def _pairs(adata) -> pd.DataFrame:
    return adata.uns["gene_interactions"]["pairs"].set_index(["group", "a", "b"])


def test_is_the_second_difference_of_the_logit(learned) -> None:
    adata, model = learned
    sb.tl.gene_interactions(adata, model, GENES)
    whole, without_a, without_b, without = (
        _logit(model, adata, d) for d in ([], ["G0"], ["G10"], ["G0", "G10"])
    )
    tokens = adata.layers["binned"].toarray()
    n = (tokens > 0).sum(1)
    expected = (
        whole - without_a - without_b + without - (without_a + without_b - 2 * whole) / (n - 2)
    )
    both = (tokens[:, [0, 10]] > 0).all(1)
    by_donor = pd.Series(expected[both]).groupby(adata.obs["donor"].to_numpy()[both]).mean()
    found = _pairs(adata).loc[("all", "G0", "G10")]
    np.testing.assert_allclose(found["effect"], by_donor.mean(), atol=1e-5)
    test = stats.ttest_1samp(by_donor, 0)
    np.testing.assert_allclose(found["p"], test.pvalue, rtol=0.02)
    np.testing.assert_allclose(
        found[["low", "high"]].astype(float), test.confidence_interval(), atol=1e-5
    )
    assert found["n_cells"] == both.sum()
    for name, without_one in (("alone_a", without_a), ("alone_b", without_b)):
        single = (
            pd.Series((whole - without_one)[both])
            .groupby(adata.obs["donor"].to_numpy()[both])
            .mean()
            .mean()
        )
        np.testing.assert_allclose(found[name], single, atol=1e-5)
    assert found["n_donors"] == 6


@pytest.mark.parametrize("tokens", ["expressed", "all"])
def test_a_network_without_attention_has_none(learned, tokens) -> None:
    adata, _ = learned
    model = _train(adata, tokens=tokens)
    some = sb.tl.gene_interactions(adata, model, GENES, copy=True)
    with torch.no_grad():
        for block in model.module.blocks:
            block.attention.out.weight.zero_()
    sb.tl.gene_interactions(adata, model, GENES)
    alone = model.get_set_effects({"G0": ["G0"]}, adata)
    assert alone.abs().max().item() > 1e-2
    assert _pairs(adata)["effect"].abs().max() < 1e-5
    assert _pairs(some)["effect"].abs().max() > 1e-4


def test_order_of_genes_changes_nothing(learned) -> None:
    adata, model = learned
    there = _pairs(sb.tl.gene_interactions(adata, model, GENES, copy=True))
    back = _pairs(sb.tl.gene_interactions(adata, model, GENES[::-1], copy=True))
    assert len(there) == 10
    for group, a, b in there.index:
        np.testing.assert_allclose(
            there.loc[(group, a, b), "effect"], back.loc[(group, b, a), "effect"], atol=1e-6
        )


def test_q_is_of_all_rows_and_survives_a_file(learned, tmp_path) -> None:
    adata, model = learned
    sb.tl.gene_interactions(adata, model, GENES, groupby="label", n_cells=10, min_cells=3)
    table = adata.uns["gene_interactions"]["pairs"]
    assert table["p"].is_monotonic_increasing
    np.testing.assert_allclose(table["q"], stats.false_discovery_control(table["p"]))
    assert set(table["group"]) == {"a", "b"}
    assert len(table) == 20
    assert table["n_cells"].max() <= 60
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad").uns["gene_interactions"]
    pd.testing.assert_frame_equal(back["pairs"], table, check_dtype=False, check_index_type=False)
    assert back["params"]["donor_key"] == "donor"


def test_the_seed_chooses_the_cells(learned) -> None:
    adata, model = learned
    tables = [
        _pairs(sb.tl.gene_interactions(adata, model, GENES[:2], n_cells=12, rng=rng, copy=True))
        for rng in (0, 0, 1)
    ]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[0].equals(tables[2])


def test_pairs_that_too_few_cells_express_have_no_value(learned) -> None:
    adata, model = learned
    sb.tl.gene_interactions(adata, model, GENES[:2], min_cells=100)
    table = adata.uns["gene_interactions"]["pairs"]
    assert table[["n_cells", "n_donors"]].eq(0).all(axis=None)
    assert table[["effect", "low", "high", "alone_a", "alone_b", "p", "q"]].isna().all(axis=None)


def test_bad_input(learned) -> None:
    adata, model = learned
    cases = [
        (["G0"], ValueError, "The number of genes must be a whole number from 2 to 50; found 1"),
        ([f"G{i}" for i in range(51)], ValueError, "from 2 to 50; found 51"),
        (["G0", "G0"], ValueError, "genes must be unique; found more than once: 'G0'"),
        (["G0", "TP53"], KeyError, "'TP53' not in adata.var_names"),
    ]
    with unchanged(adata):
        for genes, error, sentence in cases:
            with pytest.raises(error, match=sentence):
                sb.tl.gene_interactions(adata, model, genes)
        with pytest.raises(KeyError, match="patient"):
            sb.tl.gene_interactions(adata, model, GENES, donor_key="patient")
        with pytest.raises(ValueError, match="target must be one of 'a', 'b'; found 'c'"):
            sb.tl.gene_interactions(adata, model, GENES, target="c")
        with pytest.raises(TypeError, match="ScBERTClassifier"):
            sb.tl.gene_interactions(adata, "model", GENES)
