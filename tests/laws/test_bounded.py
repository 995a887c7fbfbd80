"""Costs are bounded: what a small file asks for is compared with what it holds, texts and their
lines have an end, only plain files are opened.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from safetensors.torch import save_file

import scbert_cll as sc_cll
from scbert_cll.__main__ import main
from scbert_cll._checks import files
from scbert_cll._disk import formats
from scbert_cll.model import ScBERT, ScBERTClassifier

GENES = ["ITGA4", "CD38", "CD5"]
TINY = {"n_hidden": 8, "n_heads": 2, "dim_head": 4, "n_layers": 2, "gene_embedding": "learned"}
SECONDS = 20  # of what must answer at once


@pytest.fixture
def at_once() -> Iterator[None]:
    """What waits, or works for long, is interrupted."""

    def stop(*_: Any) -> None:
        raise TimeoutError("waited")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def four_cells() -> AnnData:
    adata = AnnData(np.ones((4, 3), np.float32), var=pd.DataFrame(index=GENES))
    adata.obs["donor"] = ["a", "a", "b", "b"]
    adata.obs["kind"] = pd.Categorical(["x", "y", "x", "y"])
    return adata


def command(*words: str) -> Callable[[Path], None]:
    """A command that is to read a path; what it says is raised."""

    def run(path: Path) -> None:
        out = str(path.parent / "out")
        try:
            code = main([word.format(path=path, out=out) for word in words])
        except SystemExit as stop:
            code = stop.code
        assert code == 2
        raise ValueError("exit 2")

    return run


# ---- only plain files are opened

OPENS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "vocabulary": (".txt", sc_cll.vocab.GeneVocab.read),
    "vocabulary, table": (".csv", sc_cll.vocab.GeneVocab.read),
    "vocabulary, cells": (".h5ad", sc_cll.vocab.GeneVocab.read),
    "align_genes": (".txt", lambda path: sc_cll.pp.align_genes(four_cells(), path)),
    "aliases": (".tsv", sc_cll.vocab.read_aliases),
    "gene sets": (".gmt", sc_cll.io.read_gmt),
    "signature": (".csv", sc_cll.io.read_csv),
    "cohort": (".csv", lambda path: sc_cll.datasets.read_cohort(None, path)),
    "GEO series": (".txt.gz", sc_cll.datasets.read_geo_series),
    "probes": (".csv", lambda path: sc_cll.pp.collapse_probes(four_cells(), path)),
    "orthologues": (".csv", lambda path: sc_cll.pp.to_human(four_cells(), path)),
    "vectors": (".txt", lambda path: sc_cll.tl.gene2vec(four_cells(), vectors=path)),
    "vectors, npy": (".npy", lambda path: sc_cll.tl.gene2vec(four_cells(), vectors=path)),
    "corpus of files": (
        ".h5ad",
        lambda path: sc_cll.pp.build_corpus([path], path.parent / "c.zarr", vocab=GENES),
    ),
    "vocabulary of a corpus": (
        ".txt",
        lambda path: sc_cll.pp.build_corpus([_h5ad(path)], path.parent / "c", vocab=path),
    ),
    "model": ("", ScBERT.load),
    "model of the hub": ("", ScBERT.from_pretrained),
    "scBERT": (".pth", lambda path: ScBERT.from_scbert_checkpoint(path, vocab=GENES)),
    "scBERT, classes": (
        ".pth",
        lambda path: ScBERTClassifier.from_scbert_checkpoint(path, vocab=GENES, classes=["a", "b"]),
    ),
    "corpus": ("", sc_cll.model.CorpusData),
    "check_corpus": ("", sc_cll.io.check_corpus),
    "predict": (".h5ad", command("predict", "{path}", "--model", "m", "--out", "{out}.h5ad")),
    "predict, corpus": ("", command("predict", "{path}", "--model", "m", "--out", "{out}")),
    "pretrain": (".h5ad", command("pretrain", "{path}", "--out", "{out}")),
    "demo": (".h5ad", command("demo", "--data", "{path}", "--out", "{out}")),
    "options": (".yaml", command("demo", "--config", "{path}", "--out", "{out}")),
}


def _h5ad(path: Path) -> Path:
    place = path.parent / "cells.h5ad"
    four_cells().write_h5ad(place)
    return place


def folder(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def unix_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def nowhere(path: Path) -> None:
    path.symlink_to(path.parent / "gone")


KINDS = [folder, pipe, device, unix_socket, nowhere]


@pytest.mark.usefixtures("at_once")
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # sockets
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("opens", OPENS)
def test_only_plain_files_are_opened(
    tmp_path: Path, opens: str, kind: Callable[[Path], None]
) -> None:
    ending, read = OPENS[opens]
    path = tmp_path / f"in{ending}"
    kind(path)
    with pytest.raises((ValueError, FileNotFoundError)) as told:
        read(path)
    text = str(told.value)
    assert text == "exit 2" or (path.name in text and not text.startswith("[Errno"))


@pytest.mark.usefixtures("at_once")
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("kind", KINDS[1:])
@pytest.mark.parametrize("file", ["config.json", "vocab.txt", "weights.safetensors", "labels.json"])
def test_a_file_of_a_model_is_plain(
    tmp_path: Path, file: str, kind: Callable[[Path], None]
) -> None:
    at = saved(tmp_path)
    (at / file).unlink(missing_ok=True)
    kind(at / file)
    with pytest.raises((ValueError, FileNotFoundError), match=file):
        ScBERTClassifier.load(at)


@pytest.mark.usefixtures("at_once")
def test_a_store_holds_plain_files(tmp_path: Path) -> None:
    store = tmp_path / "c.zarr"
    four_cells().write_zarr(store)
    file = next(file for file in sorted((store / "X").rglob("*")) if file.is_file())
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(ValueError, match="is a named pipe, and a plain file is expected"):
        sc_cll.pp.build_corpus([store], tmp_path / "out.zarr", vocab=GENES)
    assert main(["pretrain", str(store), "--out", str(tmp_path / "out")]) == 2


def test_names_that_are_none() -> None:
    for name in ("a\0b.txt", "x" * 5000 + ".txt"):
        with pytest.raises(ValueError, match="is not a file name"):
            sc_cll.vocab.GeneVocab.read(name)


# ---- sizes that a model's folder asks for


def saved(place: Path, **network: Any) -> Path:
    adata = four_cells()
    sc_cll.pp.bin_expression(adata)
    ScBERTClassifier.setup_anndata(adata, labels_key="kind")
    model = ScBERTClassifier(adata, **(TINY | network))
    at = place / "model"
    model.save(at)
    return at


def asks_for(at: Path, **network: Any) -> None:
    """Change the network in a model's config.json, its checksum with it."""
    record = formats.read_json(at / "config.json")
    record["network"] |= network
    formats.write_json(at / "config.json", formats.sealed(record))


