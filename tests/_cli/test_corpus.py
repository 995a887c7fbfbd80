"""The commands corpus and check: every file is told of, and checked."""

from __future__ import annotations

from pathlib import Path

import pytest

import scbert_cll as sc_cll
from tests._cli.called import run


def test_corpus_tells_of_every_file_and_can_be_checked(
    corpus: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("check", corpus) == 0
    assert "corpus.zarr is whole: " in caplog.text
    files = [corpus.with_name("a.h5ad"), tmp_path / "bad.h5ad"]
    files[1].write_text("no HDF5")
    words = (
        "--out",
        tmp_path / "c.zarr",
        "--vocab",
        corpus.with_name("genes.txt"),
        "--val-fraction",
        0,
    )
    assert run("corpus", *files, *words) == 2
    assert "bad.h5ad" in capsys.readouterr().err
    with pytest.warns(UserWarning, match=r"bad\.h5ad"):
        assert run("corpus", *files, *words, "--on-error", "skip") == 0
    assert "skipped" in caplog.text
    manifest = tmp_path / "c.zarr" / "vocab.txt"
    manifest.write_text(manifest.read_text() + "MORE\n")
    assert run("check", tmp_path / "c.zarr") == 2
    assert "1 of " in (error := capsys.readouterr().err)
    assert "are damaged. Restore these files from a copy" in error
    assert "vocab.txt" in caplog.text


def test_a_models_genes_and_bins_are_those_of_its_folder(
    corpus: Path, models: Path, tmp_path: Path
) -> None:
    words = ("--out", tmp_path / "c.zarr", "--vocab", models / "m1", "--val-fraction", 0)
    assert run("corpus", corpus.with_name("a.h5ad"), *words) == 0
    made = sc_cll.model.CorpusData(tmp_path / "c.zarr")
    model = sc_cll.ScBERT.load(models / "m1", accelerator="cpu")
    assert made.genes.tolist() == model.genes.tolist()
    assert made.binning["params"]["method"] == model.binning["params"]["method"]
