"""The commands from outside: bad input, exit codes, and what is said after Ctrl-C."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

import scbert_cll as sc_cll
from scbert_cll._cli import commands
from scbert_cll._disk.left_overs import only_writer
from tests._cli.called import QUICK, run


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("pretrain", "no_such.h5ad", "--out", "m"), "There is no file no_such.h5ad."),
        (("pretrain", "no_such.zarr", "--out", "m"), "There is no corpus no_such.zarr"),
        (("pretrain", "text.h5ad", "--out", "m"), "text.h5ad cannot be read: "),
        (
            ("pretrain", "text.csv", "--out", "m"),
            "must be one of '.h5ad', '.h5mu', '.zarr'; found '.csv'.",
        ),
        (
            ("pretrain", "{cells}", "--out", "m", "--layer", "x"),
            "'x' is not in adata.layers; it has 'binned'.",
        ),
        (
            ("pretrain", "{cells}", "--out", "m", "--network.width", "3"),
            "The network has no argument 'width'",
        ),
        (("finetune", "{cells}", "--out", "m", "--labels-key", "x"), "'x' is not in adata.obs"),
        (
            ("finetune", "{cells}", "--out", "m", "--pretrained", "none"),
            "There is no model folder none.",
        ),
        (
            (
                "predict",
                "{cells}",
                "--out",
                "m.h5ad",
                "--model",
                "{m1}",
                "--unassigned-below",
                "0.5",
            ),
            "--unassigned-below is for",
        ),
        (
            ("predict", "{cells}", "--out", "m.zarr", "--model", "{m2}"),
            "--out must be one of '.h5ad'; found '.zarr'.",
        ),
        (
            ("predict", "{cells}", "--out", "m.h5ad", "--model", "{m2}", "--shard", "4/4"),
            "--shard must be a share",
        ),
        (
            ("predict", "{cells}", "--out", "m.h5ad", "--model", "{m2}", "--unassigned-below", "2"),
            "--unassigned-below must",
        ),
        (("signature", "{cells}", "--out", "s", "--labels-key", "x"), "'x' is not in adata.obs"),
        (("signature", "{cells}", "--out", "s", "--name", "two words"), "two words"),
        (("signature", "{cells}", "--out", "."), ". exists. Name another folder with --out"),
        (("check", "no_such.zarr"), "There is no corpus no_such.zarr"),
        (("corpus", "no_such.h5ad", "--out", "c.zarr", "--vocab", "v.txt"), "no_such.h5ad"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(
    words: tuple[str, ...],
    sentence: str,
    models: Path,
    h5ad: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.h5ad").write_text("not HDF5")
    (tmp_path / "text.csv").write_text("a,b")
    places = {"cells": h5ad, "m1": models / "m1", "m2": models / "m2"}
    assert run(*(word.format(**places) for word in words)) == 2
    error = capsys.readouterr().err.strip()
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith("error: ")
    assert sentence in error
    assert {path.name for path in tmp_path.iterdir()} == {"text.h5ad", "text.csv"}


def test_traceback_shows_where(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no file"):
        run("pretrain", tmp_path / "no.h5ad", "--out", tmp_path / "m", "--traceback")


def test_a_folder_in_use_is_code_3(
    h5ad: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--out", tmp_path / "m", "--checkpoint-dir", tmp_path / "run", *QUICK)
    with only_writer(tmp_path / "run", "the checkpoints"):
        assert run("pretrain", h5ad, *words) == 3
    assert "run is being written to by process" in capsys.readouterr().err
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("command", "words", "sentence"),
    [
        (
            "pretrain",
            ("{cells}", "--out", "m"),
            "No model was written; with --checkpoint-dir the same command goes on",
        ),
        (
            "finetune",
            ("{cells}", "--out", "m", "--checkpoint-dir", "r"),
            "goes on from the last checkpoint in r",
        ),
        (
            "predict",
            ("{cells}", "--out", "o.h5ad", "--model", "m"),
            "Start the same command again.",
        ),
        (
            "predict",
            ("{folder}", "--out", "o.zarr", "--model", "m"),
            "The same command goes on where it was.",
        ),
        (
            "corpus",
            ("{cells}", "--out", "c", "--vocab", "v"),
            "The same command goes on after the last finished part",
        ),
    ],
)
def test_ctrl_c_is_code_130_and_says_how_to_go_on(
    command: str,
    words: tuple[str, ...],
    sentence: str,
    h5ad: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @functools.wraps(commands.COMMANDS[command])
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(commands.COMMANDS, command, stopped)
    assert run(command, *(word.format(cells=h5ad, folder=h5ad.parent) for word in words)) == 130
    error = capsys.readouterr().err
    assert error.startswith("interrupted. ")
    assert sentence in error


def test_what_is_unforeseen_is_shown_by_python(
    h5ad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sc_cll.tl, "pretrain", fails)
    with pytest.raises(ZeroDivisionError):
        run("pretrain", h5ad, "--out", tmp_path / "m")