ASKED: dict[str, Any] = {
    "n_random_features": 40_000_000,
    "n_layers": 3_000,
    "n_hidden": 10**8,
    "n_heads": 10**9,
    "dim_head": 10**7,
    "n_feedforward": 10**9,
}


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("size", ASKED)
def test_sizes_are_compared_before_a_network_is_made(
    tmp_path: Path, size: str, capsys: Any
) -> None:
    at = saved(tmp_path)
    asks_for(at, **{size: ASKED[size]})
    for load in (ScBERTClassifier.load, ScBERTClassifier.from_pretrained):
        with pytest.raises(
            ValueError,
            match=r"model is damaged: its config\.json does not fit its weights: .*, and the "
            r"weights have",
        ):
            load(at)
    four_cells().write_h5ad(tmp_path / "c.h5ad")
    words = [
        "predict",
        str(tmp_path / "c.h5ad"),
        "--model",
        str(at),
        "--layer",
        "X",
        "--out",
        str(tmp_path / "p.h5ad"),
    ]
    assert main(words) == 2
    assert "does not fit its weights" in capsys.readouterr().err


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("value", [-1, 1.5, "many", None, True, [3], 10**30])
@pytest.mark.parametrize("size", ASKED)
def test_sizes_that_are_no_sizes(tmp_path: Path, size: str, value: Any) -> None:
    at = saved(tmp_path)
    asks_for(at, **{size: value})
    with pytest.raises(ValueError, match=rf"{size}|damaged"):
        ScBERTClassifier.load(at)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("tokens", ["expressed", "background", "all"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"head": "scbert", "tokens": "all"},
        {"gene_embedding": "none"},
        {"gene_embedding": "sinusoidal"},
        {"end_token": True},
        {"n_random_features": 5},
        {"out_bias": False},
        {"attention": "exact"},
    ],
)
def test_sizes_that_fit_are_read(tmp_path: Path, more: dict[str, Any], tokens: str) -> None:
    assert (
        ScBERTClassifier.load(saved(tmp_path, **({"tokens": tokens} | more))).genes.tolist()
        == GENES
    )


