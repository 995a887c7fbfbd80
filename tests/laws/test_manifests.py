"""A list is read, not a folder: what a manifest names is read and nothing else, left-overs say whose they are, folders of the user stay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scbert_cll as sc_cll
from scbert_cll import _files
from scbert_cll.__main__ import main
from scbert_cll._corpus import building  # noqa: F401

GENES = [f"G{i}" for i in range(30)]
TINY = {"preset": "small", "n_hidden": 16, "n_layers": 1, "n_heads": 2, "dim_head": 8, "gene_embedding": "none"}


def cells(n: int, rng: int, donors: str) -> AnnData:
    """Cells with counts, whose tokens tell where a gene stands."""
    random = np.random.default_rng(rng)
    X = sparse.csr_matrix(random.poisson(0.3 + np.arange(30) / 12, (n, 30)).astype(np.float32))
    obs = pd.DataFrame({"donor": random.choice(list(donors), n)}, index=[f"c{i}" for i in range(n)])
    obs["kind"] = pd.Categorical(random.choice(["a", "b"], n))
    return AnnData(X, obs=obs, var=pd.DataFrame(index=GENES))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sources")
    for i in range(3):
        cells(60, i, "ABCDE").write_h5ad(folder / f"f{i}.h5ad")
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
    return {p.relative_to(folder).as_posix(): _files.sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


def said_by(corpus: Path) -> dict[str, Any]:
    """What every door to a corpus hands out of it."""
    data = sc_cll.model.CorpusData(corpus)
    found: dict[str, Any] = {}
    for part in ("train", "val"):
        some = data.cells(part, np.arange(data.corpus.n_cells(part)), obs=True)
        found[part] = [data.names(part).tolist(), data.obs(part, "kind").tolist(), some.obs["donor"].tolist()]
        found[part] += [some.layers["binned"].toarray().tobytes(), data.readers[part].lengths().tolist()]
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
    _files.write_numbers(corpus / "edges.csv", pd.DataFrame(np.ones((30, 4)), index=GENES), "gene")
    return "edges.csv"


def stray_chunk(corpus: Path, other: Path) -> str:
    """Where zarr stores no chunk since all its values are the default, it would read one that lies there."""
    chunk = corpus / "train" / "dataset_0" / "obs" / "donor" / "codes" / "c" / "9"
    chunk.write_bytes(b"x")
    return chunk.relative_to(corpus).as_posix()


EXTRA = [another_dataset, dataset_before_all, another_part, empty_folder, stray_edges, stray_chunk]


@pytest.mark.parametrize("add", EXTRA)
def test_what_is_not_in_the_list_is_refused_and_named(
    add: Callable[[Path, Path], str], corpus: Path, of_many: Path, model: Any, caplog: pytest.LogCaptureFixture
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
    _files.remove(corpus / name)
    assert said_by(corpus) == said_by(of_one)


def test_a_corpus_copied_over_an_older_one_is_never_read_with_it(of_one: Path, of_many: Path, tmp_path: Path) -> None:
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
    with pytest.raises(ValueError, match=r"is damaged: train/dataset_1/.* \(missing\).*Restore these files"):
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
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
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
            except Exception as error:  # noqa: BLE001 (whatever it is, it is not a sentence)
                bad.append(f"{at} = {new!r}: {error!r}")
            else:
                bad.append(f"{at} = {new!r} is believed")
    file.write_text(before)
    return bad


def test_no_edit_of_a_manifest_is_believed(corpus: Path) -> None:
    for door in (sc_cll.model.CorpusData, sc_cll.io.check_corpus):
        bad = edited(corpus / "manifest.json", lambda door=door: door(corpus), lambda record: record)
        assert not bad, bad


def test_no_edit_of_a_manifest_with_a_right_checksum_ends_in_a_traceback(corpus: Path) -> None:
    """What is sealed and does not fit the schema is refused by a sentence; other values of the right kind may be what was meant."""
    bad = edited(corpus / "manifest.json", lambda: sc_cll.model.CorpusData(corpus), resealed)
    assert not [problem for problem in bad if not problem.endswith("is believed")], bad


def resealed(record: Any) -> Any:
    """A list whose checksum of itself is right."""
    return _files.sealed(record) if isinstance(record, dict) else record


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
        ValueError, match=r"manifest.json is damaged: its checksum of itself is missing.*build it again"
    ):
        sc_cll.model.CorpusData(corpus)
    file.write_text(json.dumps(record | {"format_version": 1}))
    assert said_by(corpus) == said_by(of_one)


def test_a_refused_manifest_is_mended_by_building_again(corpus: Path, of_one: Path, sources: list[Path]) -> None:
    file = corpus / "manifest.json"
    file.write_text(file.read_text().replace('"n_cells": ', '"n_cells": 1'))
    with pytest.raises(ValueError, match="Restore it from a copy, or build it again"):
        sc_cll.io.check_corpus(corpus)
    shutil.rmtree(corpus)
    build(sources, corpus, memory="1GB")
    assert said_by(corpus) == said_by(of_one)
