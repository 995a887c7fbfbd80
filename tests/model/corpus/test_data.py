"""Training and inference on a corpus: the same tokens as in memory, every cell once, whatever reads
ahead.
"""

from __future__ import annotations

import multiprocessing
import shutil

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

from scbert_cll import pp
from scbert_cll.model import CorpusData, ScBERT, ScBERTClassifier
from scbert_cll.model.training.batches import TokenRows, gene_order
from scbert_cll.nn import Config

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
TINY = {"n_hidden": 16, "n_heads": 2}
SMALL = {"chunk_size": 16, "preload_nchunks": 3}


@pytest.fixture
def data(corpus):
    """The corpus, in small windows."""
    return CorpusData(corpus, **SMALL)


@pytest.fixture(scope="module")
def in_memory(corpus):
    """The same cells, binned in memory, by the name they have in the corpus."""
    parts = []
    for number in range(3):
        adata = ad.read_h5ad(corpus.parent / f"{number}.h5ad")
        adata.obs_names = [f"{number}:{name}" for name in adata.obs_names]
        parts.append(adata)
    both = ad.concat(parts)
    pp.bin_expression(both, target_sum=300)
    return both


@pytest.fixture(scope="module")
def trained(corpus):
    """A model that was pretrained on the corpus; not to be changed."""
    data = CorpusData(corpus, **SMALL)
    model = ScBERT.from_corpus(data, **TINY)
    model.train(2, datamodule=data, **QUIET)
    return model


def _config(data, **choices) -> Config:
    return Config(n_genes=len(data.genes), n_bins=5, n_classes=0, n_hidden=8, n_heads=2, **choices)


def _epoch(data, epoch=0, *, start=0):
    loader = data.train_dataloader()
    loader.set_epoch(epoch)
    loader.load_state_dict({"done": start})
    return [data.on_after_batch_transfer(batch, 0) for batch in loader]