@pytest.mark.usefixtures("at_once")
def test_more_genes_or_classes_than_weights(tmp_path: Path) -> None:
    for file, text in (
        ("vocab.txt", "".join(f"G{i}\n" for i in range(10**5))),
        (
            "labels.json",
            json.dumps({"labels_key": "kind", "classes": [f"c{i}" for i in range(10**5)]}),
        ),
    ):
        at = saved(tmp_path)
        (at / file).write_text(text)
        record = formats.read_json(at / "config.json")
        record["sha256"][file] = formats.sha256(at / file)
        formats.write_json(at / "config.json", formats.sealed(record))
        with pytest.raises(ValueError, match="100,000"):
            ScBERTClassifier.load(at)
        shutil.rmtree(at)


LABELS: dict[str, Any] = {
    "numbers": {"labels_key": "kind", "classes": [1, 2]},
    "a text": {"labels_key": "kind", "classes": "xy"},
    "a mapping": {"labels_key": "kind", "classes": {"x": 1, "y": 2}},
    "twice": {"labels_key": "kind", "classes": ["x", "x"]},
    "a list as key": {"labels_key": ["kind"], "classes": ["x", "y"]},
    "nothing": {},
}


@pytest.mark.parametrize("case", LABELS)
def test_classes_are_names(tmp_path: Path, case: str) -> None:
    at = saved(tmp_path)
    formats.write_json(at / "labels.json", LABELS[case])
    record = formats.read_json(at / "config.json")
    record["sha256"]["labels.json"] = formats.sha256(at / "labels.json")
    formats.write_json(at / "config.json", formats.sealed(record))
    with pytest.raises(ValueError, match=r"labels\.json is damaged"):
        ScBERTClassifier.load(at)


@pytest.mark.parametrize(
    "arrays",
    [
        {"coefficients": (5, 3), "intercept": (5,)},
        {"coefficients": (2, 4), "intercept": (2,)},
        {"coefficients": (2, 3)},
        {"a": (1,)},
    ],
)
def test_the_linear_part_fits(tmp_path: Path, arrays: dict[str, Any]) -> None:
    at = saved(tmp_path)
    save_file(
        {name: torch.zeros(shape, dtype=torch.float64) for name, shape in arrays.items()},
        at / "linear.safetensors",
    )
    record = formats.read_json(at / "config.json")
    record["joined"] = {"combine": "average", "strength": 1.0}
    record["sha256"]["linear.safetensors"] = formats.sha256(at / "linear.safetensors")
    formats.write_json(at / "config.json", formats.sealed(record))
    with pytest.raises(ValueError, match=r"linear\.safetensors does not fit 2 classes and 3 genes"):
        ScBERTClassifier.load(at)
    record["joined"] = {"combine": "what", "strength": "a"}
    formats.write_json(at / "config.json", formats.sealed(record))
    with pytest.raises(
        ValueError,
        match=r"joined\.combine must be one that matches none\|average\|residual.*joined\.strength "
        r"must be a number",
    ):
        ScBERTClassifier.load(at)


# ---- checkpoints of others


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("load", [OPENS["scBERT"][1], OPENS["scBERT, classes"][1]])
def test_tensors_are_no_larger_than_the_file(tmp_path: Path, load: Callable[[Path], Any]) -> None:
    path = tmp_path / "c.pth"
    one = torch.zeros(1)
    torch.save(
        {
            "model_state_dict": {
                "pos_emb.emb.weight": one.expand(10**6, 10**6),
                "token_emb.weight": one.expand(7, 200),
            }
        },
        path,
    )
    with pytest.raises(
        ValueError,
        match=r"its tensors are said to hold 4e\+03 GB|its tensors are said to hold 4,?000 GB",
    ):
        load(path)


