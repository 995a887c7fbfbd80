"""A list is read, not a folder: what a manifest names is read and nothing else, left-overs say
whose they are, folders of the user stay.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest

import scbert_cll as sc_cll
from scbert_cll.__main__ import main
from scbert_cll._corpus import building
from scbert_cll._corpus.predictions import Shard
from scbert_cll._disk import formats, in_place
from scbert_cll._evaluation.store import Done, FoldStore
from tests._make import graded_cells

GENES = [f"G{i}" for i in range(30)]
TINY = {
    "preset": "small",
    "n_hidden": 16,
    "n_layers": 1,
    "n_heads": 2,
    "dim_head": 8,
    "gene_embedding": "none",
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sources")
    for i in range(3):
        graded_cells(i, 60, "ABCDE").write_h5ad(folder / f"f{i}.h5ad")
    return sorted(folder.iterdir())


def build(sources: list[Path], out: Path, **arguments: Any) -> Path:
    """A corpus of many datasets."""
    options = {"vocab": GENES, "memory": "20KB", "obs_columns": ["kind"]} | arguments
    sc_cll.pp.build_corpus(sources, out, **options)
    return out


@pytest.fixture(scope="module")
def of_many(sources: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(sources, tmp_path_factory.mktemp("many") / "c.zarr")


@pytest.fixture(scope="module")
def of_one(sources: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(sources, tmp_path_factory.mktemp("one") / "c.zarr", memory="1GB")


@pytest.fixture
def corpus(of_one: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(of_one, tmp_path / "c.zarr"))


@pytest.fixture(scope="module")
def model(of_one: Path) -> sc_cll.model.ScBERT:
    return sc_cll.model.ScBERT.from_corpus(sc_cll.model.CorpusData(of_one), rng=0, **TINY)


def checksums(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): formats.sha256(p)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def said_by(corpus: Path) -> dict[str, Any]:
    """What every door to a corpus hands out of it."""
    data = sc_cll.model.CorpusData(corpus)
    found: dict[str, Any] = {}
    for part in ("train", "val"):
        some = data.cells(part, np.arange(data.corpus.n_cells(part)), obs=True)
        found[part] = [
            data.names(part).tolist(),
            data.obs(part, "kind").tolist(),
            some.obs["donor"].tolist(),
        ]
        found[part] += [
            some.layers["binned"].toarray().tobytes(),
            data.readers[part].lengths().tolist(),
        ]
    return found


# ---- corpora: what is beside the list


def another_dataset(corpus: Path, other: Path) -> str:
    """A dataset of another corpus, as a copy over an older one leaves it."""
    shutil.copytree(other / "train" / "dataset_1", corpus / "train" / "dataset_1")
    return "train/dataset_1"


def dataset_before_all(corpus: Path, other: Path) -> str:
    """A dataset that sorts before those of the list."""
    shutil.copytree(other / "train" / "dataset_1", corpus / "train" / "dataset_-1")
    return "train/dataset_-1"


def another_part(corpus: Path, other: Path) -> str:
    shutil.copytree(other / "val", corpus / "test")
    return "test"


def empty_folder(corpus: Path, other: Path) -> str:
    (corpus / "val" / "dataset_7").mkdir()
    return "val/dataset_7"


def stray_edges(corpus: Path, other: Path) -> str:
    """Edges of another corpus, which its own does not have."""
    in_place.replace(
        corpus / "edges.csv",
        *formats.as_numbers(pd.DataFrame(np.ones((30, 4)), index=GENES), "gene"),
    )
    return "edges.csv"


def stray_chunk(corpus: Path, other: Path) -> str:
    """Where zarr stores no chunk since all its values are the default, it would read one that lies
    there.
    """
    chunk = corpus / "train" / "dataset_0" / "obs" / "donor" / "codes" / "c" / "9"
    chunk.write_bytes(b"x")
    return chunk.relative_to(corpus).as_posix()


EXTRA = [another_dataset, dataset_before_all, another_part, empty_folder, stray_edges, stray_chunk]


@pytest.mark.parametrize("add", EXTRA)
def test_what_is_not_in_the_list_is_refused_and_named(
    add: Callable[[Path, Path], str],
    corpus: Path,
    of_many: Path,
    model: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = add(corpus, of_many)
    table = sc_cll.io.check_corpus(corpus).set_index("file")
    assert table.index[~table["is_whole"]].tolist() == [name]
    assert "not in the manifest" in table.loc[name, "problem"]
    doors: list[Callable[[], Any]] = [
        lambda: sc_cll.model.CorpusData(corpus),
        lambda: sc_cll.tl.predict_corpus(corpus, model, corpus.with_name("p.zarr")),
        lambda: sc_cll.tl.pretrain(corpus, max_epochs=1),
    ]
    for door in doors:
        with pytest.raises(ValueError, match=rf"is damaged: {name} \(not in the manifest\)"):
            door()
    assert main(["check", str(corpus)]) == 2
    assert f"{name} not in the manifest" in caplog.text


@pytest.mark.parametrize("add", EXTRA)
def test_the_remedy_of_the_refusal_holds(
    add: Callable[[Path, Path], str], corpus: Path, of_one: Path, of_many: Path
) -> None:
    name = add(corpus, of_many)
    with pytest.raises(ValueError, match="Delete what is not in the manifest") as refusal:
        sc_cll.model.CorpusData(corpus)
    assert name in str(refusal.value)
    in_place.remove(corpus / name)
    assert said_by(corpus) == said_by(of_one)


def test_a_corpus_copied_over_an_older_one_is_never_read_with_it(
    of_one: Path, of_many: Path, tmp_path: Path
) -> None:
    for first, second in ((of_one, of_many), (of_many, of_one)):
        copied = tmp_path / f"{first.parent.name}.zarr"
        shutil.copytree(first, copied)
        shutil.copytree(second, copied, dirs_exist_ok=True)
        if checksums(copied) == checksums(second):
            assert said_by(copied) == said_by(second)
        else:
            with pytest.raises(ValueError, match="not in the manifest"):
                sc_cll.model.CorpusData(copied)


def test_what_is_missing_is_refused_and_named(of_many: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(of_many, tmp_path / "c.zarr"))
    shutil.rmtree(copied / "train" / "dataset_1")
    with pytest.raises(
        ValueError, match=r"is damaged: train/dataset_1/.* \(missing\).*Restore these files"
    ):
        sc_cll.model.CorpusData(copied)
    table = sc_cll.io.check_corpus(copied)
    assert table.loc[~table["is_whole"], "file"].str.startswith("train/dataset_1/").all()


def test_hidden_files_of_a_system_do_no_harm(corpus: Path, of_one: Path) -> None:
    for place in (corpus, corpus / "train", corpus / "train" / "dataset_0" / "obs"):
        (place / ".DS_Store").write_bytes(b"x")
    assert said_by(corpus) == said_by(of_one)
    assert sc_cll.io.check_corpus(corpus)["is_whole"].all()


def test_a_corpus_that_is_linked_is_read(corpus: Path, of_one: Path, tmp_path: Path) -> None:
    shutil.move(corpus / "train", tmp_path / "elsewhere")
    (corpus / "train").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert said_by(corpus) == said_by(of_one)


# ---- the list itself


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Way to every value of nested plain values; of long ones to the first two."""
    yield at
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for name, one in list(inner)[: 2 if at else None]:
        yield from places(one, (*at, name))


