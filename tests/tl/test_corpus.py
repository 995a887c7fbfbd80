"""Verbs on a corpus: train on it, and predict all of its cells."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scbert_cll as sc_cll
from scbert_cll.model import CorpusData, ScBERT

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


# -- training ---------------------------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match="'balance' belong into CorpusData"):
        sc_cll.tl.pretrain(data, **TINY, balance=["kind"])
    with pytest.raises(ValueError, match="'num_workers' belong into CorpusData"):
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
    options = {"balance": ("kind", "donor"), "exclude_genes": ["G39"], "combine": "none", "network": SMALL}
    model = sc_cll.tl.finetune(corpus, labels_key="kind", **TINY, **options)
    assert model.classes == list(KINDS)
    assert len(model.genes) == 39
    with pytest.raises(KeyError, match="'cd49d' is not in the obs columns of .*obs_columns= of pp.build_corpus"):
        sc_cll.tl.finetune(corpus, **TINY)


def test_a_training_that_is_called_again_goes_on_to_the_same_weights(corpus, tmp_path):
    options = {"checkpoint_dir": tmp_path / "run", "checkpoint_steps": 2, "network": SMALL}
    first = sc_cll.tl.pretrain(corpus, **TINY, **options)
    again = sc_cll.tl.pretrain(corpus, **TINY, **options)
    assert next(tmp_path.glob("run/step_*.ckpt"))
    weights = again.module.state_dict()
    assert all((weights[name] == tensor).all() for name, tensor in first.module.state_dict().items())


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