def _same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a["rows"], b["rows"])
        for x, y in zip(a["cells"], b["cells"], strict=True):
            assert x.keys() == y.keys()
            for name in x:
                torch.testing.assert_close(x[name], y[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    "mode",
    [{"tokens": "expressed"}, {"tokens": "background", "n_background": 9}, {"tokens": "all"}],
)
def test_tokens_are_those_of_the_same_cells_in_memory(data, in_memory, mode):
    config = _config(data, **mode)
    data.attach(data.genes, config, seed=3)
    tokens = in_memory[data.names("train")].layers["binned"]
    rows = TokenRows(tokens, config, seed=3)
    batches = _epoch(data, 1)
    seen = torch.cat([batch["rows"] for batch in batches]).numpy()
    np.testing.assert_array_equal(np.sort(seen), np.arange(data.n_train))
    for batch in batches:
        in_memory = torch.zeros(len(batch["rows"]), config.n_genes, dtype=torch.long)
        begin = 0
        for part in batch["cells"]:
            for i, row in enumerate(part["tokens"]):
                genes = part["genes"][i] if "genes" in part else torch.arange(len(row))
                known = (row > 0) & (genes < config.n_genes)
                in_memory[begin + i, genes[known]] = row[known]
            begin += len(part["tokens"])
        np.testing.assert_array_equal(in_memory.numpy(), rows.csr[batch["rows"].numpy()].toarray())


def test_the_background_of_an_epoch_is_that_of_memory(data):
    config = _config(data, tokens="background", n_background=9)
    data.attach(data.genes, config, seed=3)
    batch = _epoch(data, 2)[0]
    order = gene_order(config, 3, 2)
    part = batch["cells"][0]
    tokens, genes = part["tokens"][0], part["genes"][0]
    expressed = genes[tokens > 0]
    sample = [int(g) for g in order if g not in expressed][:9]
    assert [int(g) for g in genes[len(expressed) : len(expressed) + 9]] == sample


def test_workers_change_nothing(corpus, data):
    data.attach(data.genes, _config(data), seed=0)
    ahead = CorpusData(corpus, **SMALL, num_workers=2)
    ahead.attach(data.genes, _config(data), seed=0)
    ahead.rehearsal()  # the files are open already when the workers start
    _same(_epoch(data), _epoch(ahead))


def test_an_epoch_goes_on_in_the_middle(data):
    data.attach(data.genes, _config(data), seed=0)
    whole = _epoch(data)
    for start in (0, 1, len(whole) // 2, len(whole)):
        _same(_epoch(data, start=start), whole[start:])


def test_validation_is_on_donors_that_were_held_out_and_always_in_the_same_order(data, corpus):
    data.attach(data.genes, _config(data), seed=0)
    rows = [torch.cat([batch["rows"] for batch in data.val_dataloader()]) for _ in range(2)]
    torch.testing.assert_close(*rows)
    assert sorted(rows[0].tolist()) == list(range(data.n_val))
    donors = [set(data.obs(part, "donor")) for part in ("train", "val")]
    assert not donors[0] & donors[1]
    assert len(donors[1]) >= 1


def test_balance_draws_classes_and_donors_equally(corpus):
    data = CorpusData(corpus, chunk_size=64, preload_nchunks=8, balance=["label", "donor"])
    model = ScBERTClassifier.from_corpus(data, labels_key="label", **TINY)
    data.attach(model.genes, model.config, seed=0, labels_key="label", classes=model.classes)
    drawn = np.concatenate(
        [torch.cat([b["rows"] for b in _epoch(data, epoch)]).numpy() for epoch in range(20)]
    )
    table = pd.DataFrame(
        {name: data.obs("train", name).astype(str).to_numpy()[drawn] for name in ("label", "donor")}
    )
    shares = table.value_counts(normalize=True)
    assert len(shares) == 2 * data.obs("train", "donor").nunique()
    np.testing.assert_allclose(shares, 1 / len(shares), atol=0.025)


def test_a_pretrained_model_embeds_windows_as_it_embeds_the_same_cells(data, in_memory, trained):
    expected = trained.get_latent_representation(in_memory[data.names("train")])
    found = [
        trained.get_latent_representation(window.adata)
        for window in data.inference_dataloader(["train"])
    ]
    np.testing.assert_allclose(np.concatenate(found), expected, atol=1e-6)
    assert trained.history["validation_loss"].iloc[:, 0].is_monotonic_decreasing


def test_a_classifier_learns_from_a_corpus_and_ignores_cells_without_a_label(
    data, trained, in_memory
):
    model = ScBERTClassifier.from_pretrained(trained, data, labels_key="label")
    model.train(8, datamodule=data, combine="average", lr=1e-2, **QUIET)
    assert data.n_train == data.obs("train", "label").notna().sum()
    labelled = in_memory[in_memory.obs["label"].notna()]
    assert (model.predict(labelled).to_numpy() == labelled.obs["label"].to_numpy()).mean() > 0.85
    assert model.predict_parts(labelled).linear is not None


def test_excluded_genes_are_not_seen(data, trained):
    model = ScBERT.from_corpus(data, exclude_genes=["G3", "G5"], **TINY)
    data.attach(model.genes, model.config, seed=0)
    kept = [g for g in data.genes if g not in ("G3", "G5")]
    assert list(model.genes) == kept
    whole = data.cells("train", np.arange(5))[:, kept].layers["binned"].toarray()
    np.testing.assert_array_equal(data.tokens("train", np.arange(5)).toarray(), whole)


def test_a_corpus_of_raw_counts_is_binned_as_it_is_read(tmp_path, data, in_memory, corpus):
    out = tmp_path / "raw.zarr"
    paths = [corpus.parent / f"{number}.h5ad" for number in range(3)]
    pp.build_corpus(paths, out, vocab=list(data.genes), binned=False, val_fraction=0)
    raw = CorpusData(out, binning=in_memory.uns["binned"], **SMALL)
    window = next(raw.inference_dataloader())
    expected = in_memory[raw.names("train")[: window.adata.n_obs]].layers["binned"].toarray()
    np.testing.assert_array_equal(window.adata.layers["binned"].toarray(), expected)
    assert (len(raw.names("val")), raw.names("val").dtype) == (0, object)


def test_a_sample_comes_with_all_columns(data):
    sample = data.sample(20, rng=1)
    assert isinstance(sample, AnnData)
    assert sample.shape == (20, len(data.genes))
    assert {"donor", "label"} <= set(sample.obs)


def test_gene_vectors_of_a_sample_start_the_network(data):
    vectors = pd.DataFrame(
        np.random.default_rng(0).normal(size=(len(data.genes), 16)), index=data.genes
    )
    one, other = (ScBERT.from_corpus(data, gene_vectors=vectors * k, **TINY) for k in (1, -1))
    weights = [model.module.gene_embedding.weight.detach() for model in (one, other)]
    assert one.config.gene_embedding == "gene2vec"
    assert not torch.equal(*weights)
    with pytest.raises(KeyError, match="gene_vectors lacks 1 of 60 genes of the model: 'G7'"):
        ScBERT.from_corpus(data, gene_vectors=vectors.drop("G7"), **TINY)
    with pytest.raises(KeyError, match=r"needs gene_vectors= where cells are read from a corpus"):
        ScBERT.from_corpus(data, gene_embedding="gene2vec", **TINY)


def test_what_does_not_fit_a_corpus_is_refused(data, trained, corpus, in_memory):
    with pytest.raises(
        KeyError, match=r"'celltype' is not in the obs columns of .*'donor', 'label'"
    ):
        CorpusData(corpus, balance="celltype").weights("train")
    with pytest.raises(TypeError, match="datamodule must be a CorpusData, found str"):
        trained.train(1, datamodule="corpus.zarr")
    with pytest.raises(
        FileNotFoundError, match=r"There is no corpus .*nowhere: it has no manifest\.json"
    ):
        CorpusData(corpus.parent / "nowhere")
    other = CorpusData(corpus)
    other.binning["params"]["target_sum"] = 1e4
    with pytest.raises(
        ValueError,
        match=r"The corpus .* was binned differently .*target_sum is 10000.0.*pp\.build_corpus",
    ):
        trained.train(1, datamodule=other)
    model = ScBERTClassifier.from_corpus(data, labels_key="label", **TINY)
    with pytest.raises(ValueError, match="'split_key' name columns of cells in memory"):
        model.train(1, datamodule=data, split_key="split")
    with pytest.raises(ValueError, match='"residual" needs all cells in memory'):
        model.train(1, datamodule=data, combine="residual")


@pytest.mark.parametrize("harm", ["flip", "cut", "lose"])
def test_a_damaged_shard_is_named(corpus, tmp_path, harm):
    """A flipped byte is only found when the chunk it is in is read; a shard of another size at
    once.
    """
    copy = tmp_path / "corpus.zarr"
    shutil.copytree(corpus, copy)
    shard = next(copy.glob("train/dataset_0/X/data/c/*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 1
    if harm == "lose":
        shard.unlink()
    else:
        shard.write_bytes(bytes(content) if harm == "flip" else bytes(content[:-7]))
    what = {"flip": "checksum differs", "cut": "bytes instead of", "lose": "missing"}[harm]
    with pytest.raises(ValueError, match=rf"is damaged: train/dataset_0/X/data/c/0 \(.*{what}"):
        for _ in CorpusData(copy, **SMALL).inference_dataloader():
            pass


def test_a_worker_that_dies_stops_the_training_with_a_sentence(corpus, tmp_path):
    data = CorpusData(corpus, **SMALL, num_workers=1)
    model = ScBERT.from_corpus(data, **TINY)
    data.attach(model.genes, model.config, seed=0)
    batches = iter(data.train_dataloader())
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    with pytest.raises(RuntimeError, match="A process that reads ahead ended"):
        list(batches)
