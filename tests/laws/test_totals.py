"""The law of totals: tokens cut from totals of other genes than the model's are refused, whatever
asks the model; and what is missing is said.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scbert_cll as sc_cll
from scbert_cll.__main__ import main
from tests import _make

pp, tl = sc_cll.pp, sc_cll.tl
FAST = {"max_epochs": 1, "batch_size": 32, "accelerator": "cpu", "enable_progress_bar": False}
NETWORK = {"n_hidden": 8, "n_heads": 2, "gene_embedding": "learned"}
GENES = [f"G{i}" for i in range(300)]
CHOSEN = GENES[:40]  # as highly variable genes are


def cells_of_genes(genes: list[str] = GENES) -> AnnData:
    made = _make.cells(genes=GENES, classes=("neg", "pos"))
    return made[:, genes].copy()


def binned(genes: list[str], **edges: Any) -> AnnData:
    adata = cells_of_genes(genes)
    pp.bin_expression(adata, **edges)
    return adata


def trained(adata: AnnData, **choices: Any) -> sc_cll.ScBERTClassifier:
    return tl.finetune(adata, network=NETWORK, **FAST, **choices)


@pytest.fixture(scope="module")
def model() -> sc_cll.ScBERTClassifier:
    return trained(binned(CHOSEN))


ASKS: dict[str, Callable[[AnnData, Any], Any]] = {
    "tl.predict": lambda a, m: tl.predict(a, m),
    "tl.gene_attention": lambda a, m: tl.gene_attention(a, m),
    "tl.gene_attribution": lambda a, m: tl.gene_attribution(a, m),
    "tl.gene_interactions": lambda a, m: tl.gene_interactions(a, m, ["G0", "G1"]),
    "tl.perturb": lambda a, m: tl.perturb(a, m, ["G0"]),
    "tl.signature": lambda a, m: tl.signature(a, m, min_cells=3),
    "model.predict": lambda a, m: m.predict(a),
    "model.get_latent_representation": lambda a, m: m.get_latent_representation(a),
    "model.get_cell_attention": lambda a, m: m.get_cell_attention(a),
}


@pytest.mark.parametrize("verb", ASKS)
def test_whatever_asks_a_model_of_cells_binned_with_all_genes_is_refused(
    verb: str, model: Any
) -> None:
    adata = binned(GENES, edges=model.binning)
    with pytest.raises(
        ValueError,
        match=r"totals of 300 genes, 260 of them not among the model's.*totals of 40 genes",
    ):
        ASKS[verb](adata, model)


def remedied(adata: AnnData, model: Any, error: BaseException) -> AnnData:
    """The object after the remedy of the sentence was run."""
    code = re.search(r"(adata = .*edges=model.binning\))", str(error))
    assert code
    names = {"adata": adata, "model": model, "pp": pp}
    exec(code[1], names)  # noqa: S102
    done: AnnData = names["adata"]
    return done


def test_the_remedy_gives_the_result_of_the_genes_alone(model: Any) -> None:
    adata, right = binned(GENES, edges=model.binning), binned(CHOSEN, edges=model.binning)
    with pytest.raises(ValueError, match="totals") as error:
        tl.predict(adata, model)
    done = remedied(adata, model, error.value)
    tl.predict(done, model)
    tl.predict(right, model)
    pd.testing.assert_frame_equal(done.obsm["scbert_proba"], right.obsm["scbert_proba"])
    assert done.uns["scbert_predict"]["n_genes_missing"] == 0


def test_genes_the_network_does_not_see_are_in_its_totals() -> None:
    model = trained(binned(CHOSEN), exclude_genes=["G3", "G7"])
    tl.predict(binned(CHOSEN, edges=model.binning), model)
    adata = binned(GENES, edges=model.binning)
    with pytest.raises(ValueError, match=r"\[\*model.genes, 'G3', 'G7'\]") as error:
        tl.predict(adata, model)
    tl.predict(remedied(adata, model, error.value), model)


@pytest.mark.parametrize("order", [GENES, GENES[::-1]])
def test_the_command_line_cuts_raw_counts_as_the_models_cells_were(
    order: list[str], tmp_path: Path
) -> None:
    """Also of genes that the network is not shown, and whatever else is in the file."""
    hidden = CHOSEN[:12]  # enough of the totals to move tokens
    model = trained(binned(CHOSEN), exclude_genes=hidden)
    model.save(tmp_path / "model")
    right = binned(CHOSEN, edges=model.binning)
    tl.predict(right, model)
    cells_of_genes(order).write_h5ad(tmp_path / "raw.h5ad")
    out = tmp_path / "out.h5ad"
    words = [
        "predict",
        str(tmp_path / "raw.h5ad"),
        "--model",
        str(tmp_path / "model"),
        "--layer",
        "X",
        "--out",
        str(out),
    ]
    assert main(words) == 0
    found = ad.read_h5ad(out)
    assert found.uns["scbert_predict"]["n_genes_missing"] == 0
    pd.testing.assert_frame_equal(found.obsm["scbert_proba"], right.obsm["scbert_proba"])


def test_the_code_of_a_model_card_too(tmp_path: Path) -> None:
    model = trained(binned(CHOSEN), exclude_genes=CHOSEN[:12])
    model.save(tmp_path / "model")
    model.save_for_hub(tmp_path / "shared")
    code = re.search(r"adata = pp.align_genes.*", (tmp_path / "shared" / "README.md").read_text())
    assert code
    names = {"adata": cells_of_genes(), "model": model, "pp": pp}
    exec(code[0], names)  # noqa: S102
    done: Any = names["adata"]
    pp.bin_expression(done, edges=model.binning)
    right = binned(CHOSEN, edges=model.binning)
    for adata in (done, right):
        tl.predict(adata, model)
    pd.testing.assert_frame_equal(done.obsm["scbert_proba"], right.obsm["scbert_proba"])


def test_a_saved_model_knows(model: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    again = sc_cll.ScBERTClassifier.load(tmp_path / "model")
    with pytest.raises(ValueError, match="totals of 300 genes"):
        tl.predict(binned(GENES, edges=again.binning), again)


@pytest.mark.parametrize("aligned", [False, True])
def test_cells_that_lack_genes_are_right_and_told(
    aligned: bool, model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """An absent gene counts nothing, with its zeros or without."""
    adata = cells_of_genes(CHOSEN[2:])
    if aligned:
        adata = pp.align_genes(adata, CHOSEN)
    adata.obs_names = [f"{aligned}{name}" for name in adata.obs_names]
    pp.bin_expression(adata, edges=model.binning)
    with caplog.at_level(logging.INFO, logger="scbert_cll"):
        tl.predict(adata, model)
    assert adata.uns["scbert_predict"]["n_genes_missing"] == 2
    assert "38 of the model's 40 genes are in the data" in caplog.text


@pytest.mark.parametrize("aligned", [False, True])
def test_many_missing_genes_are_a_warning_and_most_a_refusal(aligned: bool, model: Any) -> None:
    for n, expected in (
        (10, pytest.warns(UserWarning, match="10 of the model's 40 genes are not in adata")),
        (25, pytest.raises(ValueError, match="15 of the model's 40 genes are in adata, expected")),
    ):
        adata = cells_of_genes(CHOSEN[n:])
        if aligned and n == 10:
            adata = pp.align_genes(adata, CHOSEN)
        pp.bin_expression(adata, edges=model.binning)
        with expected:
            tl.predict(adata, model)


def test_genes_chosen_after_binning() -> None:
    """The totals are of all genes, whose names the model does not have."""
    adata = binned(GENES)[:, CHOSEN].copy()
    model = trained(adata)
    tl.predict(adata, model)
    other = cells_of_genes()
    other.var_names = [*GENES[:290], *[f"H{i}" for i in range(10)]]
    pp.bin_expression(other, edges=model.binning)
    with pytest.warns(UserWarning, match="300 genes and the model's training data with 300 others"):
        tl.predict(other, model)
    with pytest.raises(ValueError, match="before genes are chosen"):
        tl.predict(binned(CHOSEN, edges=model.binning), model)


def test_an_older_record_is_a_warning(model: Any) -> None:
    adata = binned(CHOSEN, edges=model.binning)
    for name in ("n_genes", "genes_digest"):
        del adata.uns["binned"]["params"][name]
    with pytest.warns(UserWarning, match="does not say of which genes"):
        tl.predict(adata, model)


def test_alignment_keeps_what_tokens_are_of() -> None:
    """Where all genes stay, under other names, their totals are those of the vocabulary."""
    adata = cells_of_genes(CHOSEN)
    adata.var_names = [f"GRCh38_{gene}" for gene in CHOSEN]
    pp.bin_expression(adata)
    model = trained(binned([*CHOSEN]))
    tl.predict(pp.align_genes(adata, CHOSEN), model)


def _corpora(folder: Path, **build: Any) -> Path:
    cells_of_genes().write_h5ad(folder / "a.h5ad")
    build = {"val_fraction": 0, "obs_columns": ["cd49d"]} | build
    pp.build_corpus([folder / "a.h5ad"], folder / "c.zarr", vocab=GENES, **build)
    return folder / "c.zarr"


def test_a_corpus_of_more_genes_is_refused(model: Any, tmp_path: Path) -> None:
    pytest.importorskip("annbatch")
    corpus = _corpora(tmp_path)
    pretrained = tl.pretrain(
        binned(CHOSEN), network={"n_hidden": 8, "n_heads": 2}, gene_embedding="learned", **FAST
    )
    for call in (
        lambda: tl.predict_corpus(corpus, model, tmp_path / "out.zarr"),
        lambda: tl.finetune(corpus, pretrained, **FAST),
    ):
        with pytest.raises(
            ValueError, match=r"totals of 300 genes.*pp.build_corpus\(…, vocab=list\(model.genes\)"
        ):
            call()
    build: dict[str, Any] = {"vocab": list(model.genes), "edges": model.binning, "val_fraction": 0}
    pp.build_corpus([tmp_path / "a.h5ad"], tmp_path / "d.zarr", **build)
    tl.predict_corpus(tmp_path / "d.zarr", model, tmp_path / "out.zarr")
    assert ad.read_zarr(tmp_path / "out.zarr").uns["scbert_predict"]["n_genes_missing"] == 0


@pytest.mark.parametrize("lacking", [0, 1])
def test_raw_counts_of_a_corpus_are_binned_with_the_models_genes(
    lacking: int, tmp_path: Path
) -> None:
    pytest.importorskip("annbatch")
    model = trained(binned(CHOSEN), exclude_genes=["G3"])
    adata = cells_of_genes(GENES[lacking:])
    right = pp.align_genes(adata, CHOSEN)
    pp.bin_expression(right, edges=model.binning)
    adata.write_h5ad(tmp_path / "a.h5ad")
    build: dict[str, Any] = {"binned": False, "val_fraction": 0, "vocab": adata}
    pp.build_corpus([tmp_path / "a.h5ad"], tmp_path / "c.zarr", **build)
    tl.predict_corpus(tmp_path / "c.zarr", model, tmp_path / "out.zarr")
    found = ad.read_zarr(tmp_path / "out.zarr")
    found.obs_names = [name.split(":")[1] for name in found.obs_names]
    expected = model.predict_parts(right).joined.loc[found.obs_names]
    np.testing.assert_allclose(
        found.obsm["scbert_proba"].to_numpy(), expected.to_numpy(), atol=1e-5
    )
    assert found.uns["scbert_predict"]["n_genes_missing"] == lacking
