"""Training by two processes that share the network out between them."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import anndata as ad
import numpy as np
import pytest
import torch

from scbert_cll.model import ScBERT, ScBERTClassifier
from scbert_cll.nn import Performer

SCRIPT = """
import sys
import lightning.pytorch as L
import numpy as np, pandas as pd, torch
from anndata import AnnData
from scipy import sparse
from scbert_cll import pp
from scbert_cll.model import CorpusData, ScBERT, ScBERTClassifier


class Interrupted(L.Callback):
    # in the middle of the second epoch, after the checkpoint of the fourth step
    def on_train_batch_end(self, trainer, *args):
        if trainer.global_step == 5:
            raise RuntimeError("interrupted")


class Shares(L.Callback):
    # how much of the weights this process holds while it trains
    share = 1.0

    def on_train_start(self, trainer, plan):
        held = sum(p.to_local().numel() for p in plan.module.parameters())
        self.share = held / sum(p.numel() for p in plan.module.parameters())


def cells_with_proteins():
    rng = np.random.default_rng(0)
    label = rng.random(48) < 0.5
    mean = rng.gamma(0.6, 4, 30) * np.ones((48, 1))
    mean[:, :8] = np.where(label, 6, 0.3)[:, None]
    obs = pd.DataFrame(
        {"label": np.where(label, "b", "a"), "split": ["train", "train", "train", "val"] * 12}
    )
    obs.index = obs.index.astype(str)
    adata = AnnData(sparse.csr_matrix(rng.poisson(mean).astype(np.float32)), obs=obs)
    adata.obsm["protein"] = pd.DataFrame(
        rng.poisson(np.where(label, 40, 5)[:, None], (48, 2)), obs.index, ["CD49d", "CD38"]
    )
    pp.bin_expression(adata, target_sum=300)
    return adata


def pretrained(adata, epochs=2, **how):
    model = ScBERT(adata, n_hidden=16, n_heads=2, n_layers=2, gene_embedding="learned", dropout=0.1)
    model.train(epochs, **how)
    return model


def classifier(adata, source, **how):
    # the weights of the last epoch, with BatchNorm's means and a layer for the proteins, which
    # is not part of the network
    model = ScBERTClassifier.from_pretrained(source, adata, labels_key="label")
    model.train(2, lr=1e-2, protein_key="protein", early_stopping=False, **how)
    return model


def on_corpus(corpus, **how):
    data = CorpusData(corpus, chunk_size=8, preload_nchunks=3)
    model = ScBERT.from_corpus(data, n_hidden=16, n_heads=2)
    model.train(
        1, datamodule=data, **{name: value for name, value in how.items() if name != "split_key"}
    )
    return model


def resumed(train, folder, how):
    # a run that is interrupted and goes on, and one that is not
    how = how | {"checkpoint_steps": 2}
    whole = train(checkpoint_dir=f"{folder}/whole", **how)
    try:
        train(checkpoint_dir=f"{folder}/run", callbacks=[Interrupted()], **how)
    except RuntimeError as error:
        assert str(error) == "interrupted"
    refused = ""
    try:
        train(checkpoint_dir=f"{folder}/run", **how | {"strategy": "ddp"})
    except ValueError as error:
        refused = str(error)
    return whole, train(checkpoint_dir=f"{folder}/run", **how), refused


