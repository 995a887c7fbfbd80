"""The commands that train; their options are those of the package, whose help is elsewhere."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import anndata as ad
import pytest

import scbert_cll as sc_cll
from scbert_cll._cli.commands import COMMANDS
from scbert_cll._cli.train import Training
from scbert_cll._cli.words import described_of
from scbert_cll.model.linear.regression import Combine
from scbert_cll.model.training.options import Finetuning, Fit, Freeze, Pretraining
from scbert_cll.nn import Config
from tests._cli.called import QUICK, run

KINDS: dict[str, type[Fit]] = {"pretrain": Pretraining, "finetune": Finetuning}


def words(command: str, option: str) -> set[str]:
    """What an option may be."""
    return set(get_args(described_of(COMMANDS[command])[option][0].annotation))


@pytest.mark.parametrize("command", KINDS)
def test_every_training_option_is_one_of_the_package(command: str) -> None:
    verb = inspect.signature(getattr(sc_cll.tl, command)).parameters
    names = {field.name for field in fields(Training)} - {"seed", "more"} | {"rng"}
    assert names <= set(verb) | set(KINDS[command].names())
    assert {field.name for field in fields(Training)} <= set(described_of(COMMANDS[command]))


@pytest.mark.parametrize("command", KINDS)
def test_options_that_are_not_given_are_left_to_the_package(command: str) -> None:
    given: dict[str, Any] = Training().arguments()
    verb = inspect.signature(getattr(sc_cll.tl, command)).parameters
    assert given.pop("accelerator") == verb["accelerator"].default == "auto"
    for name in ("rng", "balance", "num_workers"):
        assert given.pop(name) == verb[name].default
    assert given == {}
    assert Training(seed=3, more={"lr": 0.1, "rng": 4}).arguments()["rng"] == 4


def test_words_are_those_of_the_package() -> None:
    assert words("finetune", "combine") == set(get_args(Combine))
    assert words("finetune", "freeze") == set(get_args(Freeze))
    vectors = set(get_args(get_type_hints(Config)["gene_embedding"]))
    assert words("pretrain", "gene_embedding") == vectors | {"auto"}


def test_models_are_those_of_the_options(models: Path) -> None:
    pretrained = sc_cll.ScBERT.load(models / "m1", accelerator="cpu")
    assert (pretrained.config.n_hidden, pretrained.config.gene_embedding) == (8, "none")
    assert len(pretrained.history["train_loss"]) == 1
    classifier = sc_cll.ScBERTClassifier.load(models / "m2", accelerator="cpu")
    assert (classifier.labels_key, classifier.config.n_hidden) == ("label", 8)


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_a_place_that_is_taken_is_refused_before_anything_is_read(
    command: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, "no_such.h5ad", "--out", models / "m1") == 2
    assert (
        "m1 exists. Name another folder with --out, or pass --overwrite" in capsys.readouterr().err
    )
    (tmp_path / "notes.txt").write_text("mine")
    assert run(command, "no_such.h5ad", "--out", tmp_path, "--overwrite") == 2
    assert "holds files that are not a model's (notes.txt)" in capsys.readouterr().err


def test_overwrite_replaces_a_model(models: Path, h5ad: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "m1", tmp_path / "m")
    assert (
        run(
            "pretrain",
            h5ad,
            "--out",
            tmp_path / "m",
            *QUICK,
            "--network.n_hidden",
            4,
            "--overwrite",
        )
        == 0
    )
    assert sc_cll.ScBERT.load(tmp_path / "m", accelerator="cpu").config.n_hidden == 4


@pytest.mark.slow  # four commands one after the other
def test_models_learn_from_a_corpus(
    corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    quick = ("--max-epochs", 1, "--accelerator", "cpu")
    words = (
        "--checkpoint-dir",
        tmp_path / "run",
        "--checkpoint-steps",
        4,
        "--exclude-genes",
        "GENE0001",
    )
    assert (
        run("pretrain", corpus, "--out", tmp_path / "m1", *quick, *words, "--network.n_hidden", 8)
        == 0
    )
    pretrained = sc_cll.ScBERT.load(tmp_path / "m1", accelerator="cpu")
    assert (
        pretrained.config.n_hidden,
        pretrained.config.gene_embedding,
        "GENE0001" in pretrained.genes,
    ) == (
        8,
        "learned",
        False,
    )
    assert "of hidden genes in the right bin at best (validation)" in caplog.text
    assert list((tmp_path / "run").glob("*.ckpt"))
    words = (
        "--labels-key",
        "label",
        "--pretrained",
        tmp_path / "m1",
        "--balance",
        "label",
        "donor",
    )
    assert run("finetune", corpus, "--out", tmp_path / "m2", *quick, *words) == 0
    words = ("--labels-key", "label", "--network.n_hidden", 4, "--exclude-genes", "GENE0002")
    assert run("finetune", corpus, "--out", tmp_path / "m3", *quick, *words) == 0
    found = [
        sc_cll.ScBERTClassifier.load(tmp_path / name, accelerator="cpu") for name in ("m2", "m3")
    ]
    assert [model.config.n_hidden for model in found] == [8, 4]
    assert "GENE0002" not in found[1].genes

    # its cells are predicted
    words = (
        "predict",
        corpus,
        "--model",
        tmp_path / "m2",
        "--out",
        tmp_path / "p.zarr",
        "--accelerator",
        "cpu",
    )
    assert run(*words) == 0
    assert caplog.messages[-1] == f"The predictions are in {tmp_path / 'p.zarr'}."
    written = ad.read_zarr(tmp_path / "p.zarr")
    data = sc_cll.model.CorpusData(corpus)
    assert written.n_obs == data.n_train + data.n_val
    assert set(written.obs["scbert_pred"]) <= set(found[0].classes)


@pytest.mark.slow  # starts two processes
def test_two_processes_train_one_model_and_the_first_writes_it(h5ad: Path, tmp_path: Path) -> None:
    words = [h5ad, "--out", tmp_path / "m", "--devices", 2, "--strategy", "ddp", *QUICK]
    command = [sys.executable, "-m", "scbert_cll", "pretrain", *(str(word) for word in words)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("of hidden genes in the right bin at best (validation)") == 1
    assert done.stdout.count("The model is in") == 1
    assert "error: " not in done.stderr
    assert len(sc_cll.ScBERT.load(tmp_path / "m", accelerator="cpu").history["train_loss"]) == 1