@pytest.mark.usefixtures("at_once")
def test_members_of_a_checkpoint_are_not_compressed(tmp_path: Path) -> None:
    path, packed = tmp_path / "c.pth", tmp_path / "p.pth"
    torch.save({"model_state_dict": {"token_emb.weight": torch.zeros(1000, 1000)}}, path)
    with zipfile.ZipFile(path) as read, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as write:
        for member in read.infolist():
            write.writestr(member.filename, read.read(member))
    assert packed.stat().st_size < 10**5
    with pytest.raises(ValueError, match=r"holds 4 MB in .* kB: its members are compressed"):
        ScBERT.from_scbert_checkpoint(packed, vocab=GENES)


# ---- vectors


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("v.bin", b"40000000 10000\nITGA4 \xff\xff\xff\xff"),
        ("v.bin", b"3 0\nITGA4 \xff\xff\xff\xff"),
        ("v.bin", b"99999999999999999999 2\nITGA4 \xff\xff\xff\xff"),
        (
            "v.npy",
            b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, "
            b"'shape': (1000000, 1000000), }".ljust(127)
            + b"\n"
            + b"\0" * 64,
        ),
    ],
)
def test_vectors_are_no_larger_than_the_file(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    (tmp_path / "v.txt").write_text("ITGA4\n")
    with pytest.raises(ValueError, match=rf"vectors: .*{name} cannot be read"):
        sc_cll.tl.gene2vec(four_cells(), vectors=tmp_path / name)


# ---- options


def bomb(depth: int = 9, width: int = 9) -> str:
    """Lists of aliases of lists: width to the power of depth values in some hundred bytes."""
    names = [f"a{i}" for i in range(depth)]
    lines = [f"{names[0]}: &{names[0]} [{', '.join(['x'] * width)}]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * width)}]" for a, b in pairwise(names)]
    return "\n".join([*lines, f"cells: *{names[-1]}", ""])


OPTIONS = {
    "aliases": (bomb(), "no anchors"),
    "aliases in the key": ("&a cells: [x]\nlayer: *a\n", "no anchors"),
    "merge": ("a: &a {cells: x}\n<<: *a\n", "no anchors"),
    "an anchor that nobody uses": ("cells: &a x\n", "no anchors"),
    "deep lists": ("cells: " + "[" * 500, "nested at most 20 deep"),
    "deeper lists": ("cells: " + "[" * 100_000, "exceeded maximum nesting depth"),
    "deep mappings": ("cells: " + "{a: " * 500, "nested at most 20 deep"),
    "large": ("# " + "x" * 2**21 + "\n", "holds 2.1 MB; at most 1 MB are read"),
}


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("case", OPTIONS)
@pytest.mark.parametrize(
    "name", ["demo", "pretrain", "predict", "finetune", "signature", "corpus", "check"]
)
def test_options_are_plain(
    tmp_path: Path, case: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text, message = OPTIONS[case]
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(SystemExit) as stop:
        main([name, "--config", str(file)])
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in err


@pytest.mark.usefixtures("at_once")
def test_values_of_options_are_plain_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["demo", "--config", bomb()])
    assert stop.value.code == 2
    assert "no anchors" in capsys.readouterr().err


# ---- texts

PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    "": bytes,
}
TEXTS = {
    name: OPENS[name]
    for name in (
        "vocabulary",
        "aliases",
        "gene sets",
        "cohort",
        "probes",
        "GEO series",
        "vectors",
        "signature",
    )
}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("shape", ["line", "lines"])
def test_texts_have_an_end(
    tmp_path: Path, monkeypatch: Any, name: str, packed: str, shape: str
) -> None:
    monkeypatch.setattr(files, "MOST_TEXT", 10**6)
    monkeypatch.setattr(files, "MOST_LINE", 10**5)
    monkeypatch.setattr(files, "_AT_A_TIME", 2**14)
    ending, read = TEXTS[name]
    path = tmp_path / f"in{ending.removesuffix('.gz')}{packed}"
    path.write_bytes(PACKED[packed](b"A" * 900_000 if shape == "line" else b"A\tB\n" * 300_000))
    expected = (
        "line of more than 100 kB"
        if shape == "line"
        else ("holds more than 1 MB, unpacked|holds 1.2 MB; at most 1 MB")
    )
    if name == "vectors" and shape == "line":
        expected = "vectors: .* cannot be read"
    with pytest.raises(ValueError, match=expected):
        read(path)


