"""What is written is what is read: every kind of model by every way out and in again, and every
kind of file.
"""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from mudata import MuData
from safetensors.numpy import load_file, save
from scipy import sparse

import scbert_cll as sc_cll
from scbert_cll import ScBERT, ScBERTClassifier
from scbert_cll.__main__ import main
from scbert_cll._disk import formats, in_place
from scbert_cll._disk.cells import differing_slots, write_cells
from scbert_cll._disk.in_place import NotAsWrittenError
from scbert_cll.model.exchange import folder as exchange_folder
from scbert_cll.vocab import GeneVocab

SOURCE = Path(sc_cll.__file__).parent
CLASSES = {
    2: ["B", "T"],
    3: ["B", "NK", "T"],
    7: [
        "01",
        "1",
        "B cell, naïve",
        "NA",
        "None",
        "True",
        "null",
    ],  # what readers of tables like to take for something else
}
GENES = ["NA", "nan", "1-Mar", "7157", "None", 'a"b', *(f"G{i}" for i in range(36))]
QUIET: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "max_epochs": 1}
TINY = {"n_hidden": 8, "n_heads": 2, "gene_embedding": "learned"}
PUBLISHED = TINY | {"tokens": "all", "end_token": True, "head": "scbert", "stabilizer": "cell"}

KINDS: dict[str, dict[str, Any]] = {  # of models; each with 2, 3 and 7 classes
    "none": {"combine": "none"},
    "average": {"combine": "average"},
    "residual": {"combine": "residual"},
    "protein": {"combine": "average", "protein_key": "protein"},
    "published": {"combine": "average", "network": PUBLISHED},
}
NAMES = ["pretrained", *(f"{kind}_{n}" for kind in KINDS for n in CLASSES)]


@pytest.fixture(scope="module")
def toy() -> AnnData:
    """Cells of six donors; each of 42 genes is high in one of seven classes. Not to be changed."""
    rng = np.random.default_rng(0)
    code = np.arange(168) % 7
    mean = np.where(np.arange(42) % 7 == code[:, None], 5.0, 0.6)
    adata = AnnData(
        sparse.csr_matrix(rng.poisson(mean).astype(np.float32)), var=pd.DataFrame(index=GENES)
    )
    donor = np.arange(168) // 28
    adata.obs["donor"] = [f"P{i}" for i in donor]
    adata.obs["split"] = np.array(["train"] * 4 + ["val", "test"])[donor]
    for n, names in CLASSES.items():
        adata.obs[f"label_{n}"] = pd.Categorical(np.array(names, dtype=object)[code % n])
    adata.obsm["protein"] = pd.DataFrame(
        rng.poisson(3, (168, 3)), adata.obs_names, ["CD19", "CD5", "CD49d"]
    )
    sc_cll.pp.bin_expression(adata)
    return adata


def trained(cells: AnnData, name: str, **more: Any) -> Any:
    adata = cells.copy()
    if name == "pretrained":
        network = {key: value for key, value in TINY.items() if key != "gene_embedding"}
        return sc_cll.tl.pretrain(adata, gene_embedding="learned", network=network, **QUIET)
    kind, _, n = name.partition("_")
    asked = {"labels_key": f"label_{n}", "network": TINY} | KINDS[kind] | QUIET | more
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* has a class called 'NA'")
        return sc_cll.tl.finetune(adata, **asked)


def answers(model: Any, cells: AnnData) -> dict[str, np.ndarray]:
    """All that a model says of cells."""
    if isinstance(model, ScBERT):
        return {"latent": model.get_latent_representation(cells)}
    found = model.predict_parts(cells)
    tables = {"joined": found.joined, "network": found.network, "linear": found.linear}
    assert [list(table) for table in tables.values()] == [model.classes] * 3
    return {name: table.to_numpy() for name, table in tables.items()} | {"latent": found.latent}


def same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        assert np.array_equal(found[name], values), name


