"""Verbs on a corpus: train on it, and predict all of its cells."""

from __future__ import annotations

import errno
import json
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scbert_cll as sc_cll
from scbert_cll import _names
from scbert_cll._corpus.predictions import Shard, Store
from scbert_cll._disk.left_overs import InUseError, only_writer
from scbert_cll.model import CorpusData, ScBERT, ScBERTClassifier

pytest.importorskip("annbatch")

TINY = {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
SMALL = {"n_hidden": 16, "n_heads": 2}
GENES = [f"G{i}" for i in range(40)]
KINDS = ("B", "T/NK")


def counts(donor: int, n: int = 60) -> AnnData:
    """Cells of a donor, of two kinds that differ in five genes."""
    rng = np.random.default_rng(donor)
    kind = rng.integers(0, 2, n)
    mean = np.full((n, 40), 0.5)
    mean[:, :5] = np.where(kind, 4, 0.2)[:, None]
    obs = pd.DataFrame({"donor": f"d{donor}", "kind": np.array(KINDS)[kind], "age": 50.0 + donor})
    obs["batch"] = np.where(rng.random(n) < 0.2, None, "x").astype(object)
    obs.index = [f"c{i}" for i in range(n)]
    matrix = sparse.csr_matrix(rng.poisson(mean).astype(np.float32))
    return AnnData(matrix, obs=obs, var=pd.DataFrame(index=GENES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """300 cells of five donors in a corpus, one donor held out."""
    folder = tmp_path_factory.mktemp("corpus")
    for donor in range(5):
        counts(donor).write_h5ad(folder / f"{donor}.h5ad")
    asked = {"vocab": GENES, "obs_columns": ["kind", "age", "batch"], "val_donors": ["d4"]}
    sc_cll.pp.build_corpus(sorted(folder.glob("*.h5ad")), folder / "corpus.zarr", **asked)
    return folder


@pytest.fixture(scope="module")
def corpus(folder):
    return folder / "corpus.zarr"


@pytest.fixture(scope="module")
def pretrained(corpus):
    return sc_cll.tl.pretrain(corpus, **TINY, network=SMALL)


@pytest.fixture(scope="module")
def classifier(corpus, pretrained):
    return sc_cll.tl.finetune(corpus, pretrained, labels_key="kind", **TINY | {"max_epochs": 6})


# -- training
# --------------------------------------------------------------------------------------------------


def test_pretraining_on_a_corpus_gives_the_model_that_training_by_hand_gives(corpus, pretrained):
    data = CorpusData(corpus)
    by_hand = ScBERT.from_corpus(data, **SMALL)
    by_hand.train(datamodule=data, batch_size=32, **TINY)
    assert pretrained.config.gene_embedding == "learned"
    assert pretrained.history["validation_loss"].equals(by_hand.history["validation_loss"])


def test_a_corpus_that_is_open_is_read_as_it_was_opened(corpus):
    data = CorpusData(corpus, balance=["kind"], chunk_size=16, preload_nchunks=2)
    model = sc_cll.tl.pretrain(data, **TINY, network=SMALL, exclude_genes=["G0"])
    assert "G0" not in model.genes
    with pytest.raises(ValueError, match="'balance' belong in CorpusData"):
        sc_cll.tl.pretrain(data, **TINY, balance=["kind"])
    with pytest.raises(ValueError, match="'num_workers' belong in CorpusData"):
        sc_cll.tl.finetune(data, **TINY, labels_key="kind", num_workers=2)


def test_gene_vectors_are_taken(corpus):
    vectors = pd.DataFrame(np.eye(40, 16, dtype=np.float32), index=GENES)
    model = sc_cll.tl.pretrain(corpus, **TINY, gene_vectors=vectors, network=SMALL)
    assert model.config.gene_embedding == "gene2vec"
    with pytest.raises(KeyError, match=r"gene2vec.*needs gene_vectors="):
        sc_cll.tl.pretrain(corpus, **TINY, gene_embedding="gene2vec")


def test_finetuning_learns_the_classes(corpus, classifier):
    sample = CorpusData(corpus).sample(60, part="val")
    assert classifier.combine == "average"
    assert (classifier.predict(sample).to_numpy() == sample.obs["kind"].to_numpy()).mean() > 0.9


def test_finetuning_from_scratch_and_balanced(corpus):
    options = {
        "balance": ("kind", "donor"),
        "exclude_genes": ["G39"],
        "combine": "none",
        "network": SMALL,
    }
    model = sc_cll.tl.finetune(corpus, labels_key="kind", **TINY, **options)
    assert model.classes == list(KINDS)
    assert len(model.genes) == 39
    with pytest.raises(
        KeyError, match=r"'cd49d' is not in the obs columns of .*obs_columns= of pp.build_corpus"
    ):
        sc_cll.tl.finetune(corpus, **TINY)


def test_a_training_that_is_called_again_goes_on_to_the_same_weights(corpus, tmp_path):
    options = {"checkpoint_dir": tmp_path / "run", "checkpoint_steps": 2, "network": SMALL}
    first = sc_cll.tl.pretrain(corpus, **TINY, **options)
    again = sc_cll.tl.pretrain(corpus, **TINY, **options)
    assert next(tmp_path.glob("run/step_*.ckpt"))
    weights = again.module.state_dict()
    assert all(
        (weights[name] == tensor).all() for name, tensor in first.module.state_dict().items()
    )


@pytest.mark.parametrize(
    ("options", "named"),
    [({"layer": "tokens"}, "'layer'"), ({"split_key": "part"}, "'split_key'")],
)
def test_what_only_cells_in_memory_have_is_refused(corpus, options, named):
    for verb in (sc_cll.tl.pretrain, sc_cll.tl.finetune):
        with pytest.raises(ValueError, match=f"{named} belong to cells in memory"):
            verb(corpus, **options)


@pytest.mark.parametrize("name", ["weight_key", "donor_key", "protein_key"])
def test_columns_of_cells_in_memory_are_refused(corpus, name):
    with pytest.raises(ValueError, match=f"'{name}' belong to cells in memory"):
        sc_cll.tl.finetune(corpus, **{name: "age"})


def test_what_only_a_corpus_has_is_refused_for_cells_in_memory():
    adata = counts(0)
    with pytest.raises(ValueError, match=r"'balance' are for a corpus on disk.*pp\.balance"):
        sc_cll.tl.finetune(adata, balance=["kind"])
    with pytest.raises(ValueError, match="'gene_vectors', 'num_workers' are for a corpus"):
        sc_cll.tl.pretrain(adata, gene_vectors=pd.DataFrame(), num_workers=1)


def test_what_is_no_corpus_is_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no corpus"):
        sc_cll.tl.pretrain(tmp_path)
    with pytest.raises(ValueError, match=r"0\.h5ad is a file of cells; read it"):
        sc_cll.tl.pretrain(folder / "0.h5ad")
    with pytest.raises(TypeError, match="Expected an AnnData, found list"):
        sc_cll.tl.pretrain([1])


# -- predicting
# --------------------------------------------------------------------------------------------------


def opened(corpus, **reading):
    """The corpus in windows of 64 cells: five of them, one over the border of two parts."""
    return CorpusData(corpus, chunk_size=16, preload_nchunks=4, **reading)


@pytest.fixture(scope="module")
def predicted(corpus, classifier, folder):
    sc_cll.tl.predict_corpus(opened(corpus), classifier, folder / "cells.zarr", groupby="kind")
    return ad.read_zarr(folder / "cells.zarr")


@pytest.fixture(scope="module")
def in_memory(corpus, classifier):
    """The same cells, through the verbs for cells in memory."""
    data = CorpusData(corpus)
    parts = [
        data.cells(part, np.arange(data.corpus.n_cells(part)), obs=True)
        for part in ("train", "val")
    ]
    adata = ad.concat(parts)
    adata.uns["binned"] = parts[0].uns["binned"]
    sc_cll.tl.predict(adata, classifier)
    sc_cll.tl.gene_attention(adata, classifier, groupby="kind")
    return adata


def files(folder):
    """Every file and its bytes."""
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def test_predictions_are_those_of_the_same_cells_in_memory(predicted, in_memory):
    assert list(predicted.obs_names) == list(in_memory.obs_names)
    assert predicted.X is None
    for name in ("donor", "kind", "age", "batch", "scbert_pred"):
        assert predicted.obs[name].astype(object).equals(in_memory.obs[name].astype(object)), name
    assert list(predicted.obs["part"].value_counts()) == [240, 60]
    assert set(predicted.obs["source"]) == {f"{donor}.h5ad" for donor in range(5)}
    assert list(predicted.obs["scbert_pred"].cat.categories) == list(KINDS)
    np.testing.assert_allclose(
        predicted.obs["scbert_score"], in_memory.obs["scbert_score"], atol=1e-6
    )
    np.testing.assert_allclose(predicted.obsm["X_scbert"], in_memory.obsm["X_scbert"], atol=1e-6)
    for table in ("scbert_proba", "linear_proba"):
        assert [_names.own(key) for key in predicted.obsm[table].columns] == list(KINDS)
        assert set(predicted.obsm[table].dtypes) == {np.dtype("float32")}
        pd.testing.assert_frame_equal(
            predicted.obsm[table], in_memory.obsm[table], atol=1e-6, check_names=False
        )


def test_attention_of_groups_is_that_of_the_same_cells_in_memory(predicted, in_memory):
    found, expected = predicted.varm["gene_attention"], in_memory.varm["gene_attention"]
    pd.testing.assert_frame_equal(found, expected, atol=1e-6)
    np.testing.assert_allclose(found.sum(), 1)
    record, other = predicted.uns["gene_attention"], in_memory.uns["gene_attention"]
    assert record["n_cells"] == other["n_cells"]
    np.testing.assert_allclose(record["attention_floor"], other["attention_floor"], atol=1e-6)
    assert len(sc_cll.get.gene_attention(predicted)) > 0


def test_scanpy_goes_on_from_there(predicted):
    import scanpy as sc

    adata = predicted.copy()
    sc.pp.neighbors(adata, use_rep="X_scbert", n_neighbors=5)
    assert adata.obsp["connectivities"].shape == (300, 300)
    assert sc_cll.get.predictions(adata).shape[0] == 300


def test_batch_size_and_windows_do_not_matter(corpus, classifier, predicted, tmp_path):
    data = CorpusData(corpus, chunk_size=7, preload_nchunks=3)
    sc_cll.tl.predict_corpus(data, classifier, tmp_path / "a.zarr", groupby="kind", batch_size=5)
    same_results(ad.read_zarr(tmp_path / "a.zarr"), predicted)


def same_results(found, expected):
    pd.testing.assert_frame_equal(found.obs, expected.obs, atol=1e-6)
    np.testing.assert_allclose(found.obsm["X_scbert"], expected.obsm["X_scbert"], atol=1e-6)
    for table in ("scbert_proba", "linear_proba"):
        pd.testing.assert_frame_equal(found.obsm[table], expected.obsm[table], atol=1e-6)
    pd.testing.assert_frame_equal(
        found.varm["gene_attention"], expected.varm["gene_attention"], atol=1e-6
    )


def test_a_pretrained_model_embeds(corpus, pretrained, tmp_path):
    sc_cll.tl.predict_corpus(corpus, pretrained, tmp_path / "a.zarr", parts="val", groupby="donor")
    adata = ad.read_zarr(tmp_path / "a.zarr")
    assert adata.shape == (60, 40)
    assert list(adata.obsm) == ["X_scbert"]
    assert list(adata.varm["gene_attention"]) == ["d4"]
    assert "scbert_pred" not in adata.obs


def test_a_cell_can_be_unassigned(corpus, classifier, predicted, tmp_path):
    sc_cll.tl.predict_corpus(corpus, classifier, tmp_path / "a.zarr", unassigned_below=0.999)
    adata = ad.read_zarr(tmp_path / "a.zarr")
    left = adata.obs["scbert_pred"] == "unassigned"
    assert (left == (predicted.obs["scbert_score"] < 0.999)).all()
    assert 0 < left.sum() < 300
    assert adata.uns["scbert_predict"]["params"]["unassigned_below"] == 0.999


def test_a_model_from_elsewhere_finds_its_genes_by_name(folder, classifier, predicted, tmp_path):
    other = [*reversed(GENES), "NEW1", "NEW2"]
    paths = sorted(folder.glob("*.h5ad"))
    sc_cll.pp.build_corpus(
        paths, tmp_path / "raw.zarr", vocab=other, obs_columns=["kind"], binned=False, min_matched=0
    )
    sc_cll.tl.predict_corpus(tmp_path / "raw.zarr", classifier, tmp_path / "a.zarr", groupby="kind")
    adata = ad.read_zarr(tmp_path / "a.zarr")[predicted.obs_names]
    np.testing.assert_allclose(adata.obsm["X_scbert"], predicted.obsm["X_scbert"], atol=1e-6)
    assert list(adata.var_names) == other
    assert (adata.varm["gene_attention"].loc[["NEW1", "NEW2"]] == 0).all(axis=None)
    attention = adata.varm["gene_attention"].loc[GENES]
    np.testing.assert_allclose(attention, predicted.varm["gene_attention"], atol=1e-6)


def test_cells_without_a_token_have_no_prediction_and_are_counted(corpus, folder, tmp_path):
    few = sc_cll.tl.finetune(
        corpus, labels_key="kind", **TINY, exclude_genes=GENES[5:], network=SMALL
    )
    with pytest.warns(
        UserWarning, match=r"\d+ of 300 cells have no gene above bin 0 among the model's genes"
    ):
        sc_cll.tl.predict_corpus(opened(corpus), few, tmp_path / "a.zarr", groupby="donor")
    adata = ad.read_zarr(tmp_path / "a.zarr")
    empty = np.isnan(adata.obsm["X_scbert"]).all(axis=1)
    assert 0 < empty.sum() == adata.uns["scbert_predict"]["n_without_token"]
    assert adata.obs["scbert_pred"].isna().equals(adata.obs["scbert_score"].isna())
    assert (adata.obs["scbert_pred"].isna() == empty).all()
    assert not np.isnan(adata.obsm["scbert_proba"].to_numpy()[~empty]).any()
    assert sum(adata.uns["gene_attention"]["n_cells"].values()) == (~empty).sum()


# -- predicting: interrupted, in shares, refused
# ------------------------------------------------------------------------


class StopError(Exception):
    """An interruption."""


def cut_short(monkeypatch, corpus, model, out, *, after, error=StopError, **options):
    """Predict until some windows are done."""
    write, done = Store.write, []

    def counted(self, row, values):
        if "obsm/X_scbert" in values:
            done.append(row)
            if len(done) > after:
                raise error
        write(self, row, values)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", counted)
        with pytest.raises(type(error) if isinstance(error, Exception) else error) as raised:
            sc_cll.tl.predict_corpus(opened(corpus), model, out, **options)
    return raised.value


@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_call_that_was_cut_short_goes_on_to_the_same_bytes(
    corpus, classifier, folder, predicted, tmp_path, monkeypatch, after
):
    out = tmp_path / "a.zarr"
    cut_short(monkeypatch, corpus, classifier, out, after=after, groupby="kind")
    assert not out.exists()
    first = len(json.loads(p.read_text())["done"] * "w") if (p := progress(out)).exists() else 0
    seen = []
    read = CorpusData.cells
    monkeypatch.setattr(
        CorpusData, "cells", lambda *a, **k: seen.append(len(a[2])) or read(*a, **k)
    )
    sc_cll.tl.predict_corpus(opened(corpus), classifier, out, groupby="kind")
    assert files(out) == files(folder / "cells.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]
    assert (
        sum(seen) - 64 - 256 == 300 - 64 * first
    )  # 64 to look at first, 256 for the floor of the attention


def progress(out):
    return out.with_name(f"{out.name}.writing") / "share_0" / "progress.json"


SCRIPT = """
import sys
from scbert_cll import ScBERTClassifier, tl
from scbert_cll.model import CorpusData
corpus, model, out, number, of = sys.argv[1:]
data = CorpusData(corpus, chunk_size=16, preload_nchunks=4)
classifier = ScBERTClassifier.load(model, accelerator="cpu")
tl.predict_corpus(data, classifier, out, groupby="kind", shard=(int(number), int(of)))
"""


def process(corpus, saved, out, number=0, of=1):
    """Predict a share in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, (corpus, saved, out, number, of))]
    )


@pytest.fixture(scope="module")
def saved(classifier, folder):
    classifier.save(folder / "model")
    return folder / "model"


@pytest.mark.slow  # starts three processes
def test_a_process_that_was_killed_goes_on_to_the_same_bytes(
    corpus, classifier, saved, folder, predicted, tmp_path
):
    out = tmp_path / "a.zarr"
    with process(corpus, saved, out) as running:
        while not progress(out).exists() and not out.exists():
            time.sleep(0.002)
        running.kill()
    assert running.returncode == -signal.SIGKILL, "it was killed before it had ended"
    assert not out.exists()
    sc_cll.tl.predict_corpus(opened(corpus), classifier, out, groupby="kind")
    assert files(out) == files(folder / "cells.zarr")


@pytest.mark.slow  # starts two processes
def test_two_processes_at_once_share_the_cells(corpus, saved, folder, predicted, tmp_path):
    out = tmp_path / "a.zarr"
    with process(corpus, saved, out, 0, 2) as one, process(corpus, saved, out, 1, 2) as other:
        assert (one.wait(), other.wait()) == (0, 0)
    same_results(ad.read_zarr(out), predicted)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]
    assert files(out).keys() == files(folder / "cells.zarr").keys()


def test_shares_one_after_the_other_some_of_them_without_a_window(
    corpus, classifier, predicted, tmp_path
):
    out = tmp_path / "a.zarr"
    for number in (6, 5, 4, 0, 3, 2):
        sc_cll.tl.predict_corpus(opened(corpus), classifier, out, groupby="kind", shard=(number, 7))
        assert not out.exists()
    with pytest.raises(ValueError, match=r"begun differently: shares \(was 7, now 5\)"):
        sc_cll.tl.predict_corpus(opened(corpus), classifier, out, groupby="kind", shard=(1, 5))
    sc_cll.tl.predict_corpus(opened(corpus), classifier, out, groupby="kind", shard=(1, 7))
    same_results(ad.read_zarr(out), predicted)


def test_another_corpus_model_or_question_is_refused_by_name(
    corpus, classifier, pretrained, folder, tmp_path, monkeypatch
):
    out = tmp_path / "a.zarr"
    cut_short(monkeypatch, corpus, classifier, out, after=2)
    paths = [folder / "0.h5ad", folder / "4.h5ad"]
    sc_cll.pp.build_corpus(paths, tmp_path / "b.zarr", vocab=GENES, obs_columns=["kind"])
    for (data, model, options), named in {
        (tmp_path / "b.zarr", classifier, ()): "corpus",
        (corpus, pretrained, ()): "model",
        (corpus, classifier, (("groupby", "kind"),)): "groupby",
        (corpus, classifier, (("parts", ("val",)),)): "parts",
        (corpus, classifier, (("unassigned_below", 0.5),)): "unassigned_below",
    }.items():
        with pytest.raises(
            ValueError, match=rf"a\.zarr\.writing holds .* begun differently: {named} \(was"
        ):
            sc_cll.tl.predict_corpus(opened(data), model, out, **dict(options))
    sc_cll.tl.predict_corpus(opened(corpus), classifier, out)
    assert ad.read_zarr(out).n_obs == 300


def test_a_full_disk_is_said_and_gone_on_from(
    corpus, classifier, folder, predicted, tmp_path, monkeypatch
):
    out = tmp_path / "a.zarr"
    full = OSError(errno.ENOSPC, "No space left on device")
    error = cut_short(monkeypatch, corpus, classifier, out, after=3, error=full, groupby="kind")
    sentence = r"The disk is full; about \d+(\.\d+)? kB more.*call tl\.predict_corpus the same way"
    assert re.search(sentence, str(error))
    sc_cll.tl.predict_corpus(opened(corpus), classifier, out, groupby="kind")
    assert files(out) == files(folder / "cells.zarr")


def test_one_process_does_a_share(corpus, classifier, tmp_path, monkeypatch):
    out = tmp_path / "a.zarr"
    cut_short(monkeypatch, corpus, classifier, out, after=1)
    with (
        only_writer(progress(out).parent, "the predictions"),
        pytest.raises(InUseError, match=r"share_0 is being written"),
    ):
        sc_cll.tl.predict_corpus(opened(corpus), classifier, out)


def test_what_exists_is_left_alone(corpus, classifier, tmp_path):
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(FileExistsError, match=r"a\.zarr exists; delete it"):
        sc_cll.tl.predict_corpus(corpus, classifier, tmp_path / "a.zarr")


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (
            {"groupby": "cd49d"},
            KeyError,
            r"groupby='cd49d' is no obs column of the corpus.*obs_columns=",
        ),
        (
            {"parts": ["test"]},
            ValueError,
            r"parts must name some of 'train', 'val', each once; found 'test'",
        ),
        ({"parts": ["val", "val"]}, ValueError, "each once; found 'val', 'val'"),
        ({"parts": []}, ValueError, "found none"),
        ({"unassigned_below": 2}, ValueError, "unassigned_below must be a number from 0 to 1"),
        ({"batch_size": 0}, ValueError, "batch_size must be a whole number from 1"),
        ({"shard": (2, 2)}, ValueError, r"shard must be \(i, n\).*found \(2, 2\)"),
        ({"shard": 1}, ValueError, r"shard must be \(i, n\).*found 1"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    corpus, classifier, tmp_path, options, error, match
):
    with pytest.raises(error, match=match):
        sc_cll.tl.predict_corpus(corpus, classifier, tmp_path / "a.zarr", **options)
    assert not list(tmp_path.iterdir())


def test_models_that_do_not_fit_are_refused_before_anything_is_written(
    corpus, pretrained, folder, tmp_path
):
    out = tmp_path / "out" / "a.zarr"
    data = CorpusData(corpus)
    raw = ScBERTClassifier.from_pretrained(pretrained, data, labels_key="kind")
    with pytest.raises(RuntimeError, match="has not been trained"):
        sc_cll.tl.predict_corpus(corpus, raw, out)
    with pytest.raises(ValueError, match="unassigned_below is for a ScBERTClassifier"):
        sc_cll.tl.predict_corpus(corpus, pretrained, out, unassigned_below=0.5)
    with pytest.raises(TypeError, match="Expected a model"):
        sc_cll.tl.predict_corpus(corpus, "model", out)
    asked = {
        "vocab": [*GENES[:10], *(f"H{i}" for i in range(30))],
        "min_matched": 0,
        "val_fraction": 0,
    }
    sc_cll.pp.build_corpus([folder / "0.h5ad"], tmp_path / "few.zarr", **asked)
    with pytest.raises(ValueError, match=r"10 of the model's 40 genes.*pp.build_corpus"):
        sc_cll.tl.predict_corpus(tmp_path / "few.zarr", pretrained, out)
    with pytest.raises(ValueError, match="The corpus has no cell in 'val'"):
        sc_cll.tl.predict_corpus(tmp_path / "few.zarr", pretrained, out, parts="val")
    sc_cll.pp.build_corpus(
        [folder / "0.h5ad"], tmp_path / "cut.zarr", vocab=GENES, method="quantile", val_fraction=0
    )
    with pytest.raises(ValueError, match="binned differently"):
        sc_cll.tl.predict_corpus(tmp_path / "cut.zarr", pretrained, out)
    assert not out.parent.exists()


def test_columns_that_would_be_replaced_are_refused(folder, pretrained, tmp_path):
    adata = ad.read_h5ad(folder / "0.h5ad")
    adata.obs["scbert_pred"] = "B"
    adata.write_h5ad(tmp_path / "0.h5ad")
    asked = {"vocab": GENES, "val_fraction": 0, "obs_columns": ["scbert_pred"]}
    sc_cll.pp.build_corpus([tmp_path / "0.h5ad"], tmp_path / "b.zarr", **asked)
    with pytest.raises(
        ValueError, match="has obs columns 'scbert_pred', which predictions would replace"
    ):
        sc_cll.tl.predict_corpus(tmp_path / "b.zarr", pretrained, tmp_path / "a.zarr")


def test_no_more_than_a_window_is_held(corpus, pretrained, tmp_path, monkeypatch):
    """Memory does not grow with the cells: what is read and written at once is a window, or the
    `obs` of a dataset.
    """
    read, written = [], []
    cells, write = CorpusData.cells, Store.write
    monkeypatch.setattr(
        CorpusData,
        "cells",
        lambda self, part, rows, **kw: read.append(rows) or cells(self, part, rows),
    )
    monkeypatch.setattr(
        Store, "write", lambda self, row, found: written.append(found) or write(self, row, found)
    )
    data = CorpusData(corpus, chunk_size=10, preload_nchunks=3)
    sc_cll.tl.predict_corpus(data, pretrained, tmp_path / "a.zarr")
    assert max(len(rows) for rows in read[1:]) == 30  # the first are looked at before
    assert sum(len(rows) for rows in read[1:]) == 300
    results = [found["obsm/X_scbert"] for found in written if "obsm/X_scbert" in found]
    assert max(len(found) for found in results) == 30
    largest = max(
        dataset["n_cells"] for part in ("train", "val") for dataset in data.corpus.datasets(part)
    )
    assert max(len(column) for found in written for column in found.values()) == largest


def resident() -> int:
    """Bytes of memory that this process holds."""
    line = next(
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmRSS")
    )
    return 1024 * int(line.split()[1])


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other allocators give memory back on their own"
)
def test_freed_memory_is_given_back_after_a_window(corpus, pretrained, tmp_path, monkeypatch):
    """Pieces between others in use stay with the process unless it hands them back."""
    original, kept = pretrained.get_latent_representation, []

    def scattered(*args, **kwargs):
        blocks = [
            np.ones(8_000) for _ in range(4_000)
        ]  # 256 MB, in pieces that are no mappings of their own
        kept.append(blocks[-1])
        return original(*args, **kwargs)

    monkeypatch.setattr(pretrained, "get_latent_representation", scattered)
    before = resident()
    sc_cll.tl.predict_corpus(corpus, pretrained, tmp_path / "cells.zarr")
    assert kept
    assert resident() - before < 100e6


def test_a_share_without_windows_is_not_done_before_its_job_began(tmp_path):
    share = Shard(tmp_path, 3, 5, 2, "a call")
    assert share.windows == []
    assert not share.is_done
    share.note()
    assert share.is_done
    assert Shard(tmp_path, 3, 5, 2, "a call").is_done
    assert not Shard(tmp_path, 3, 5, 2, "another call").is_done


def test_where_the_store_is_laid_anew_every_share_begins_anew(
    corpus, classifier, folder, predicted, tmp_path, monkeypatch
):
    out = tmp_path / "a.zarr"
    cut_short(monkeypatch, corpus, classifier, out, after=2, groupby="kind")
    assert progress(out).exists()
    shutil.rmtree(out.with_name("a.zarr.writing") / "store")
    seen = []
    write = Store.write

    def noting(self, row, values):
        seen.extend([row] if "obsm/X_scbert" in values else [])
        write(self, row, values)

    monkeypatch.setattr(Store, "write", noting)
    sc_cll.tl.predict_corpus(opened(corpus), classifier, out, groupby="kind")
    assert seen == [0, 64, 128, 192, 240, 256], (
        "each window once, in their order; one of them has cells of both parts"
    )
    assert files(out) == files(folder / "cells.zarr")
