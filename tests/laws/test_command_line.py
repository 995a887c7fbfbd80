"""The command line keeps its word: every command, every option that names something, every place
that is written to.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given
from hypothesis import strategies as st

import scbert_cll as sc_cll
from scbert_cll.__main__ import main
from scbert_cll._cli import commands
from scbert_cll._cli.demo import run as demo_run
from scbert_cll._cli.reading import Reading, choose
from scbert_cll._cli.words import described_of, in_options, options_of
from tests import _make

SRC = Path(sc_cll.__file__).parent
READERS = ("demo", "corpus", "pretrain", "finetune", "predict", "signature")
SHARED = ("modality", "layer", "protein_key", "cells", "donor_key")
QUICK = ("--max-epochs", "1", "--accelerator", "cpu")
ODD = 'Spender /Ä|1\' "x".'  # a column


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    loggers = [
        logging.getLogger(name)
        for name in ("", "scbert_cll", "lightning.pytorch.utilities.rank_zero")
    ]
    before = [(list(log.handlers), list(log.filters), log.level) for log in loggers]
    yield
    for log, (handlers, filters, level) in zip(loggers, before, strict=True):
        log.handlers, log.filters = handlers, filters
        log.setLevel(level)


def run(*words: object) -> int:
    return main([str(word) for word in words])


def cite(n: int = 240, *, integers: bool = False) -> AnnData:
    """Few cells of six donors with both classes; protein in an array, as scvi-tools keeps it."""
    rng = np.random.default_rng(0)
    y = rng.random(n) < 0.5
    mu = np.tile(rng.gamma(1, 2, 40) + 0.3, (n, 1))
    mu[np.ix_(y, np.arange(8))] *= 3
    adata = AnnData(rng.poisson(mu).astype("float32"))
    adata.obs_names = [f"c{i}" for i in range(n)]
    adata.obs["donor"] = (
        np.tile(np.arange(6) + 101, n // 6)
        if integers
        else np.tile([f"P{i}" for i in range(6)], n // 6)
    )
    adata.obs["label"] = np.where(y, "pos", "neg")
    adata.obs["good"] = np.arange(n) >= 12
    protein = rng.poisson(8.0, (n, 14)).astype(float)
    protein[:, 0] += np.where(y, rng.poisson(80, n), 0)
    adata.obsm["ADT"], adata.uns["protein_names"] = (
        protein,
        ["CD49d", *(f"TCR α/β {i}" for i in range(13))],
    )
    return adata


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells, raw and binned; a model that was trained on them."""
    found = tmp_path_factory.mktemp("cli law")
    adata = cite(integers=True)
    adata.write_h5ad(found / "raw.h5ad")
    sc_cll.pp.split_donors(adata, "donor", labels_key="label", rng=0)
    sc_cll.pp.bin_expression(adata)
    adata.write_h5ad(found / "binned.h5ad")
    words = ("--labels-key", "label", "--network.n_hidden", 8, *QUICK)
    assert run("finetune", found / "binned.h5ad", "--out", found / "model", *words) == 0
    return found


# ---- what is offered


@pytest.mark.parametrize("command", READERS)
def test_every_command_that_reads_cells_has_the_shared_options(command: str) -> None:
    no_protein = {"protein_key"} if command == "corpus" else set()  # which reads RNA only
    assert set(SHARED) - no_protein <= set(described_of(commands.COMMANDS[command]))


def test_the_list_of_commands_that_read_cells_is_complete() -> None:
    assert set(READERS) == set(commands.COMMANDS) - {"check"}


def test_bare_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    assert "signature" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        run("--version")
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == f"scbert_cll {sc_cll.__version__}"


@pytest.mark.parametrize("command", sorted(set(commands.COMMANDS) - {"demo"}))
def test_a_bare_command_shows_its_help_and_what_it_needs(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command) == 2
    said = capsys.readouterr()
    assert inspect.getdoc(commands.COMMANDS[command]).split()[0] in said.out
    needed = [
        p for p, _ in described_of(commands.COMMANDS[command]).values() if p.default is p.empty
    ]
    for parameter in needed:
        assert parameter.name in said.err.lower()


# ---- what is said


