"""What the history and its plot say of a training is what happened in it."""

from __future__ import annotations

import lightning.pytorch as L
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from scbert_cll import pl
from scbert_cll.model import CorpusData, ScBERT, ScBERTClassifier

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
TINY = {"n_hidden": 16, "n_heads": 2, "gene_embedding": "learned"}


class Snapshots(L.Callback):
    """The network's weights at the end of each epoch."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        state = pl_module.module.state_dict()
        self.weights.append({name: tensor.detach().clone() for name, tensor in state.items()})


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def drawn(model, metric: str = "loss") -> dict[str, pd.Series]:
    """Lines of a panel by their label, as values by epoch; and where the marked epoch is."""
    ax = pl.history(model, metrics=[metric], show=False)
    plt.close(ax.figure)
    return {
        line.get_label(): pd.Series(line.get_ydata(), line.get_xdata()) for line in ax.get_lines()
    }


def marked(model) -> tuple[str, int]:
    [(label, line)] = [
        (name, line) for name, line in drawn(model).items() if "weights" in name or "best" in name
    ]
    return label, int(line.index[0])


def cross_entropy(model, adata, part: str) -> float:
    """Mean over the cells, out of the predicted probabilities."""
    at = np.flatnonzero(adata.obs["split"] == part)
    codes = pd.Categorical(adata.obs["label"], model.classes).codes[at]
    return float(-np.log(model.predict(adata, soft=True).to_numpy()[at, codes]).mean())


@pytest.fixture
def noisy(adata):
    """Cells without a signal, which a network soon overfits, and protein counts."""
    rng = np.random.default_rng(0)
    adata.obs["label"] = rng.permutation(adata.obs["label"].to_numpy())
    counts = rng.poisson(30, (adata.n_obs, 8)).astype(np.float32)
    adata.obsm["protein"] = pd.DataFrame(counts, adata.obs_names, [f"P{i}" for i in range(8)])
    return adata


@pytest.mark.parametrize("protein_key", [None, "protein"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_the_marked_epoch_is_the_one_whose_weights_are_kept(
    noisy, classify, early_stopping, protein_key
) -> None:
    seen = Snapshots()
    how = {
        "early_stopping": early_stopping,
        "early_stopping_patience": 4,
        "protein_key": protein_key,
        "lr": 0.03,
    }
    model = classify(noisy, 12, callbacks=[seen], **how)
    label, epoch = marked(model)
    assert label == f"weights kept (epoch {epoch})"
    assert epoch == model.kept_epoch_
    assert equal(model.module.state_dict(), seen.weights[epoch - 1])
    assert (
        epoch < len(seen.weights)
    ) == early_stopping  # the two differ, so that the test can tell them apart
    assert drawn(model)["validation"][epoch] == pytest.approx(
        cross_entropy(model, noisy, "val"), rel=1e-4
    )


def test_pretraining_marks_the_epoch_that_it_keeps(adata, pretrain) -> None:
    seen = Snapshots()
    model = pretrain(adata, 8, lr=0.3, callbacks=[seen], early_stopping_patience=20)
    _, epoch = marked(model)
    assert equal(model.module.state_dict(), seen.weights[epoch - 1])
    assert epoch == 1 + int(np.argmin(model.history["validation_loss"]))


def test_both_curves_are_the_same_loss(noisy, classify) -> None:
    """A network that hardly moves has about the loss that its predictions have, but for BatchNorm;
    with the proteins' error it would have twice that.
    """
    how = {
        "protein_key": "protein",
        "token_drop": 0.0,
        "lr": 1e-9,
        "weight_decay": 0.0,
        "batch_size": 16,
    }
    model = classify(noisy, 2, network={"dropout": 0.0}, **how)
    assert drawn(model)["train"].iloc[-1] == pytest.approx(
        cross_entropy(model, noisy, "train"), rel=0.1
    )
    assert drawn(model)["validation"].iloc[-1] == pytest.approx(
        cross_entropy(model, noisy, "val"), rel=1e-4
    )
    proteins = drawn(model, "protein_loss")
    assert {"train", "validation"} <= set(proteins)
    assert proteins["train"].iloc[-1] == pytest.approx(
        1, abs=0.8
    )  # standardised levels, nothing learned
    loss, protein = pl.history(model, metrics=["loss", "protein_loss"], show=False)
    assert (loss.get_ylabel(), protein.get_ylabel()) == ("cross-entropy", "proteins: squared error")


def test_epochs_count_on_and_from_one(adata, pretrain, tmp_path) -> None:
    model = pretrain(adata, 2)
    assert list(model.history["train_loss"].index) == [1, 2]
    model.train(3, split_key="split", early_stopping=False, **QUIET)
    assert {tuple(frame.index) for frame in model.history.values()} == {(1, 2, 3, 4, 5)}
    assert marked(model) == ("weights kept (epoch 5)", 5)
    model.save(tmp_path / "model")
    loaded = ScBERT.load(tmp_path / "model", accelerator="cpu")
    assert marked(loaded) == ("weights kept (epoch 5)", 5)
    assert drawn(loaded)["validation"].equals(drawn(model)["validation"])


def test_what_only_the_second_training_records_is_there(adata, classify) -> None:
    whole = adata.obs["split"].copy()
    adata.obs["split"] = whole.replace("val", "test")
    model = classify(adata, 2)
    assert "validation_loss" not in model.history
    adata.obs["split"] = whole
    model.train(2, split_key="split", **QUIET)
    assert list(model.history["validation_loss"].index) == [3, 4]
    assert list(model.history["train_loss"].index) == [1, 2, 3, 4]


def test_bars_count_as_the_history_does(adata, classify, corpus, capfd) -> None:
    classify(adata, 2, enable_progress_bar=True)
    data = CorpusData(corpus, chunk_size=64, preload_nchunks=8)
    model = ScBERTClassifier.from_corpus(data, labels_key="label", **TINY)
    model.train(2, datamodule=data, accelerator="cpu")
    said = "".join(capfd.readouterr())
    assert said.count("Epoch 2/2") >= 2  # either bar
    assert "Epoch 0" not in said


def test_the_untrained_network_may_be_what_is_kept(noisy, classify) -> None:
    model = classify(noisy, 3, combine="residual", lr=1.0, early_stopping=True)
    _, epoch = marked(model)
    assert epoch == model.kept_epoch_
    assert epoch == 0 or drawn(model)["validation"][epoch] == drawn(model)["validation"].min()
