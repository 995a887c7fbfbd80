"""A name that has changed is taken for one release, wherever it can be given or was saved."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch

import scbert_cll as sc_cll
from scbert_cll._disk import formats
from scbert_cll.estimators import ScBERTEstimator
from scbert_cll.model.training.checkpoints import RUN, WholeCheckpoints, written
from tests._make import few_cells

SMALL: dict[str, Any] = {"n_hidden": 8, "n_heads": 2, "gene_embedding": "learned"}
OLD: dict[str, Any] = SMALL | {"n_features": 12}
NEW: dict[str, Any] = SMALL | {"n_random_features": 12}
QUIET: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}


def pretrained(network: dict[str, Any]) -> sc_cll.ScBERT:
    adata = few_cells()
    sc_cll.ScBERT.setup_anndata(adata)
    return sc_cll.ScBERT(adata, **network)


def classifier(network: dict[str, Any]) -> sc_cll.ScBERTClassifier:
    adata = few_cells()
    sc_cll.ScBERTClassifier.setup_anndata(adata, labels_key="cd49d")
    return sc_cll.ScBERTClassifier(adata, **network)


def finetuned(network: dict[str, Any]) -> sc_cll.ScBERTClassifier:
    return sc_cll.tl.finetune(
        few_cells(), donor_key="donor", network=network, max_epochs=1, batch_size=8, **QUIET
    )


def fitted(network: dict[str, Any]) -> Any:
    adata = few_cells()
    choices = {name: value for name, value in network.items() if name != "gene_embedding"}
    estimator = ScBERTEstimator(
        max_epochs=1, gene_embedding="learned", network=choices, accelerator="cpu"
    )
    return estimator.fit(adata, adata.obs["cd49d"]).members_[0]


DOORS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "ScBERT": pretrained,
    "ScBERTClassifier": classifier,
    "tl.pretrain": lambda network: sc_cll.tl.pretrain(
        few_cells(),
        gene_embedding=network["gene_embedding"],
        network={name: value for name, value in network.items() if name != "gene_embedding"},
        max_epochs=1,
        batch_size=8,
        **QUIET,
    ),
    "tl.finetune": finetuned,
    "ScBERTEstimator": fitted,
}


@pytest.mark.parametrize("door", DOORS)
def test_the_old_name_of_the_random_features(door: str) -> None:
    with pytest.warns(FutureWarning, match="n_features= is now n_random_features="):
        model = DOORS[door](OLD)
    assert model.config.n_random_features == 12
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        assert DOORS[door](NEW).config == model.config


@pytest.mark.parametrize("value", [-1, 2.5, "many"])
def test_the_old_name_is_checked_as_the_new_one(value: Any) -> None:
    with pytest.raises(ValueError, match="n_random_features must be a whole number"):
        pretrained(SMALL | {"n_features": value})


def test_a_model_that_was_saved_under_the_old_name_is_read(tmp_path: Path) -> None:
    model = classifier(NEW)
    model.is_trained_ = True
    model.save(tmp_path / "model")
    record = formats.read_json(tmp_path / "model" / "config.json")
    record["network"]["n_features"] = record["network"].pop("n_random_features")
    formats.write_json(tmp_path / "model" / "config.json", formats.sealed(record))
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        loaded = sc_cll.ScBERTClassifier.load(tmp_path / "model")
    assert loaded.config == model.config
    for name, weights in model.module.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[name], weights)


class Stop(L.Callback):
    """Interrupt a training behind its second step."""

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == 2:
            raise InterruptedError("stopped by the test")


def test_a_run_that_was_begun_under_the_old_name_goes_on(tmp_path: Path) -> None:
    """From its checkpoint, to the weights of a run that was never cut."""
    whole, first, again = (pretrained(NEW) for _ in range(3))
    run = {"max_epochs": 2, "batch_size": 8, "checkpoint_steps": 1, "rng": 0} | QUIET
    whole.train(checkpoint_dir=tmp_path / "whole", **run)
    with pytest.raises(InterruptedError):
        first.train(checkpoint_dir=tmp_path / "run", callbacks=[Stop()], **run)
    files, paths = WholeCheckpoints(), written(tmp_path / "run")
    for path in paths:
        checkpoint = files.load_checkpoint(path)
        network = checkpoint[RUN]["network"]
        network["n_features"] = network.pop("n_random_features")
        files.save_checkpoint(checkpoint, path)
    assert paths
    again.train(checkpoint_dir=tmp_path / "run", resume=True, **run)
    for name, weights in whole.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], weights)
