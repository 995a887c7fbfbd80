"""The command line: one function per command; options, their file, exit codes and results."""

from __future__ import annotations

import functools
import inspect
import logging
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import matplotlib.image as mpimg
import mudata
import numpy as np
import pandas as pd
import pytest
import yaml

import scbert_cll as sc_cll
from scbert_cll.__main__ import main
from scbert_cll._cli import commands
from scbert_cll._disk.left_overs import only_writer

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "scanpy", "scvi", "lightning", "anndata", "matplotlib")
QUICK = ("--max-epochs", "1", "--accelerator", "cpu", "--gene-embedding", "none")


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    names = (
        "",
        "scbert_cll",
        "scbert_cll.tl._signature.verb",
        "lightning.pytorch.utilities.rank_zero",
    )
    loggers = [logging.getLogger(name) for name in names]
    before = [(list(log.handlers), list(log.filters), log.level) for log in loggers]
    yield
    for log, (handlers, filters, level) in zip(loggers, before, strict=True):
        log.handlers, log.filters = handlers, filters
        log.setLevel(level)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few cells of eight donors with both classes, with bins, labels and a split."""
    folder = tmp_path_factory.mktemp("cells")
    adata = sc_cll.datasets.planted_donors(n_genes=60, rng=0)
    sc_cll.pp.split_donors(adata, "donor", labels_key="label", rng=0)
    sc_cll.pp.bin_expression(adata)
    adata.write_h5ad(folder / "cells.h5ad")
    return folder / "cells.h5ad"


def run(*words: object) -> int:
    return main([str(word) for word in words])


# ---- help


def test_help_of_every_command_is_light() -> None:
    script = f"""
import sys
from scbert_cll.__main__ import main
for words in [[], *([name] for name in {list(commands.COMMANDS)})]:
    try:
        main([*words, "--help"])
    except SystemExit as stop:
        print(stop.code, file=sys.stderr)