@pytest.fixture(scope="module")
def models(toy: AnnData) -> dict[str, Any]:
    return {name: trained(toy, name) for name in NAMES}


@pytest.fixture(scope="module")
def said(models: dict[str, Any], toy: AnnData) -> dict[str, dict[str, np.ndarray]]:
    """What each model said before it was written."""
    return {name: answers(model, toy) for name, model in models.items()}


@pytest.fixture(scope="module")
def folders(models: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every model, saved under its name."""
    folder = tmp_path_factory.mktemp("models")
    for name, model in models.items():
        model.save(folder / name)
    return folder


def load(folder: Path, name: str) -> Any:
    return (ScBERT if name == "pretrained" else ScBERTClassifier).load(
        folder / name, accelerator="cpu"
    )


# ---- models


@pytest.mark.smoke
@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_says_what_it_said(name, folders, said, toy) -> None:
    same(answers(load(folders, name), toy), said[name])


def test_saved_again_it_is_the_same_to_the_byte(folders, tmp_path) -> None:
    for name in NAMES:
        load(folders, name).save(tmp_path / name)
        files = {path.name: path.read_bytes() for path in (folders / name).iterdir()}
        assert {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} == files


FRESH = """
import sys
import anndata as ad, numpy as np
from pathlib import Path
from scbert_cll import ScBERT, ScBERTClassifier

folders, cells, out = Path(sys.argv[1]), ad.read_h5ad(sys.argv[2]), Path(sys.argv[3])
for folder in folders.iterdir():
    model = (ScBERT if folder.name == "pretrained" else ScBERTClassifier).load(
        folder, accelerator="cpu"
    )
    found = {"latent": model.get_latent_representation(cells)}
    if folder.name != "pretrained":
        parts = model.predict_parts(cells)
        found |= {name: getattr(parts, name).to_numpy() for name in ("joined", "network", "linear")}
    np.savez(out / f"{folder.name}.npz", **found)
"""


@pytest.mark.smoke
def test_in_a_fresh_process_it_says_what_it_said(folders, said, toy, tmp_path) -> None:
    toy.write_h5ad(tmp_path / "cells.h5ad")
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        FRESH,
        str(folders),
        str(tmp_path / "cells.h5ad"),
        str(tmp_path),
    ]
    subprocess.run(command, check=True, capture_output=True)
    for name in NAMES:
        with np.load(tmp_path / f"{name}.npz") as found:
            same(dict(found), said[name])


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["pretrained", *(f"average_{n}" for n in CLASSES)])
def test_a_folder_for_the_hub_says_what_the_model_said(name, models, said, toy, tmp_path) -> None:
    pytest.importorskip("huggingface_hub")
    models[name].save_for_hub(tmp_path / name)
    same(
        answers(type(models[name]).from_pretrained(tmp_path / name, accelerator="cpu"), toy),
        said[name],
    )


@pytest.mark.smoke
@pytest.mark.parametrize("n", CLASSES)
@pytest.mark.filterwarnings("ignore:.* has a class called 'NA'")
def test_the_command_line_says_what_python_says(n, models, toy, tmp_path) -> None:
    """finetune and predict are two processes for a user: only the folder goes from one to the
    other.
    """
    data, model, out = (str(tmp_path / name) for name in ("cells.h5ad", "model", "out.h5ad"))
    toy.write_h5ad(data)
    expected = sc_cll.tl.predict(toy, models[f"average_{n}"], copy=True)
    network = [word for key, value in TINY.items() for word in (f"--network.{key}", str(value))]
    options = ["--labels-key", f"label_{n}", "--max-epochs", "1", "--accelerator", "cpu"]
    assert main(["finetune", data, "--out", model, *options, *network]) == 0
    assert main(["predict", data, "--model", model, "--out", out, "--accelerator", "cpu"]) == 0
    found = ad.read_h5ad(out)
    assert (
        found.obs["scbert_pred"].astype(str).tolist()
        == expected.obs["scbert_pred"].astype(str).tolist()
    )
    for table in ("scbert_proba", "linear_proba"):
        pd.testing.assert_frame_equal(
            found.obsm[table], expected.obsm[table], check_exact=True, check_names=False
        )


@pytest.fixture(scope="module")
def corpus(toy: AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("annbatch")
    folder = tmp_path_factory.mktemp("corpus")
    AnnData(toy.X, obs=toy.obs, var=toy.var).write_h5ad(folder / "a.h5ad")
    sc_cll.pp.build_corpus(
        folder / "a.h5ad", folder / "c.zarr", vocab=GENES, obs_columns=list(toy.obs.columns[2:])
    )
    return folder / "c.zarr"


@pytest.mark.smoke
@pytest.mark.parametrize("name", ["pretrained", *(f"average_{n}" for n in CLASSES)])
def test_predictions_of_a_corpus_are_those_of_the_model(
    name, models, said, folders, corpus, toy, tmp_path
) -> None:
    sc_cll.tl.predict_corpus(corpus, load(folders, name), tmp_path / "out.zarr")
    found = ad.read_zarr(tmp_path / "out.zarr")
    rows = toy.obs_names.get_indexer([cell.partition(":")[2] for cell in found.obs_names])
    assert sorted(rows) == list(range(toy.n_obs))
    np.testing.assert_allclose(
        found.obsm["X_scbert"], said[name]["latent"][rows], rtol=0, atol=1e-6
    )  # other batches
    if name != "pretrained":
        assert np.array_equal(found.obsm["linear_proba"].to_numpy(), said[name]["linear"][rows])
        np.testing.assert_allclose(
            found.obsm["scbert_proba"], said[name]["joined"][rows], rtol=0, atol=1e-6
        )
        best = np.array(models[name].classes, dtype=object)[said[name]["joined"][rows].argmax(1)]
        assert found.obs["scbert_pred"].astype(str).tolist() == best.tolist()


@pytest.mark.parametrize("n", CLASSES)
def test_a_resumed_training_ends_in_the_same_model(n, toy, tmp_path) -> None:
    more = {"max_epochs": 2, "checkpoint_dir": tmp_path / "run", "checkpoint_steps": 3}
    whole = answers(trained(toy, f"residual_{n}", **more), toy)
    assert list((tmp_path / "run").glob("*.ckpt"))
    same(
        answers(trained(toy, f"residual_{n}", **more), toy), whole
    )  # goes on from the last checkpoint


@pytest.mark.smoke
@pytest.mark.parametrize("n", CLASSES)
def test_a_checkpoint_of_scbert_says_what_the_network_said(n, models, said, toy, tmp_path) -> None:
    model = models[f"published_{n}"]
    model.to_scbert_checkpoint(tmp_path / "a.pth")
    with warnings.catch_warnings(action="ignore"):  # of attention that is nearly uniform
        found = ScBERTClassifier.from_scbert_checkpoint(
            tmp_path / "a.pth", vocab=GENES, classes=model.classes, accelerator="cpu"
        )
    parts = found.predict_parts(toy)
    assert np.array_equal(parts.network.to_numpy(), said[f"published_{n}"]["network"])
    assert np.array_equal(parts.latent, said[f"published_{n}"]["latent"])


# ---- folders of an older format


def as_old(folder: Path, out: Path, order: str) -> Path:
    """A folder as format 2 wrote it: no versions of what wrote it, coefficients row by row or
    column by column.
    """
    shutil.copytree(folder, out)
    arrays = load_file(out / "linear.safetensors")
    values = arrays["coefficients"]
    rows = np.ascontiguousarray(values.ravel(order=order).reshape(values.shape))
    (out / "linear.safetensors").write_bytes(save(arrays | {"coefficients": rows}))
    config = json.loads((out / "config.json").read_text())
    config |= {"format_version": 2, "versions": {"scbert_cll": "0.1.0"}}
    config["sha256"]["linear.safetensors"] = formats.sha256(out / "linear.safetensors")
    del config["checksum"]  # of itself, since format 4
    (out / "config.json").write_text(json.dumps(config))
    return out


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("asked", ["auto", "told"])
@pytest.mark.parametrize(
    "name", [f"{kind}_{n}" for kind in ("none", "average", "residual") for n in (3, 7)]
)
def test_an_old_folder_of_many_classes_is_refused_and_repaired(
    name, asked, order, folders, said, toy, tmp_path
) -> None:
    old = as_old(folders / name, tmp_path / "model", order)
    before = {path.name: path.read_bytes() for path in old.iterdir()}
    with pytest.raises(
        ValueError, match=rf"has {name[-1]} classes\. .* Remedy: sc_cll\.model\.repair_model\('.*'"
    ) as refusal:
        ScBERTClassifier.load(old)
    if asked == "auto":  # what the refusal says, word for word
        remedy = str(refusal.value).split("Remedy: ")[1].partition(", then load")[0]
        names: dict[str, Any] = {"sc_cll": sc_cll}
        exec(f"order = {remedy.replace('"repaired"', repr(str(tmp_path / 'repaired')))}", names)  # noqa: S102
        assert names["order"] == order
    else:
        assert sc_cll.model.repair_model(old, tmp_path / "repaired", order=order) == order
    same(answers(load(tmp_path, "repaired"), toy), said[name])
    assert {path.name: path.read_bytes() for path in old.iterdir()} == before


@pytest.mark.parametrize("name", ["pretrained", "average_2", "residual_2"])
def test_an_old_folder_that_was_always_right_still_loads(
    name, folders, said, toy, tmp_path
) -> None:
    if name == "pretrained":
        shutil.copytree(folders / name, tmp_path / "model")
        config = tmp_path / "model" / "config.json"
        old = json.loads(config.read_text()) | {"format_version": 1}
        del old["checksum"]  # of itself, since format 4
        config.write_text(json.dumps(old))
        found = ScBERT.load(tmp_path / "model", accelerator="cpu")
    else:
        found = load(as_old(folders / name, tmp_path / "model", "C").parent, "model")
        with pytest.raises(ValueError, match="needs no repair: it has format 2 and 2 classes"):
            sc_cll.model.repair_model(tmp_path / "model", tmp_path / "other")
    same(answers(found, toy), said[name])


def test_a_new_folder_needs_no_repair_and_an_unclear_one_is_said(folders, tmp_path) -> None:
    with pytest.raises(ValueError, match="needs no repair: it has format 4 and 3 classes"):
        sc_cll.model.repair_model(folders / "average_3", tmp_path / "other")
    with pytest.raises(ValueError, match="order must be one of"):
        sc_cll.model.repair_model(folders / "average_3", tmp_path / "other", order="K")
    model = load(folders, "average_3")
    model.linear_.coefficients[:] = 0.0
    model.save(tmp_path / "zero")
    old = as_old(tmp_path / "zero", tmp_path / "old", "C")
    with pytest.raises(ValueError, match=r'do not tell in which order .* order="C" and order="F"'):
        sc_cll.model.repair_model(old, tmp_path / "other")
    assert sc_cll.model.repair_model(old, tmp_path / "other", order="C") == "C"


def test_formats_say_their_version_and_what_wrote_them(folders, corpus, models, tmp_path) -> None:
    config = json.loads((folders / "average_3" / "config.json").read_text())
    assert config["format_version"] == 4
    assert {"scbert_cll", "safetensors", "torch", "numpy", "scvi-tools"} <= config[
        "versions"
    ].keys()
    manifest = json.loads((corpus / "manifest.json").read_text())
    assert manifest["format_version"]
    assert {"scbert_cll", "anndata", "zarr", "numpy"} <= manifest["versions"].keys()
    models["published_3"].to_scbert_checkpoint(tmp_path / "a.pth")
    assert torch.load(tmp_path / "a.pth", weights_only=True)["versions"].keys() == {
        "scbert_cll",
        "torch",
    }
    sc_cll.io.write_csv(pd.DataFrame({"gene": ["NA"], "weight": [1.0]}), tmp_path / "a.csv")
    facts = json.loads((tmp_path / "a.json").read_text())
    assert facts["format_version"]
    assert {"scbert_cll", "pandas", "numpy"} <= facts["versions"].keys()


# ---- text and numbers


NUMBERS = st.floats(width=64) | st.sampled_from([0.1 + 0.2, 5e-324, -0.0, 1e16 / 3])
WORDS = [
    "NA",
    "NaN",
    "null",
    "None",
    "1-Mar",
    "7157",
    "01",
    "1e5",
    "True",
    "inf",
    "-0",
    "",
    " lead",
    "trail ",
    '"q"',
]
TEXTS = st.text(
    st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8
) | st.sampled_from(WORDS)
QUICK = settings(max_examples=60, deadline=None)


@pytest.mark.smoke
@QUICK
@given(
    rows=st.lists(st.tuples(TEXTS, TEXTS, NUMBERS, NUMBERS, st.booleans()), min_size=1, max_size=6)
)
def test_a_table_comes_back_to_the_bit(rows, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    gene, note, weight, single, flag = zip(*rows, strict=True)
    table = pd.DataFrame(
        {
            "gene": pd.Series(gene, dtype=object),
            "weight": np.array(weight),
            "note": pd.Series(note, dtype=object),
        }
    )
    with np.errstate(over="ignore"):
        table = table.assign(
            single=np.array(single).astype(np.float32),
            flag=np.array(flag),
            number=np.arange(len(rows)),
        )
    sc_cll.io.write_csv(table, path)
    assert formats.same(sc_cll.io.read_csv(path), table)
    assert sc_cll.io.read_csv(path).dtypes.astype(str).tolist() == table.dtypes.astype(str).tolist()


@QUICK
@given(
    genes=st.lists(
        TEXTS.map(lambda t: "".join(t.split())).filter(bool), min_size=2, max_size=6, unique=True
    )
)
@pytest.mark.parametrize("end", ["gmt", "gmt.gz"])
def test_sets_of_genes_come_back(end, genes, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("gmt") / f"a.{end}"
    sc_cll.io.write_gmt(
        pd.DataFrame({"gene": genes, "weight": [1.0, *[-1.0] * (len(genes) - 1)]}), path
    )
    assert sc_cll.io.read_gmt(path) == {"CD49D_UP": genes[:1], "CD49D_DN": genes[1:]}


@QUICK
@given(
    genes=st.lists(
        TEXTS.map(str.strip).filter(lambda t: len(t.splitlines()) == 1), min_size=1, unique=True
    )
)
@pytest.mark.parametrize("name", ["a.txt", "a", "a.csv", "a.tsv", "a.txt.gz"])
def test_a_vocabulary_comes_back(name, genes, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("vocab") / name
    GeneVocab(genes).save(path)
    assert list(GeneVocab.read(path)) == genes


def test_a_vocabulary_is_no_h5ad(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"the kind of file of 'a.h5ad' must be one of '.txt'"):
        GeneVocab(["CD5"]).save(tmp_path / "a.h5ad")


def test_a_gene_that_lost_its_name_is_said(tmp_path) -> None:
    sc_cll.io.write_csv(
        pd.DataFrame({"gene": ["NA", "CD5"], "weight": [1.0, 2.0]}), tmp_path / "a.csv"
    )
    adata = AnnData(np.ones((3, 2), np.float32), var=pd.DataFrame(index=["NA", "CD5"]))
    with pytest.raises(
        ValueError,
        match=r"1 genes of the table have no name: .* Read the file with sc_cll.io.read_csv",
    ):
        sc_cll.tl.score_signature(adata, pd.read_csv(tmp_path / "a.csv"))
    assert sc_cll.io.read_csv(tmp_path / "a.csv")["gene"].tolist() == ["NA", "CD5"]


def test_two_keys_that_are_written_alike_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="Two of these keys are written alike"):
        formats.write_json(tmp_path / "a.json", {1: "a", "1": "b"})
    assert not list(tmp_path.iterdir())


# ---- a writer that writes something else


def one_bit(write: Callable[..., Any]) -> Callable[..., Any]:
    """Write, with one bit of what is written turned."""

    def wrong(self: Path, data: bytes) -> Any:
        return write(self, data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])

    return wrong


def by_columns(save: Callable[..., bytes]) -> Callable[..., bytes]:
    """What safetensors 0.8 does to arrays that lie column by column, done to all."""
    return lambda tensors, *more: save(
        {k: v.t().contiguous().view(v.shape) if v.ndim == 2 else v for k, v in tensors.items()},
        *more,
    )


def another(save: Callable[..., None]) -> Callable[..., None]:
    def wrong(content: Any, file: Any) -> None:
        weights = {name: tensor + 1 for name, tensor in content["model_state_dict"].items()}
        save(content | {"model_state_dict": weights}, file)

    return wrong


def one_more(save: Callable[..., None]) -> Callable[..., None]:
    return lambda file, **arrays: save(file, **{name: array + 1 for name, array in arrays.items()})


def upside_down(write: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *args, **how: write(self[::-1], *args, **how)


def doubled(write: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(self: Any, path: Any) -> Any:
        changed = self.copy()
        part = changed["rna"] if isinstance(changed, MuData) else changed
        part.X = part.X * 2
        return write(changed, path)

    return wrong


TABLE = pd.DataFrame({"gene": ["CD5", "CD19"], "weight": [1.0, 2.0]})
WRITERS: dict[str, tuple[Any, str, Callable[..., Any], Callable[..., Any]]] = {
    # what is written: whose function is broken, which, how, and what writes
    "model": (
        exchange_folder,
        "serialize",
        by_columns,
        lambda model, path: model.save(path, overwrite=True),
    ),
    "text of a model": (
        Path,
        "write_bytes",
        one_bit,
        lambda model, path: model.save(path, overwrite=True),
    ),
    "a.pth": (
        torch,
        "save",
        another,
        lambda model, path: model.to_scbert_checkpoint(path, overwrite=True),
    ),
    "a.gmt": (
        Path,
        "write_bytes",
        one_bit,
        lambda _, path: sc_cll.io.write_gmt(TABLE, path, overwrite=True),
    ),
    "a.csv": (
        Path,
        "write_bytes",
        one_bit,
        lambda _, path: sc_cll.io.write_csv(TABLE, path, overwrite=True),
    ),
    "a.txt": (pd.DataFrame, "to_csv", upside_down, lambda _, path: GeneVocab(GENES).save(path)),
    "a.json": (Path, "write_bytes", one_bit, lambda _, path: formats.write_json(path, {"a": 1})),
    "a.npz": (
        np,
        "savez",
        one_more,
        lambda _, path: in_place.replace(path, *formats.as_arrays({"a": np.ones(2)})),
    ),
    "a.h5ad": (AnnData, "write", doubled, lambda model, path: write_cells(path, model.adata)),
    "a.h5mu": (
        MuData,
        "write",
        doubled,
        lambda model, path: write_cells(path, MuData({"rna": model.adata})),
    ),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_does_not_read_back_replaces_nothing(name, models, tmp_path, monkeypatch) -> None:
    owner, function, broken, write = WRITERS[name]
    if "model" in name:
        models["average_2"].save(tmp_path / name)
    else:
        (tmp_path / name).write_text("old")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with monkeypatch.context() as patch, warnings.catch_warnings(action="ignore"):
        patch.setattr(owner, function, broken(getattr(owner, function)))
        with pytest.raises(
            NotAsWrittenError, match=rf"{name} was not written: it reads back as something else"
        ):
            write(models["published_3"], tmp_path / name)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_predictions_of_a_corpus_that_do_not_read_back_are_not_put_in_place(
    corpus, models, tmp_path, monkeypatch
) -> None:
    write, out = zarr.Array.__setitem__, tmp_path / "out.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(
            zarr.Array, "__setitem__", lambda self, rows, found: write(self, rows, found[::-1])
        )
        with pytest.raises(NotAsWrittenError, match="reads back as something else"):
            sc_cll.tl.predict_corpus(corpus, models["average_3"], out)
    assert not out.exists()


def test_a_corpus_that_does_not_read_back_is_not_put_in_place(toy, tmp_path, monkeypatch) -> None:
    annbatch = pytest.importorskip("annbatch")
    write = annbatch.write_sharded
    AnnData(toy.X, obs=toy.obs, var=toy.var).write_h5ad(tmp_path / "a.h5ad")

    def doubled(group: Any, adata: AnnData, **how: Any) -> None:
        write(group, AnnData(adata.X * 2, obs=adata.obs, var=adata.var), **how)

    with monkeypatch.context() as patch:
        patch.setattr(annbatch, "write_sharded", doubled)
        with pytest.raises(NotAsWrittenError, match="reads back as something else"):
            sc_cll.pp.build_corpus(tmp_path / "a.h5ad", tmp_path / "c.zarr", vocab=GENES)
    assert not (tmp_path / "c.zarr").exists()
    sc_cll.pp.build_corpus(tmp_path / "a.h5ad", tmp_path / "c.zarr", vocab=GENES)


def test_a_file_of_cells_names_the_slots_that_differ(toy, tmp_path) -> None:
    write_cells(tmp_path / "a.h5ad", toy)
    other = toy.copy()
    other.X = other.X * 2
    other.obs["donor"] = other.obs["donor"].to_numpy()[::-1]
    other.obsm["protein"] = other.obsm["protein"] + 1
    other.uns["more"] = 1
    found = {"X", "obs['donor']", "obsm['protein']", "uns['more']"}
    assert set(differing_slots(tmp_path / "a.h5ad", other)) == found
    assert not differing_slots(tmp_path / "a.h5ad", toy)


# ---- no way around

WRITE = {
    "write_text",
    "write_bytes",
    "savez",
    "savez_compressed",
    "save_file",
    "serialize",
    "write_h5ad",
    "write_h5mu",
}
WRITE |= {
    "write_zarr",
    "write_elem",
    "write_sharded",
    "to_parquet",
    "to_excel",
    "to_pickle",
    "tofile",
    "dump",
    "savetxt",
}
KNOWN = {  # who may write without being read back by `_files`, and why
    ("_disk/formats.py", "write_bytes"),
    ("_disk/formats.py", "savez"),
    ("_disk/left_overs.py", "write_text"),  # who holds a lock
    ("model/exchange/folder.py", "write_bytes"),  # inside a folder that is read back as a whole
    ("model/exchange/folder.py", "serialize"),
    ("model/exchange/scbert_layout.py", "torch.save"),
    ("model/training/checkpoints.py", "torch.save"),  # to memory
    ("model/training/devices.py", "write_text"),  # to the system
    ("vocab.py", "to_csv"),
    ("_corpus/write.py", "write_sharded"),
    ("_corpus/predictions.py", "write_elem"),  # read back array by array
    ("io.py", "write_bytes"),
}


def test_nothing_is_written_but_through_the_one_door() -> None:
    """A call that writes, in a file that is not on the list: give it to `_in_place.replace` with
    what reads it back.
    """
    found = set()
    for path in SOURCE.rglob("*.py"):
        for call in (
            node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
        ):
            name = getattr(call.func, "attr", getattr(call.func, "id", ""))
            whole = ast.unparse(call.func)
            is_write = name in WRITE and not whole.startswith("_files.")
            is_write &= not (name == "write_text" and whole == "write_text")  # ours
            is_write |= name == "to_csv" and bool(call.args)
            is_write |= whole in {"torch.save", "np.save", "json.dump", "pickle.dump"}
            if is_write:
                found.add(
                    (path.relative_to(SOURCE).as_posix(), whole if whole == "torch.save" else name)
                )
    assert found == KNOWN