def put(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    """The same values with another one in a place."""
    if not at:
        return new
    copied = json.loads(json.dumps(value))
    inner = copied
    for name in at[:-1]:
        inner = inner[name]
    inner[at[-1]] = new
    return copied


WRONG: list[Any] = [None, -1, 7, "x", [], {}, [None], {"x": None}, True]
REFUSED = (ValueError, FileNotFoundError, KeyError)


def edited(file: Path, refuses: Callable[[], object], change: Callable[[Any], Any]) -> list[str]:
    """Edits of a list that are believed, or end in something else than a sentence of ours."""
    before = file.read_text()
    record, bad = json.loads(before), []
    for at in [at for at in places(record) if at]:
        for new in WRONG:
            found = change(put(record, at, new))
            if found == change(record):
                continue
            file.write_text(json.dumps(found))
            try:
                refuses()
            except REFUSED:
                continue
            except Exception as error:  # noqa: BLE001
                bad.append(f"{at} = {new!r}: {error!r}")
            else:
                bad.append(f"{at} = {new!r} is believed")
    file.write_text(before)
    return bad


def test_no_edit_of_a_manifest_is_believed(corpus: Path) -> None:
    for door in (sc_cll.model.CorpusData, sc_cll.io.check_corpus):
        bad = edited(
            corpus / "manifest.json", lambda door=door: door(corpus), lambda record: record
        )
        assert not bad, bad


def test_no_edit_of_a_manifest_with_a_right_checksum_ends_in_a_traceback(corpus: Path) -> None:
    """What is sealed and does not fit the schema is refused by a sentence; other values of the
    right kind may be what was meant.
    """
    bad = edited(corpus / "manifest.json", lambda: sc_cll.model.CorpusData(corpus), resealed)
    assert not [problem for problem in bad if not problem.endswith("is believed")], bad


def resealed(record: Any) -> Any:
    """A list whose checksum of itself is right."""
    return formats.sealed(record) if isinstance(record, dict) else record


@pytest.mark.parametrize("name", ["../dataset_0", "/dataset_0", "dataset_0/../dataset_0", "x"])
def test_a_manifest_does_not_lead_out_of_its_folder(corpus: Path, name: str) -> None:
    file = corpus / "manifest.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps(resealed(put(record, ("parts", "train", 0, "name"), name))))
    with pytest.raises(ValueError, match=r"manifest.json is damaged: .*dataset_"):
        sc_cll.model.CorpusData(corpus)
    record["parts"]["train"][0]["files"] = {"../../../x": [1, "0"]}
    file.write_text(json.dumps(resealed(record)))
    with pytest.raises(ValueError, match=r"manifest.json is damaged: .*'\.\./\.\./\.\./x'"):
        sc_cll.model.CorpusData(corpus)


def test_a_manifest_of_before_is_read_without_its_checksum(corpus: Path, of_one: Path) -> None:
    file = corpus / "manifest.json"
    record = json.loads(file.read_text())
    assert record["format_version"] == 2
    del record["checksum"]
    file.write_text(json.dumps(record))
    with pytest.raises(
        ValueError,
        match=r"manifest.json is damaged: its checksum of itself is missing.*build it again",
    ):
        sc_cll.model.CorpusData(corpus)
    file.write_text(json.dumps(record | {"format_version": 1}))
    assert said_by(corpus) == said_by(of_one)


def test_a_refused_manifest_is_mended_by_building_again(
    corpus: Path, of_one: Path, sources: list[Path]
) -> None:
    file = corpus / "manifest.json"
    file.write_text(file.read_text().replace('"n_cells": ', '"n_cells": 1'))
    with pytest.raises(ValueError, match="Restore it from a copy, or build it again"):
        sc_cll.io.check_corpus(corpus)
    shutil.rmtree(corpus)
    build(sources, corpus, memory="1GB")
    assert said_by(corpus) == said_by(of_one)


# ---- models: a folder copied over another one's


@pytest.fixture(scope="module")
def classifier(of_one: Path, model: Any) -> sc_cll.model.ScBERTClassifier:
    """With labels, history, edges of no gene, and a linear part."""
    found = sc_cll.tl.finetune(of_one, model, labels_key="kind", max_epochs=1, accelerator="cpu")
    assert isinstance(found, sc_cll.model.ScBERTClassifier)
    return found


MORE = {
    "labels.json": "{}",
    "history.csv": "epoch,loss\n0,1.0\n",
    "edges.csv": "gene,0\nG0,1.0\n",
    "linear.safetensors": "x",
}


@pytest.mark.parametrize("name", MORE)
def test_a_file_of_another_model_is_refused_and_named(
    name: str, model: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    model.save(folder)
    assert not (folder / name).exists()
    (folder / name).write_text(MORE[name])
    with pytest.raises(
        ValueError,
        match=rf"holds {name}, which config.json does not list.*Delete what is not listed",
    ):
        sc_cll.model.ScBERT.load(folder)
    (folder / name).unlink()  # the remedy
    assert sc_cll.model.ScBERT.load(folder).genes.tolist() == GENES


def test_a_model_copied_over_another_one_is_never_mixed(
    model: Any, classifier: Any, tmp_path: Path
) -> None:
    classifier.save(tmp_path / "copied")
    model.save(tmp_path / "model")
    shutil.copytree(tmp_path / "model", tmp_path / "copied", dirs_exist_ok=True)
    with pytest.raises(
        ValueError, match=r"copied holds .*labels.json.*, which config.json does not list"
    ):
        sc_cll.model.ScBERT.load(tmp_path / "copied")
    model.save(tmp_path / "copied", overwrite=True)  # the other remedy
    assert sc_cll.model.ScBERT.load(tmp_path / "copied").genes.tolist() == GENES


def test_what_is_no_file_of_a_model_does_no_harm(model: Any, tmp_path: Path) -> None:
    """A hub folder has a card beside the model, and its cache."""
    model.save(tmp_path / "model")
    for name in ("README.md", ".gitattributes", "_scvi_required_metadata.json"):
        (tmp_path / "model" / name).write_text("{}")
    assert sc_cll.model.ScBERT.load(tmp_path / "model").genes.tolist() == GENES


@pytest.mark.parametrize("name", ["weights.safetensors", "vocab.txt"])
def test_what_a_model_needs_is_read_only_where_it_is_listed(
    name: str, model: Any, tmp_path: Path
) -> None:
    model.save(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    del config["sha256"][name]
    file.write_text(json.dumps(resealed(config)))
    with pytest.raises(ValueError, match=rf"config.json is damaged: it does not list {name}"):
        sc_cll.model.ScBERT.load(tmp_path / "model")


@pytest.mark.slow  # every value of a file is changed in many ways
def test_no_edit_of_a_config_is_believed(classifier: Any, tmp_path: Path) -> None:
    classifier.save(tmp_path / "model")
    load = sc_cll.model.ScBERTClassifier.load
    bad = edited(
        tmp_path / "model" / "config.json", lambda: load(tmp_path / "model"), lambda config: config
    )
    assert not bad, bad


@pytest.mark.slow  # every value of a file is changed in many ways
@pytest.mark.parametrize("name", ["config.json", "labels.json"])
def test_no_edit_of_a_model_with_right_checksums_ends_in_a_traceback(
    name: str, classifier: Any, tmp_path: Path
) -> None:
    classifier.save(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())

    def load() -> None:
        if name != "config.json":
            sums = config["sha256"] | {name: formats.sha256(tmp_path / "model" / name)}
            (tmp_path / "model" / "config.json").write_text(
                json.dumps(resealed(config | {"sha256": sums}))
            )
        sc_cll.model.ScBERTClassifier.load(tmp_path / "model", accelerator="cpu")

    same = resealed if name == "config.json" else lambda labels: labels
    bad = edited(tmp_path / "model" / name, load, same)
    assert not [problem for problem in bad if not problem.endswith("is believed")], bad


def test_folders_of_the_user_beside_a_model_stay(model: Any, tmp_path: Path) -> None:
    mine = [
        tmp_path / name
        for name in (".model.old", ".model.new", "model.new", "model.old", ".new_model", "model~")
    ]
    for folder in mine:
        folder.mkdir()
        (folder / "notes.txt").write_text("mine")
    for _ in range(2):
        model.save(tmp_path / "model", overwrite=True)
    assert all((folder / "notes.txt").read_text() == "mine" for folder in mine)
    assert {path.name for path in tmp_path.iterdir()} == {
        "model",
        *(folder.name for folder in mine),
    }


# ---- left-overs of another call


class Cut(BaseException):
    """The process ends here."""


def cut_build(sources: list[Path], out: Path, at: int, **arguments: Any) -> None:
    """A build that ends when it is about to write its dataset number `at`."""
    write, calls = building.write_dataset, list[Path]()

    def some(folder: Path, *rest: Any) -> Any:
        calls.append(folder)
        if len(calls) == at:
            raise Cut
        return write(folder, *rest)

    with mock.patch.object(building, "write_dataset", some), pytest.raises(Cut):
        build(sources, out, **arguments)


def flip(path: Path) -> None:
    """One bit in the middle."""
    data = bytearray(path.read_bytes())
    if data:
        data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "flipped": flip,
    "a list": lambda path: path.write_text("[]"),
    "null": lambda path: path.write_text("null"),
    "no note": lambda path: path.write_text("{}"),
    "not text": lambda path: path.write_bytes(b"\xff\xfe\x00" * 9),
    "gone": lambda path: path.unlink(),
}
LEFT = [
    "plan.json",
    "scans/*",
    "done/*",
    "corpus/*/zarr.json",
    "corpus/vocab.txt",
    "corpus/*/dataset_*/X/**/*",
]
OF_ALL = (
    "cut",
    "flipped",
    "gone",
)  # what is done to every kind of file; the rest to one of JSON and one of arrays


@pytest.fixture(scope="module")
def left_of_a_build(sources: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a build leaves that ends at its third dataset; to be copied."""
    folder = tmp_path_factory.mktemp("left")
    cut_build(sources, folder / "c.zarr", 3)
    return folder


@pytest.mark.slow  # every value of a file is changed in many ways
@pytest.mark.parametrize(
    ("which", "damage"),
    [
        (which, damage)
        for which in LEFT
        for damage in DAMAGES
        if damage in OF_ALL or which in LEFT[:2]
    ],
)
def test_what_is_left_of_a_build_and_does_not_fit_is_made_again(
    which: str,
    damage: str,
    sources: list[Path],
    of_many: Path,
    left_of_a_build: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "c.zarr"
    shutil.copytree(left_of_a_build, tmp_path, dirs_exist_ok=True)
    left = [path for path in sorted((tmp_path / "c.zarr.building").glob(which)) if path.is_file()]
    assert left
    for path in left:
        DAMAGES[damage](path)
    build(sources, out)
    assert checksums(out) == checksums(of_many)
    assert [path.name for path in tmp_path.iterdir()] == ["c.zarr"]


def test_left_overs_that_changed_places_are_made_again(
    sources: list[Path], of_many: Path, tmp_path: Path
) -> None:
    out = tmp_path / "c.zarr"
    cut_build(sources, out, 3)
    for folder in ("scans", "done"):
        first, second, *_ = sorted((tmp_path / "c.zarr.building" / folder).iterdir())
        kept = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(kept)
    build(sources, out)
    assert checksums(out) == checksums(of_many)


OTHER_CALLS: list[dict[str, Any]] = [
    {"vocab": GENES[::-1]},
    {"vocab": GENES[:20]},
    {"min_genes": 3},
    {"obs_columns": []},
    {"method": "quantile"},
    {"binned": False},
    {"donor_key": None},
    {"val_fraction": 0.0},
    {"rng": 5},
    {"memory": "40KB"},
]


@pytest.mark.slow  # a corpus is built for every case
@pytest.mark.parametrize("arguments", OTHER_CALLS, ids=str)
@pytest.mark.parametrize("at", ["scans/", "done/"])
def test_what_another_call_left_is_not_taken_over(
    arguments: dict[str, Any], at: str, sources: list[Path], of_many: Path, tmp_path: Path
) -> None:
    """Left-overs of a call, put beside the plan of another one: whichever files a crash leaves,
    each says whose it is.
    """
    out, other = tmp_path / "c.zarr", tmp_path / "d.zarr"
    cut_build(sources, out, 2)
    cut_build(sources, other, 2, **arguments)
    for path in (tmp_path / "d.zarr.building" / at).iterdir():
        shutil.copy(path, tmp_path / "c.zarr.building" / at)
    if at == "done/":  # with the bytes that they tell of
        shutil.rmtree(tmp_path / "c.zarr.building" / "corpus")
        shutil.copytree(
            tmp_path / "d.zarr.building" / "corpus", tmp_path / "c.zarr.building" / "corpus"
        )
    build(sources, out)
    assert checksums(out) == checksums(of_many)


@pytest.mark.slow  # a corpus is built for every case
@pytest.mark.parametrize(("first", "second"), [(1, 1), (1, 2), (2, 1), (2, 3), (3, 2)])
def test_scans_of_two_calls_never_mix(
    first: int, second: int, sources: list[Path], of_many: Path, tmp_path: Path
) -> None:
    """The first call ends after a file of its scan is in place, another call before one is, and the
    first goes on.
    """
    real = Path.replace

    def cut(vocab: list[str], at: int, *, before: bool) -> None:
        seen = [0]

        def replace(self: Path, target: Path) -> Path:
            seen[0] += "/scans/" in str(target)
            if before and seen[0] == at:
                raise Cut
            moved = real(self, target)
            if seen[0] == at:
                raise Cut
            return moved

        with mock.patch.object(Path, "replace", replace), pytest.raises(Cut):
            build(sources, tmp_path / "c.zarr", vocab=vocab)

    cut(GENES, first, before=False)
    cut(GENES[::-1], second, before=True)
    build(sources, tmp_path / "c.zarr")
    assert checksums(tmp_path / "c.zarr") == checksums(of_many)


def test_a_build_leaves_nothing_in_the_corpus_that_it_does_not_list(
    sources: list[Path], of_many: Path, tmp_path: Path
) -> None:
    cut_build(sources, tmp_path / "c.zarr", 3)
    begun = tmp_path / "c.zarr.building" / "corpus"
    (begun / ".scbert_cll-new-vocab.txt").write_text("half")
    shutil.copytree(begun / "train" / "dataset_0", begun / "train" / "dataset_99")
    (begun / "train" / "dataset_0" / "X" / "stray").write_text("x")
    build(sources, tmp_path / "c.zarr")
    assert checksums(tmp_path / "c.zarr") == checksums(of_many)


def opened(corpus: Path) -> sc_cll.model.CorpusData:
    """Read in windows of 16 cells, some of them with cells of both parts."""
    return sc_cll.model.CorpusData(corpus, chunk_size=8, preload_nchunks=2)


@pytest.fixture(scope="module")
def predicted(of_one: Path, model: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Predictions of a call that was never interrupted."""
    out = tmp_path_factory.mktemp("predicted") / "p.zarr"
    sc_cll.tl.predict_corpus(opened(of_one), model, out, groupby="kind")
    return checksums(out)


def cut_predictions(corpus: Path, model: Any, out: Path, at: int, **options: Any) -> Path:
    """Predictions that end before window number `at` is noted; the folder they are in."""
    add, calls = Shard.add, [0]

    def some(self: Shard, *rest: Any) -> None:
        calls[0] += 1
        if calls[0] == at:
            raise Cut
        add(self, *rest)

    with mock.patch.object(Shard, "add", some), pytest.raises(Cut):
        sc_cll.tl.predict_corpus(opened(corpus), model, out, **{"groupby": "kind"} | options)
    return out.with_name(f"{out.name}.writing")


PREDICTED = [
    "plan.json",
    "laid.json",
    "share_0/*",
    "store/obs/**/*",
    "store/obsm/**/*",
    "store/zarr.json",
    "store/obsm/*/c/*/*",
]


@pytest.fixture(scope="module")
def left_of_predictions(of_one: Path, model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What predictions leave that end at their fifth window; to be copied."""
    return cut_predictions(of_one, model, tmp_path_factory.mktemp("left") / "p.zarr", 5)


@pytest.mark.slow  # every value of a file is changed in many ways
@pytest.mark.parametrize(
    ("which", "damage"),
    [
        (which, damage)
        for which in PREDICTED
        for damage in DAMAGES
        if damage in OF_ALL or which in PREDICTED[:2]
    ],
)
def test_what_is_left_of_predictions_and_does_not_fit_is_made_again(
    which: str,
    damage: str,
    of_one: Path,
    model: Any,
    left_of_predictions: Path,
    predicted: dict[str, str],
    tmp_path: Path,
) -> None:
    folder = tmp_path / left_of_predictions.name
    shutil.copytree(left_of_predictions, folder)
    left = [path for path in sorted(folder.glob(which)) if path.is_file() and path.name[0] != "."]
    assert left
    for path in left:
        DAMAGES[damage](path)
    sc_cll.tl.predict_corpus(opened(of_one), model, tmp_path / "p.zarr", groupby="kind")
    assert checksums(tmp_path / "p.zarr") == predicted
    assert [path.name for path in tmp_path.iterdir()] == ["p.zarr"]


def test_one_bit_of_a_predicted_chunk_is_found(
    of_one: Path, model: Any, predicted: dict[str, str], tmp_path: Path
) -> None:
    folder = cut_predictions(of_one, model, tmp_path / "p.zarr", 4)
    flip(folder / "store" / "obsm" / "X_scbert" / "c" / "1" / "0")
    sc_cll.tl.predict_corpus(opened(of_one), model, tmp_path / "p.zarr", groupby="kind")
    assert checksums(tmp_path / "p.zarr") == predicted


def test_a_damaged_share_of_another_process_is_made_again(
    of_one: Path, model: Any, tmp_path: Path
) -> None:
    for name in ("p.zarr", "whole.zarr"):
        sc_cll.tl.predict_corpus(opened(of_one), model, tmp_path / name, shard=(0, 2))
        if name == "p.zarr":
            flip(tmp_path / "p.zarr.writing" / "store" / "obsm" / "X_scbert" / "c" / "2" / "0")
            (
                tmp_path / "p.zarr.writing" / "store" / "obsm" / "X_scbert" / "c" / "4" / "0"
            ).write_bytes(b"")
        sc_cll.tl.predict_corpus(opened(of_one), model, tmp_path / name, shard=(1, 2))
    assert checksums(tmp_path / "p.zarr") == checksums(tmp_path / "whole.zarr")


@pytest.mark.slow  # predicts a corpus for every case
@pytest.mark.parametrize("what", ["share_0", "store", "laid.json"])
@pytest.mark.parametrize("how", ["another model", "other parts", "no groups"])
def test_what_other_predictions_left_is_not_taken_over(
    how: str, what: str, of_one: Path, model: Any, predicted: dict[str, str], tmp_path: Path
) -> None:
    network = (
        sc_cll.model.ScBERT.from_corpus(opened(of_one), rng=1, **TINY)
        if how == "another model"
        else model
    )
    options = {"other parts": {"parts": ["train"]}, "no groups": {"groupby": None}}.get(how, {})
    other = cut_predictions(of_one, network, tmp_path / "o.zarr", 5, **options)
    folder = cut_predictions(of_one, model, tmp_path / "p.zarr", 3)
    in_place.remove(folder / what)
    (shutil.copytree if (other / what).is_dir() else shutil.copy)(other / what, folder / what)
    sc_cll.tl.predict_corpus(opened(of_one), model, tmp_path / "p.zarr", groupby="kind")
    assert checksums(tmp_path / "p.zarr") == predicted


@pytest.mark.parametrize("damage", [*DAMAGES, "another's"])
def test_a_fold_that_does_not_fit_is_computed_again(damage: str, tmp_path: Path) -> None:
    store, proba = FoldStore(tmp_path), np.random.default_rng(0).random((40, 2))
    store.save("a", "ab" * 32, Done(proba, 1.5))
    (file,) = tmp_path.iterdir()
    assert store.load("a", "ab" * 32) is not None
    if damage == "another's":  # under the name of this one
        store.save("b", "cd" * 32, Done(proba + 1, 1.5))
        next(path for path in tmp_path.iterdir() if path != file).replace(file)
    else:
        DAMAGES[damage](file)
    assert store.load("a", "ab" * 32) is None


# ---- folders of the user

WORKING = {"building": "build_corpus", "writing": "predict_corpus"}


def mine(folder: Path, how: str) -> None:
    """Something of the user's where we would work."""
    if how == "a file":
        folder.write_text("mine")
        return
    folder.mkdir()
    inner = {
        "a file in it": "notes.txt",
        "our names in it": "corpus/a",
        "a hidden one": ".mine",
        "a store": "store/a",
    }
    place = folder / inner[how]
    place.parent.mkdir(exist_ok=True)
    place.write_text("mine")


@pytest.mark.parametrize(
    "how", ["a file", "a file in it", "our names in it", "a hidden one", "a store"]
)
@pytest.mark.parametrize("ending", WORKING)
def test_a_working_folder_of_the_user_is_never_touched(
    ending: str, how: str, sources: list[Path], of_one: Path, model: Any, tmp_path: Path
) -> None:
    place = tmp_path / f"c.zarr.{ending}"
    mine(place, how)
    before = checksums(tmp_path)

    def call() -> None:
        if ending == "building":
            build(sources, tmp_path / "c.zarr", memory="1GB")
        else:
            sc_cll.tl.predict_corpus(of_one, model, tmp_path / "c.zarr")

    with pytest.raises(
        FileExistsError,
        match=rf"c\.zarr\.{ending} is the folder to work in .* Move it to another place",
    ):
        call()
    assert checksums(tmp_path) == before
    place.rename(tmp_path / "elsewhere")  # the remedy
    call()
    assert {path.name for path in tmp_path.iterdir()} == {"c.zarr", "elsewhere"}


def test_what_the_user_puts_into_a_working_folder_stays(
    sources: list[Path], of_many: Path, tmp_path: Path
) -> None:
    cut_build(sources, tmp_path / "c.zarr", 2)
    (tmp_path / "c.zarr.building" / "notes.txt").write_text("mine")
    build(sources, tmp_path / "c.zarr")
    assert checksums(tmp_path / "c.zarr") == checksums(of_many)
    assert [
        path.name for path in (tmp_path / "c.zarr.building").iterdir() if path.name[0] != "."
    ] == ["notes.txt"]


def test_an_empty_working_folder_is_taken(sources: list[Path], tmp_path: Path) -> None:
    (tmp_path / "c.zarr.building").mkdir()
    build(sources, tmp_path / "c.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["c.zarr"]