def literal(node: ast.AST) -> str | None:
    """Text of a string in the code, with something in every place to be filled."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [
            v.value if isinstance(v, ast.Constant) else "'x'" if v.conversion == ord("r") else "x"
            for v in node.values
        ]
        return "".join(map(str, parts))
    return None


@functools.cache
def sentences() -> list[str]:
    """Every string with a blank in it, docstrings apart."""
    found: list[str] = []
    for path in SRC.rglob("*.py"):
        tree = ast.parse(path.read_text())
        owners = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        docs = {
            node.body[0].value
            for node in ast.walk(tree)
            if isinstance(node, owners) and isinstance(node.body[0], ast.Expr)
        }
        inner = {
            part
            for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr)
            for part in ast.walk(node)
            if part is not node
        }
        texts = [literal(node) for node in ast.walk(tree) if node not in docs | inner]
        found += [text for text in texts if text is not None and " " in text]
    return found


def without_code(sentence: str) -> str:
    """A sentence without what it quotes and without calls of Python, which may have keywords."""
    calls = r"[\w.\[\]'\"]+\.\w+\((?:[^()]|\([^()]*\))*\)?|\w+\([^()]*…?\)"
    return re.sub(rf"(?<!\w)'[^']*'|(?<!\w)\"[^\"]*\"|{calls}", "", sentence)


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_no_sentence_names_a_parameter_that_is_no_option(command: str) -> None:
    options = options_of(commands.COMMANDS[command])
    tried = 0
    for sentence in sentences():
        if re.search(r"\b[a-z][a-z_]+=(?![=\w]*[\"']?>)", sentence) and re.search(
            r"[.;:,] |\.$", sentence
        ):
            said = in_options(sentence, options)
            tried += said != sentence
            left = re.findall(r"(?<![\w.'\"{])[a-z][a-z_]*=(?!=)", without_code(said))
            assert not left, (sentence, said)
            for name in re.findall(
                r"--([a-z][a-z-]+)(?! [\w.]+ of the command)",
                said.replace(" of the command", " of the command"),
            ):
                of_other = re.search(rf"--{name} of the command", said)
                if f"--{name}" not in sentence and not of_other:
                    assert name.replace("-", "_") in options, (sentence, said)
    assert tried > 50


@given(
    st.sampled_from(["donor_key", "layer", "cells"]),
    st.sampled_from(["", "'a b'", '"x"', "None", "1.5", "['a', 'b']"]),
)
def test_a_parameter_with_any_value_becomes_its_option(name: str, value: str) -> None:
    said = in_options(
        f"Choose one with {name}={value}. It's no model's.", options_of(commands.demo)
    )
    assert f"--{name.replace('_', '-')}" in said
    assert "=" not in said
    assert said.endswith("It's no model's.")


def test_quoted_names_and_code_stay_as_they_are() -> None:
    code = (
        "'donor_key' is not in adata.obs; it has 'layer=x'. Do sc.pp.filter_cells(adata, "
        "min_counts=1) in /tmp/donor_key/a."
    )
    assert in_options(code, options_of(commands.demo)) == code


# ---- names that were typed


@pytest.mark.parametrize("command", ["demo", "pretrain", "finetune", "predict", "signature"])
@pytest.mark.parametrize(
    "option", ["--donor-key", "--cells", "--layer", "--modality", "--protein-key"]
)
def test_a_name_that_is_not_there_is_refused_with_those_that_are(
    command: str, option: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if option == "--protein-key" and command in ("pretrain", "predict", "signature"):
        pytest.skip("read for --cells cll only")
    name = "binned" if command not in ("demo", "signature") else "raw"
    more = {
        "finetune": ("--labels-key", "label"),
        "predict": ("--model", folder / "model"),
        "signature": ("--labels-key", "label"),
    }
    place = (
        ("--input", folder / f"{name}.h5ad") if command == "demo" else (folder / f"{name}.h5ad",)
    )
    out = tmp_path / ("out.h5ad" if command == "predict" else "out")
    assert run(command, *place, "--out", out, *more.get(command, ()), option, "Donors") == 2
    error = capsys.readouterr().err
    assert error.count("error: ") == 1
    assert option in error
    assert not out.exists()
    there = {
        "--donor-key": "'donor'",
        "--cells": "'good'",
        "--layer": "X",
        "--protein-key": "'ADT'",
    }
    assert there.get(option, "AnnData") in error


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("demo", "--batch-key"),
        ("demo", "--gene"),
        ("pretrain", "--split-key"),
        ("finetune", "--split-key"),
        ("finetune", "--weight-key"),
        ("finetune", "--labels-key"),
        ("signature", "--labels-key"),
        ("signature", "--gene"),
    ],
)
def test_every_other_column_or_gene_that_is_not_there_is_refused(
    command: str, option: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / ("raw.h5ad" if command == "demo" else "binned.h5ad")
    labels = (
        ("--labels-key", "label")
        if command in ("finetune", "signature") and option != "--labels-key"
        else ()
    )
    place = ("--input", file) if command == "demo" else (file,)
    assert run(command, *place, "--out", tmp_path / "out", *labels, option, "nothing") == 2
    error = capsys.readouterr().err
    assert "'nothing' is not in adata." in error
    assert option in error
    assert not (tmp_path / "out").exists()


def test_without_a_column_of_donors_the_demo_asks_and_none_is_an_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adata = cite()
    adata.obs = adata.obs.rename(columns={"donor": "Patient"})
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert run("demo", "--input", tmp_path / "a.h5ad", "--out", tmp_path / "o") == 2
    error = capsys.readouterr().err
    assert (
        "'donor' is not in adata.obs; it has 'Patient'"
        in error.replace("'label', 'good', 'Patient'", "'Patient'")
        or "'Patient'" in error
    )
    assert "--donor-key none if all cells are of one donor" in error
    assert choose(adata, Reading(donor_key="none")).donor_key is None


def test_options_of_a_corpus_are_refused_for_cells(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (
        "predict",
        folder / "binned.h5ad",
        "--model",
        folder / "model",
        "--out",
        tmp_path / "o.h5ad",
    )
    for option in (("--groupby", "donor"), ("--parts", "val"), ("--shard", "0/2")):
        assert run(*words, *option) == 2
        assert f"{option[0]}: only for a corpus" in capsys.readouterr().err


# ---- where things are


def as_mudata(adata: AnnData, rna: str = "rna", prot: str = "prot") -> mudata.MuData:
    protein = AnnData(
        adata.obsm["ADT"].copy(),
        var=pd.DataFrame(index=adata.uns["protein_names"]),
        obs=adata.obs[[]],
    )
    bare = AnnData(adata.X.copy(), obs=adata.obs[[]].copy(), var=adata.var.copy())
    mdata = mudata.MuData({rna: bare, prot: protein})
    mdata.obs[["donor", "good"]] = adata.obs[["donor", "good"]]
    return mdata


def test_columns_of_a_mudata_and_cells_without_protein_or_donor() -> None:
    adata = cite()
    adata.obs["donor"] = (
        adata.obs["donor"].where(np.arange(240) != 200, "doublet").where(np.arange(240) != 201)
    )
    mdata = as_mudata(adata)
    mdata = mudata.MuData({"rna": mdata["rna"], "prot": mdata["prot"][:-5].copy()}, obs=mdata.obs)
    mdata.obs[["donor", "good"]] = adata.obs[["donor", "good"]]
    found = choose(mdata, Reading(donor_key="donor", cells="good"), with_protein=True)
    assert found.rna.n_obs == 240 - 5 - 2 - 12
    assert found.rna is found.data.mod["rna"]
    assert set(found.rna.obs["donor"]) == {f"P{i}" for i in range(6)}
    assert len(found.news) == 3
    assert "missing: 1" in found.news[1]
    assert "doublet: 1" in found.news[1]


def test_the_modality_is_asked_for_where_it_is_not_clear() -> None:
    mdata = as_mudata(cite(), rna="cells")
    with pytest.raises(KeyError, match=r"no RNA by its usual name.*Name the RNA with --modality"):
        choose(mdata, Reading())
    assert choose(mdata, Reading(modality="cells")).rna is mdata["cells"]
    other = mdata["cells"].copy()
    other.var_names = [f"other {name}" for name in other.var_names]
    both = mudata.MuData({"rna": mdata["cells"], "gex": other})
    with pytest.raises(KeyError, match=r"several modalities that may be the RNA \('rna', 'gex'\)"):
        choose(both, Reading())


def test_counts_are_taken_from_where_they_are_said_to_be() -> None:
    adata = cite()
    counts = adata.X.copy()
    adata.layers["counts"] = counts
    adata.raw = adata
    adata.X = np.log1p(counts)
    assert choose(adata, Reading(layer="counts")).layer == "counts"
    assert choose(adata, Reading(layer="X")).layer is None
    of_raw = choose(adata[:, :10].copy(), Reading(layer="raw"))
    np.testing.assert_array_equal(of_raw.rna.X, counts)
    assert of_raw.rna.n_vars == 40
    assert "donor" in of_raw.rna.obs


def test_integer_donors_odd_names_and_raw_counts_go_through(folder: Path, tmp_path: Path) -> None:
    adata = cite(integers=True)
    adata.obs[ODD.replace("/", "")] = adata.obs["donor"].to_numpy()
    del adata.obs["donor"]
    adata.layers["my counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X)
    adata.write_h5ad(tmp_path / "zellen ä.h5ad")
    reading = ("--donor-key", ODD.replace("/", ""), "--layer", "my counts", "--cells", "good")
    model, out = tmp_path / "model (1)", tmp_path / "out ü"
    words = ("--labels-key", "label", "--protein-key", "ADT", "--network.n_hidden", 8, *QUICK)
    assert run("finetune", tmp_path / "zellen ä.h5ad", "--out", model, *reading, *words) == 0
    assert (
        run(
            "predict",
            tmp_path / "zellen ä.h5ad",
            "--model",
            model,
            "--out",
            out / "p.h5ad",
            *reading,
        )
        == 0
    )
    written = ad.read_h5ad(out / "p.h5ad")
    assert written.n_obs == 228
    assert "scbert_pred" in written.obs
    np.testing.assert_array_equal(written.X, adata[adata.obs["good"].to_numpy()].X)
    assert (
        run(
            "signature",
            tmp_path / "zellen ä.h5ad",
            "--out",
            out / "s",
            "--labels-key",
            "label",
            *reading,
            "--min-cells",
            5,
        )
        == 0
    )
    assert (out / "s" / "signature.csv").is_file()


def test_a_corpus_takes_the_modality_and_the_chosen_cells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("annbatch", reason="needs the extra corpus")
    adata = cite(integers=True)
    adata.obs["donor"] = (
        adata.obs["donor"].astype(float).where(np.arange(240) >= 5)
    )  # of cells that are not chosen
    mdata = as_mudata(adata, rna="cells")
    mdata.write(tmp_path / "a.h5mu")
    (tmp_path / "genes.txt").write_text("".join(f"{gene}\n" for gene in adata.var_names))
    words = (
        "corpus",
        tmp_path / "a.h5mu",
        "--vocab",
        tmp_path / "genes.txt",
        "--out",
        tmp_path / "c.zarr",
    )
    assert run(*words) == 2
    assert "has no RNA modality" in (error := capsys.readouterr().err)
    assert "Name the RNA with --modality" in error
    assert run(*words, "--modality", "rna") == 2
    assert "'rna' is not in its modalities; it has 'cells', 'prot'" in capsys.readouterr().err
    assert run(*words, "--modality", "cells", "--cells", "best") == 2
    assert "'best' is not in obs" in (error := capsys.readouterr().err)
    assert "--cells names a column of true and false" in error
    assert run(*words, "--modality", "cells", "--cells", "cll") == 2
    assert "name that column with --cells" in capsys.readouterr().err
    assert run(*words, "--modality", "cells", "--cells", "good") == 0
    made = sc_cll.model.CorpusData(tmp_path / "c.zarr")
    assert made.n_train + made.n_val == 228


def test_a_zarr_store_of_cells_is_read_as_a_file_of_them(folder: Path, tmp_path: Path) -> None:
    ad.read_h5ad(folder / "binned.h5ad").write_zarr(tmp_path / "cells.zarr")
    words = ("--model", folder / "model", "--out", tmp_path / "o.h5ad")
    assert run("predict", tmp_path / "cells.zarr", *words) == 0
    assert ad.read_h5ad(tmp_path / "o.h5ad").n_obs == 240


# ---- what is written


def state(place: Path) -> dict[str, str]:
    """Checksum of every file."""
    files = [place] if place.is_file() else sorted(place.rglob("*"))
    return {
        str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()
    }


@pytest.mark.parametrize("command", ["demo", "pretrain", "finetune", "predict", "signature"])
def test_nothing_is_overwritten_unless_asked_and_that_is_said_before_anything_is_read(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / ("out.h5ad" if command == "predict" else "out")
    if command == "predict":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / ("annotated.h5mu" if command == "demo" else "config.json")).write_text("mine")
    before = state(out)
    more = ("--model", "none") if command == "predict" else ()
    data = ("--input", "no_such.h5ad") if command == "demo" else ("no_such.h5ad",)
    assert run(command, *data, "--out", out, *more) == 2
    error = capsys.readouterr().err
    assert "exists. Name another" in error
    assert "--overwrite" in error
    assert state(out) == before
    assert run(command, *data, "--out", out, *more, "--overwrite") == 2
    assert "There is no file no_such.h5ad" in capsys.readouterr().err
    assert state(out) == before


@pytest.mark.parametrize("command", ["demo", "pretrain", "finetune", "predict", "signature"])
def test_a_place_that_cannot_be_written_to_is_refused_first(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    more = ("--model", "none") if command == "predict" else ()
    data = ("--input", "no_such.h5ad") if command == "demo" else ("no_such.h5ad",)
    assert run(command, *data, "--out", tmp_path / "file" / "out.h5ad", *more) == 2
    assert "so nothing can be put into it. Name another place with --out" in capsys.readouterr().err


def test_a_figure_that_fails_costs_itself_only(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(*_: object, **__: object) -> None:
        assert (tmp_path / "s" / "signature.csv").is_file()  # it was written before
        raise RuntimeError("no font")

    monkeypatch.setattr(sc_cll.pl, "signature", fails)
    words = ("--labels-key", "label", "--min-cells", 5, "--out", tmp_path / "s")
    assert run("signature", folder / "raw.h5ad", *words) == 4
    assert "signature.png could not be drawn (RuntimeError: no font)" in caplog.text
    assert "Everything is written but signature.png" in capsys.readouterr().err
    assert not [
        file
        for file in (tmp_path / "s").iterdir()
        if file.name.startswith(".") or file.suffix == ".png"
    ]


def test_the_demo_writes_all_before_it_draws_and_says_no_sentence_twice(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out, seen = tmp_path / "o", []

    def only_look(*_: object, **__: object) -> dict[str, object]:
        def fails() -> None:
            seen.extend(file.name for file in out.iterdir())
            raise RuntimeError("no display")

        return {"umap": fails}

    monkeypatch.setattr(demo_run.demo_figures, "plots", only_look)
    assert run("demo", "--input", folder / "raw.h5ad", "--cells", "good", "--out", out, *QUICK) == 4
    assert {"model", "annotated.h5ad", "report.md", "report.json", "gene_attention.csv"} <= set(
        seen
    )
    written = ad.read_h5ad(out / "annotated.h5ad")
    assert (
        list(written.obsm) == ["ADT", "X_scbert", "linear_proba", "scbert_proba"]
        or "protein" not in written.obsm
    )
    report = (out / "report.md").read_text()
    assert "umap.png could not be drawn (RuntimeError: no display)" in report
    lines = [line for line in caplog.text.splitlines() if len(line) > 20]
    said = [message for message in caplog.messages if len(message) > 20]
    assert len(said) == len(set(said)), lines
    # a second run of the same command is refused, and nothing has changed
    before = state(out)
    assert run("demo", "--input", folder / "raw.h5ad", "--out", out) == 2
    assert state(out) == before


@pytest.mark.parametrize(
    ("column", "typed", "used"),
    [("donor", [], "donor"), ("donor", ["--donor-key", "none"], "none"), ("patient", [], "none")],
)
def test_finetune_takes_the_usual_donors_as_the_function_does(
    column: str,
    typed: list[str],
    used: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By default the column donor where there is one; without one a sentence says so."""
    adata = _make.cells(binned=True)
    adata.obs = adata.obs.rename(columns={"donor": column})
    adata.write_h5ad(tmp_path / "cells.h5ad")
    seen: dict[str, Any] = {}
    function = sc_cll.tl.finetune

    def noted(*arguments: Any, **options: Any) -> Any:
        seen.update(options)
        return function(*arguments, **options)

    monkeypatch.setattr(sc_cll.tl, "finetune", noted)
    words = [str(tmp_path / "cells.h5ad"), "--out", str(tmp_path / "model"), "--max-epochs", "1"]
    assert main(["finetune", *words, "--accelerator", "cpu", *typed]) == 0
    assert (seen["donor_key"] or "none") == used
    assert ("no obs column donor" in caplog.text) == (column != "donor")