def main(folder, corpus):
    torch.set_num_threads(1)
    adata, shares, models = cells_with_proteins(), Shares(), {}
    ScBERT.setup_anndata(adata)
    how = {
        "accelerator": "cpu",
        "devices": 2,
        "enable_progress_bar": False,
        "split_key": "split",
        "batch_size": 12,
    }
    more = {
        "gradient_clip_val": 0.05,
        "accumulate_grad_batches": 2,
        "recompute": True,
        "feature_redraw_interval": 2,
    }
    for strategy in ("ddp", "fsdp"):
        how["strategy"] = strategy
        models[f"plain_{strategy}"] = pretrained(
            adata, callbacks=[shares] if strategy == "fsdp" else [], **how
        )
        models[f"more_{strategy}"] = pretrained(adata, **how, **more)
        models[f"classifier_{strategy}"] = classifier(adata, models["more_ddp"], **how)
    models["memory_whole"], models["memory_resumed"], refused = resumed(
        lambda **k: pretrained(adata, 3, **k), f"{folder}/memory", how
    )
    models["corpus_whole"], models["corpus_resumed"], _ = resumed(
        lambda **k: on_corpus(corpus, **k), f"{folder}/corpus", how
    )
    found = {
        f"{name}.{key}": value.numpy()
        for name, model in models.items()
        for key, value in model.module.state_dict().items()
    }
    found["latent"] = models["plain_fsdp"].get_latent_representation()
    found["probabilities"] = models["classifier_fsdp"].predict(soft=True).to_numpy()
    rank = torch.distributed.get_rank()
    np.savez(f"{folder}/{rank}.npz", refused=refused, share=shares.share, **found)
    if rank == 0:
        models["plain_fsdp"].save(f"{folder}/scbert")
        models["classifier_fsdp"].save(f"{folder}/classifier")
        adata.write_h5ad(f"{folder}/cells.h5ad")


if __name__ == "__main__":
    main(*sys.argv[1:])
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory, corpus):
    """The folder in which two processes left what they trained with ``strategy="fsdp"``, and with
    "ddp" for comparison.
    """
    folder = tmp_path_factory.mktemp("sharded")
    script = folder / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [sys.executable, script, folder, corpus],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "FSDP2" not in done.stderr
    return folder


def _weights(folder, name, rank=0):
    found = np.load(folder / f"{rank}.npz")
    return {
        key.removeprefix(f"{name}."): found[key]
        for key in found.files
        if key.startswith(f"{name}.")
    }


def _same(found, expected, atol):
    assert len(found) >= 15
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        np.testing.assert_allclose(tensor, expected[name], rtol=0, atol=atol, err_msg=name)


@pytest.mark.slow  # starts two processes
@pytest.mark.skipif(
    not torch.distributed.is_available(), reason="PyTorch without distributed training"
)
class TestSharded:
    """A network of which each of two processes holds a half while it trains."""

    def test_each_process_holds_a_share(self, trained):
        """In training about a half of the weights, after it all of them."""
        first, second = (np.load(trained / f"{rank}.npz") for rank in (0, 1))
        assert float(first["share"]) + float(second["share"]) == pytest.approx(1)
        assert 0.4 < float(first["share"]) < 0.6
        for name in set(first.files) - {"share"}:
            np.testing.assert_array_equal(first[name], second[name], err_msg=name)

    @pytest.mark.parametrize("name", ["plain", "more", "classifier"])
    def test_the_weights_are_those_of_ddp(self, trained, name):
        """Also with clipping, accumulation, recomputation, new features, BatchNorm, and proteins to
        guess.
        """
        _same(_weights(trained, f"{name}_fsdp"), _weights(trained, f"{name}_ddp"), atol=1e-5)

    @pytest.mark.parametrize("name", ["memory", "corpus"])
    def test_an_interrupted_run_goes_on(self, trained, name):
        """To the weights of one that was never interrupted."""
        _same(_weights(trained, f"{name}_resumed"), _weights(trained, f"{name}_whole"), atol=0)

    def test_the_other_strategy_does_not_go_on(self, trained):
        """The states of the optimisers are not the same."""
        assert "sharded was True, is False" in str(np.load(trained / "0.npz")["refused"])

    def test_models_are_saved_whole(self, trained):
        """One process that knows nothing of the others embeds and predicts the same."""
        found, adata = np.load(trained / "0.npz"), ad.read_h5ad(trained / "cells.h5ad")
        model = ScBERT.load(trained / "scbert", adata, accelerator="cpu")
        assert type(model.module) is Performer
        np.testing.assert_allclose(model.get_latent_representation(), found["latent"], atol=1e-6)
        model = ScBERTClassifier.load(trained / "classifier", adata, accelerator="cpu")
        np.testing.assert_allclose(model.predict(soft=True), found["probabilities"], atol=1e-6)