print(*({{name.partition(".")[0] for name in sys.modules}} & set({HEAVY})), "end", file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr.split() == ["0"] * (1 + len(commands.COMMANDS)) + ["end"]


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_help_teaches_every_option_and_the_exit_codes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(command, "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert inspect.getdoc(commands.COMMANDS[command]).partition("\n")[0] in text
    assert "3 another run is writing to the same folder" in text
    assert "130 interrupted" in text
    assert "NoneType" not in text
    for name in inspect.signature(commands.COMMANDS[command]).parameters:
        assert (
            name in ("training", "reading", "options")
            or name.upper() in text
            or f"--{name.replace('_', '-')}" in text
        )


def test_the_training_options_stand_among_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("pretrain", "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "--checkpoint-dir PATH Folder of checkpoints" in text
    assert "--seed N Of everything random. (default: 0)" in text
    assert "--precision {32-true,bf16-mixed,16-mixed}" in text


# ---- options and their file


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, object]:
    """The options as --print_config writes them."""
    with pytest.raises(SystemExit) as stop:
        run(*words, "--print_config")
    assert stop.value.code == 0
    found: dict[str, object] = yaml.safe_load(capsys.readouterr().out)
    return found


def test_options_come_from_a_file_and_the_command_line_wins_wherever_the_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "data: a.h5ad\nout: m\nmax_epochs: 3\nnetwork: {n_hidden: 8}\nexclude_genes: [ITGA4]\n"
    )
    alone = printed(capsys, "pretrain", "--config", file)
    assert (alone["data"], alone["max_epochs"], alone["network"]) == ("a.h5ad", 3, {"n_hidden": 8})
    words = ["b.h5ad", "--max-epochs", 5, "--network.n_layers", 2]
    for mixed in ([*words, "--config", file], [f"--config={file}", *words]):
        found = printed(capsys, "pretrain", *mixed)
        assert (found["data"], found["max_epochs"], found["exclude_genes"]) == (
            "b.h5ad",
            5,
            ["ITGA4"],
        )
        assert found["network"] == {"n_hidden": 8, "n_layers": 2}


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_what_print_config_writes_is_read_back(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = {
        "corpus": ("a.h5ad", "b.h5ad", "--out", "c", "--vocab", "v.txt"),
        "check": ("c",),
        "demo": (),
    }
    first = printed(
        capsys,
        command,
        *needed.get(command, ("a.h5ad", "--out", "o") + ("--model", "m") * (command == "predict")),
    )
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(first))
    assert printed(capsys, command, "--config", tmp_path / "run.yaml") == first


def test_underscores_are_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "demo", "--donor_key", "x") == printed(capsys, "demo", "--donor-key=x")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train"], "invalid choice: 'train'"),
        (["pretrain", "a.h5ad"], "the following arguments are required: out"),
        (
            ["pretrain", "a.h5ad", "--out", "m", "--max-epochs", "few"],
            "--max-epochs must be int; found 'few'.",
        ),
        (
            ["pretrain", "a.h5ad", "--out", "m", "--preset", "big"],
            "--preset must be one of 'small', 'scbert'; found 'big'.",
        ),
        (
            ["pretrain", "a.h5ad", "--out", "m", "--precision", "8"],
            "'bf16-mixed', '16-mixed'; found '8'.",
        ),
        (["pretrain", "a.h5ad", "--out", "m", "--max-epoch", "1"], "--max-epoch"),
        (["pretrain", "a.h5ad", "--out", "m", "--config", "no.yaml"], "no.yaml"),
        (
            ["demo", "--label", "best"],
            "--label must be one of 'auto', 'gmm', 'quantile'; found 'best'.",
        ),
    ],
)
def test_bad_usage_is_one_sentence_and_code_2(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(*words)
    assert stop.value.code == 2
    error, where, *more = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert sentence in error
    assert re.fullmatch(r"Options: python -m scbert_cll( pretrain| demo)? --help", where)
    assert not more


def test_unknown_keys_of_the_file_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text("data: a.h5ad\nout: m\nmax_epoch: 3\n")
    with pytest.raises(SystemExit) as stop:
        run("pretrain", "--config", tmp_path / "run.yaml")
    assert stop.value.code == 2
    assert "does not accept option 'max_epoch'" in capsys.readouterr().err


# ---- cells in a file


@pytest.fixture(scope="module")
def models(cells: Path) -> Path:
    """A pretrained model and a classifier, made by the commands themselves."""
    folder = cells.parent
    assert run("pretrain", cells, "--out", folder / "m1", *QUICK, "--network.n_hidden", 8) == 0
    words = (
        "--pretrained",
        folder / "m1",
        "--labels-key",
        "label",
        "--max-epochs",
        1,
        "--accelerator",
        "cpu",
    )
    assert run("finetune", cells, "--out", folder / "m2", *words) == 0
    return folder


def test_models_are_those_of_the_options(models: Path) -> None:
    pretrained = sc_cll.ScBERT.load(models / "m1", accelerator="cpu")
    assert (pretrained.config.n_hidden, pretrained.config.gene_embedding) == (8, "none")
    assert len(pretrained.history["train_loss"]) == 1
    classifier = sc_cll.ScBERTClassifier.load(models / "m2", accelerator="cpu")
    assert (classifier.labels_key, classifier.config.n_hidden) == ("label", 8)


def test_predict_writes_what_the_function_writes(
    models: Path,
    cells: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    out = tmp_path / "new" / "result.h5ad"
    words = ("predict", cells, "--model", models / "m2", "--out", out, "--accelerator", "cpu")
    assert run(*words, "--unassigned-below", 0.6) == 0
    expected = ad.read_h5ad(cells)
    model = sc_cll.ScBERTClassifier.load(models / "m2", accelerator="cpu")
    sc_cll.tl.predict(expected, model, unassigned_below=0.6)
    written = ad.read_h5ad(out)
    pd.testing.assert_frame_equal(written.obsm["scbert_proba"], expected.obsm["scbert_proba"])
    assert written.obs["scbert_pred"].tolist() == expected.obs["scbert_pred"].tolist()
    assert [file.name for file in out.parent.iterdir()] == ["result.h5ad"]
    assert f"{expected.n_obs:,} cells: " in caplog.text
    assert run(*words) == 2
    assert "result.h5ad exists. Name another file with --out" in capsys.readouterr().err
    assert run(*words, "--overwrite") == 0


def test_rna_is_found_among_modalities(models: Path, cells: Path, tmp_path: Path) -> None:
    mudata.MuData({"rna": ad.read_h5ad(cells)}).write(tmp_path / "in.h5mu")
    words = ("--model", models / "m2", "--out", tmp_path / "o.h5ad", "--accelerator", "cpu")
    assert run("predict", tmp_path / "in.h5mu", *words) == 0
    assert "scbert_pred" in ad.read_h5ad(tmp_path / "o.h5ad").obs


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


def test_overwrite_replaces_a_model(models: Path, cells: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "m1", tmp_path / "m")
    assert (
        run(
            "pretrain",
            cells,
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
    cells: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.h5ad").write_text("not HDF5")
    (tmp_path / "text.csv").write_text("a,b")
    places = {"cells": cells, "m1": models / "m1", "m2": models / "m2"}
    assert run(*(word.format(**places) for word in words)) == 2
    error = capsys.readouterr().err.strip()
    assert "Traceback" not in error
    assert error.splitlines()[-1].startswith("error: ")
    assert sentence in error
    assert {path.name for path in tmp_path.iterdir()} == {"text.h5ad", "text.csv"}


def test_traceback_shows_where(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no file"):
        run("pretrain", tmp_path / "no.h5ad", "--out", tmp_path / "m", "--traceback")


# ---- signature


def test_signature_writes_its_files_and_says_what_it_found(
    cells: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "signature"
    assert (
        run("signature", cells, "--out", out, "--labels-key", "label", "--exclude-genes", "G0") == 2
    )
    assert run("signature", cells, "--out", out, "--labels-key", "label") == 0
    adata = ad.read_h5ad(cells)
    sc_cll.tl.signature(adata, groupby="label")
    n = adata.uns["signature"]["n_selected"]
    table = pd.read_csv(out / "signature.csv", keep_default_na=False)
    assert table["gene"].tolist() == adata.uns["signature"]["genes"]["gene"].tolist()
    assert sum(len(genes) for genes in sc_cll.io.read_gmt(out / "signature.gmt").values()) == n > 0
    assert mpimg.imread(out / "signature.png").std() > 0.01
    assert f"{n} genes, " in caplog.text
    assert f"the clearest {table['gene'][0]}, " in caplog.text

    # nothing passes: no sets of an earlier run are left, and the reason is said
    asked = ("--labels-key", "label", "--min-cells", 80, "--overwrite")
    assert run("signature", cells, "--out", out, *asked) == 0
    assert [file.name for file in out.iterdir()] == ["signature.png"]
    assert (
        "No gene is selected. No gene was tested: 0 donors have 80 cells of every class"
        in caplog.text
    )


# ---- exit codes


def test_a_folder_in_use_is_code_3(
    cells: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--out", tmp_path / "m", "--checkpoint-dir", tmp_path / "run", *QUICK)
    with only_writer(tmp_path / "run", "the checkpoints"):
        assert run("pretrain", cells, *words) == 3
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
    cells: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @functools.wraps(commands.COMMANDS[command])
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(commands.COMMANDS, command, stopped)
    assert run(command, *(word.format(cells=cells, folder=cells.parent) for word in words)) == 130
    error = capsys.readouterr().err
    assert error.startswith("interrupted. ")
    assert sentence in error


def test_what_is_unforeseen_is_shown_by_python(
    cells: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sc_cll.tl, "pretrain", fails)
    with pytest.raises(ZeroDivisionError):
        run("pretrain", cells, "--out", tmp_path / "m")


# ---- corpora


@pytest.fixture(scope="module")
def corpus(cells: Path) -> Path:
    """The donors in two files, brought to one corpus by the command."""
    pytest.importorskip("annbatch", reason="needs the extra corpus")
    adata = ad.read_h5ad(cells)
    adata = ad.AnnData(adata.X, adata.obs[["donor", "label"]], adata.var[[]])
    first = adata.obs["donor"].isin(sorted(adata.obs["donor"].unique())[:4]).to_numpy()
    files = [cells.with_name("a.h5ad"), cells.with_name("b.h5ad")]
    for file, mask in zip(files, (first, ~first), strict=True):
        adata[mask].write_h5ad(file)
    vocab, out = cells.with_name("genes.txt"), cells.with_name("corpus.zarr")
    vocab.write_text("".join(f"{gene}\n" for gene in adata.var_names))
    assert (
        run(
            "corpus",
            *files,
            "--out",
            out,
            "--vocab",
            vocab,
            "--obs-columns",
            "label",
            "--val-fraction",
            0.3,
        )
        == 0
    )
    return out


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


def test_a_pretrained_model_embeds(corpus: Path, models: Path, cells: Path, tmp_path: Path) -> None:
    words = ("--model", models / "m1", "--accelerator", "cpu")
    assert run("predict", cells, "--out", tmp_path / "o.h5ad", *words) == 0
    written = ad.read_h5ad(tmp_path / "o.h5ad")
    model = sc_cll.ScBERT.load(models / "m1", accelerator="cpu")
    np.testing.assert_allclose(
        written.obsm["X_scbert"], model.get_latent_representation(written), atol=1e-6
    )
    assert "scbert_pred" not in written.obs


def test_a_share_of_a_corpus_is_passed_on(
    corpus: Path,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr(sc_cll.tl, "predict_corpus", lambda *_, **options: asked.update(options))
    words = (
        "--model",
        models / "m2",
        "--out",
        tmp_path / "p.zarr",
        "--shard",
        "1/4",
        "--parts",
        "val",
    )
    assert run("predict", corpus, *words, "--groupby", "label") == 0
    assert (asked["shard"], asked["parts"], asked["groupby"]) == ((1, 4), ("val",), "label")
    assert (
        caplog.messages[-1]
        == f"This share is done; {tmp_path / 'p.zarr'} appears with the last one."
    )


# ---- several processes


@pytest.mark.slow  # starts two processes
def test_two_processes_train_one_model_and_the_first_writes_it(cells: Path, tmp_path: Path) -> None:
    words = [cells, "--out", tmp_path / "m", "--devices", 2, "--strategy", "ddp", *QUICK]
    command = [sys.executable, "-m", "scbert_cll", "pretrain", *(str(word) for word in words)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("of hidden genes in the right bin at best (validation)") == 1
    assert done.stdout.count("The model is in") == 1
    assert "error: " not in done.stderr
    assert len(sc_cll.ScBERT.load(tmp_path / "m", accelerator="cpu").history["train_loss"]) == 1


# ---- the page


def commands_of_the_page() -> list[str]:
    text = (ROOT / "docs" / "cli.md").read_text()
    found = re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [line.partition(" > ")[0] for block in found for line in block.splitlines()]


def test_the_page_shows_every_command_and_each_can_be_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("data: corpus.zarr\nout: pretrained\n")
    lines = [shlex.split(line) for line in commands_of_the_page()]
    assert {words[3] for words in lines} == set(commands.COMMANDS)
    for words in lines:
        assert words[:3] == ["python", "-m", "scbert_cll"]
        printed(capsys, *(word for word in words[3:] if word != "--print_config"))


def test_the_pages_data_give_the_pages_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "cli.md").read_text()
    exec(compile(page.partition("```python\n")[2].partition("```")[0], "docs/cli.md", "exec"), {})  # noqa: S102
    for line in commands_of_the_page():
        if " signature " in line:
            caplog.clear()
            assert run(*shlex.split(line)[3:]) == 0
            assert caplog.messages[-1] in page