@pytest.mark.slow  # reads gigabytes
@pytest.mark.parametrize("name", ["vocabulary", "gene sets", "GEO series", "cohort"])
@pytest.mark.parametrize("line", [b"A" * 2**20, b"A\t" * 2**19, (b"A" * 1023 + b"\n") * 2**10])
def test_three_gigabytes_in_thirteen_megabytes(tmp_path: Path, name: str, line: bytes) -> None:
    ending, _ = TEXTS[name]
    path = tmp_path / f"in{ending.removesuffix('.gz')}.gz"
    one = gzip.compress(line, 1)  # members of one file, one after the other
    path.write_bytes(one * 3000)
    limit = 7 * 2**30  # of which libraries take four
    script = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.laws import test_bounded as t
try:
    t.TEXTS[{name!r}][1](t.Path({str(path)!r}))
except ValueError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert "has a line of more than 16 MB" in done.stdout or "holds more than 1 GB" in done.stdout


# ---- fields


@pytest.mark.parametrize("name", ["cohort", "GEO series"])
def test_fields_have_an_end(tmp_path: Path, name: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        f'!Sample_title\t"{"x" * 200_000}\n'
        if name == "GEO series"
        else f'patient,"{"x" * 200_000}\n'
    )
    with pytest.raises(ValueError, match=r"t\.csv has a field of more than 131,072 characters"):
        OPENS[name][1](path)


TABLES = {
    "cohort": "patient,years,died,said\nP1,1,1,a\nP2,2,0,{quote}b\nP3,3,0,c\n"
    "P4,4,1,{end}d\nP5,5,1,e\n",
    "probes": "probe,gene\np1,A\np2,{quote}B\np3,C\np4,{end}D\np5,E\n",
    "aliases": "alias,symbol\na,A\nb,{quote}B\nc,C\nd,{end}D\ne,E\n",
    "vocabulary, table": "gene,n\nA,1\nB,{quote}2\nC,3\nD,{end}4\nE,5\n",
}


@pytest.mark.parametrize("end", ['"', ""], ids=["closed later", "never closed"])
@pytest.mark.parametrize("name", TABLES)
def test_a_quote_that_is_not_closed_swallows_no_rows(tmp_path: Path, name: str, end: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(TABLES[name].format(quote='"', end=end))
    with pytest.raises(
        ValueError, match=r"t\.csv has a quote in line 3 that is closed in line \d or never"
    ):
        OPENS[name][1](path)


def test_text_of_several_lines_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        'patient;years;died;said\nP1;1;1;"first\nsecond, line"\nP2;2;0;5" tall\nP3;9;1;"a '
        '""word"""\n'
    )
    found = sc_cll.datasets.read_cohort(None, path, time_key="years", event_key="died").obs
    assert found["said"].tolist() == ["first\nsecond, line", '5" tall', 'a "word"']


def test_a_list_of_genes_with_a_quote(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text('ITGA4\n"CD38\nCD5\nBTK"\nMYC\n')
    with pytest.raises(ValueError, match=r"t\.txt has a quote in line 2"):
        sc_cll.vocab.GeneVocab.read(path)


def test_a_file_of_several_kinds_is_said_to_be_damaged(tmp_path: Path) -> None:
    table = pd.DataFrame({"gene": GENES, "weight": [1.0, 2.0, 3.0]})
    sc_cll.io.write_csv(table, tmp_path / "s.csv")
    for columns in (
        [1],
        "x",
        {"gene": 3, "weight": "float64"},
        {"gene": "object", "weight": "float65"},
    ):
        facts = json.loads((tmp_path / "s.json").read_text()) | {"columns": columns}
        (tmp_path / "s.json").write_text(json.dumps(facts))
        with pytest.raises(ValueError, match=r"s\.json is damaged: its columns"):
            sc_cll.io.read_csv(tmp_path / "s.csv")
