"""Model folders: complete, readable, safe to load, and never lost."""

from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from safetensors.numpy import load_file

from scbert_cll import pp
from scbert_cll._disk.formats import sealed
from scbert_cll.model import ScBERT, ScBERTClassifier
from scbert_cll.model.exchange import folder as exchange_folder

FILES = {"config.json", "vocab.txt", "history.csv", "weights.safetensors"}


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def edit_config(folder: Path, **changes: object) -> None:
    """Change entries of config.json, as if it had been written so; None takes one out."""
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(
        json.dumps(sealed({k: v for k, v in config.items() if v is not None}))
    )


def state(model) -> dict[str, torch.Tensor]:
    return model.module.state_dict()


@pytest.fixture
def folder(classifier, tmp_path) -> Path:
    """A saved classifier."""
    classifier.save(tmp_path / "model")
    return tmp_path / "model"


# ---- there and back


def test_loaded_model_says_the_same(model, tmp_path, new_cells, answers):
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", accelerator="cpu")
    found, expected = answers(loaded, new_cells), answers(model, new_cells)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert all(torch.equal(state(loaded)[name], tensor) for name, tensor in state(model).items())
    assert loaded.config == model.config
    assert loaded.genes.equals(model.genes)
    assert loaded.is_trained
    assert not loaded.module.training


PREDICT = """
import sys
import anndata as ad, numpy as np
from scbert_cll import pp
from scbert_cll._disk.formats import sealed
from scbert_cll.model import ScBERT, ScBERTClassifier

folder, counts, out = sys.argv[1:]
adata = ad.read_h5ad(counts)
for name, cls in [("scbert", ScBERT), ("published", ScBERTClassifier)]:
    model = cls.load(f"{folder}/{name}", accelerator="cpu")
    pp.bin_expression(adata, edges=model.binning)
    np.save(f"{out}/{name}.npy", model.get_latent_representation(adata))
model.predict(adata, soft=True).to_csv(f"{out}/probabilities.csv")
"""


@pytest.mark.slow  # starts a process
def test_a_fresh_process_needs_the_folder_and_new_counts_only(
    scbert, published, new_cells, tmp_path
):
    scbert.save(tmp_path / "scbert")
    published.save(tmp_path / "published")
    AnnData(new_cells.X, obs=new_cells.obs, var=new_cells.var).write_h5ad(tmp_path / "counts.h5ad")
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        PREDICT,
        tmp_path,
        tmp_path / "counts.h5ad",
        tmp_path,
    ]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    for name, model in [("scbert", scbert), ("published", published)]:
        expected = model.get_latent_representation(new_cells)
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), expected, rtol=0, atol=1e-6)
    found = pd.read_csv(tmp_path / "probabilities.csv", index_col=0)
    expected = published.predict(new_cells, soft=True)
    assert list(found.index) == list(new_cells.obs_names)
    assert list(found) == ["a", "b"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_the_folder_can_be_read_with_a_text_editor(folder, classifier):
    assert {file.name for file in folder.iterdir()} == FILES | {"labels.json", "linear.safetensors"}
    config = json.loads((folder / "config.json").read_text())
    assert config["class"] == "ScBERTClassifier"
    assert config["network"]["n_hidden"] == 16
    assert config["setup"] == {"labels_key": "label", "layer": "binned", "exclude_genes": []}
    cut = {"method": "log2", "n_bins": 5, "target_sum": 300.0, "layer": "X", "n_genes": 60}
    assert config["binning"]["params"].items() >= cut.items()
    assert (folder / "vocab.txt").read_text().splitlines() == [f"G{i}" for i in range(60)]
    assert json.loads((folder / "labels.json").read_text()) == {
        "labels_key": "label",
        "classes": ["a", "b"],
    }
    assert list(pd.read_csv(folder / "history.csv")["epoch"]) == list(range(1, 9))
    weights = load_file(folder / "weights.safetensors")
    assert weights.keys() == state(classifier).keys()


def test_history_comes_back(folder, classifier):
    loaded = ScBERTClassifier.load(folder)
    assert loaded.history.keys() == classifier.history.keys()
    for name, frame in classifier.history.items():
        pd.testing.assert_frame_equal(
            loaded.history[name], frame, check_dtype=False, check_index_type=False, check_exact=True
        )


def test_an_untrained_model_comes_back_untrained(adata, tmp_path):
    ScBERTClassifier.setup_anndata(adata, labels_key="label")
    ScBERTClassifier(adata, gene_embedding="learned").save(tmp_path / "model")
    loaded = ScBERTClassifier.load(tmp_path / "model", adata)
    assert loaded.history is None
    with pytest.raises(RuntimeError, match="has not been trained"):
        loaded.predict()


def test_learned_edges_come_back_bit_by_bit(adata, pretrain, tmp_path):
    silent = adata.X.toarray()
    silent[:, 7] = 0  # a gene no cell expresses has infinite edges
    cells = AnnData(
        silent, obs=adata.obs, var=pd.DataFrame(index=["NA", "7157", "nan", *adata.var_names[3:]])
    )
    pp.bin_expression(cells, method="gene_quantile")
    edges = cells.uns["binned"]["edges"]
    assert np.isinf(edges.loc["G7"]).all()
    model = pretrain(cells, 1)
    model.save(tmp_path / "model")
    assert (tmp_path / "model" / "edges.csv").read_text().startswith("gene,1,2,3,4,5\nNA,")
    loaded = ScBERT.load(tmp_path / "model", cells)
    pd.testing.assert_frame_equal(
        loaded.binning["edges"], edges, check_exact=True, check_names=False, check_index_type=False
    )
    assert list(loaded.genes[:3]) == ["NA", "7157", "nan"]
    assert np.array_equal(loaded.get_latent_representation(), model.get_latent_representation())
    other = AnnData(silent[:60], obs=adata.obs[:60], var=cells.var)
    pp.bin_expression(other, method="gene_quantile")
    with pytest.raises(ValueError, match="its edges were learned from other cells"):
        loaded.get_latent_representation(other)
    pp.bin_expression(other, edges=loaded.binning, key_added="again")
    other.layers["binned"], other.uns["binned"] = other.layers["again"], other.uns["again"]
    np.testing.assert_allclose(
        loaded.get_latent_representation(other),
        model.get_latent_representation()[:60],
        rtol=0,
        atol=1e-6,
    )


def test_excluded_genes_stay_excluded(adata, pretrain, tmp_path, answers, same):
    model = pretrain(adata, 1, setup={"exclude_genes": ["G3", "G50"]})
    model.save(tmp_path / "model")
    loaded = ScBERT.load(tmp_path / "model")
    assert not {"G3", "G50"} & set(loaded.genes)
    before = answers(loaded, adata)
    tokens = adata.layers["binned"].tolil()
    tokens[:, [3, 50]] = 5
    adata.layers["binned"] = tokens.tocsr()
    same(answers(loaded, adata), before, atol=0)


def test_cells_can_be_attached_with_their_genes_in_any_order(folder, new_cells, classifier):
    loaded = ScBERTClassifier.load(folder, new_cells[:, ::-1].copy())
    assert np.array_equal(loaded.predict(soft=True), classifier.predict(new_cells, soft=True))


def test_a_model_loaded_without_cells_asks_for_them(folder):
    loaded = ScBERTClassifier.load(folder)
    assert loaded.adata is None
    for ask in (loaded.predict, loaded.get_latent_representation, loaded.get_cell_attention):
        with pytest.raises(ValueError, match="loaded without cells; name them"):
            ask()
    with pytest.raises(ValueError, match="loaded without cells; name them"):
        loaded.train(1)


# ---- no pickle


def test_nothing_is_a_pickle_and_nothing_is_unpickled(folder, new_cells, monkeypatch):
    for file in folder.iterdir():
        with pytest.raises((pickle.UnpicklingError, ValueError, EOFError, KeyError, IndexError)):
            pickle.loads(file.read_bytes())  # noqa: S301

    def refuse(*args, **kwargs):
        raise AssertionError("unpickled")

    for module, name in [
        (torch, "load"),
        (pickle, "load"),
        (pickle, "loads"),
        (pickle, "Unpickler"),
    ]:
        monkeypatch.setattr(module, name, refuse)
    ScBERTClassifier.load(folder).predict(new_cells)


# ---- where it is written


def test_an_existing_model_is_replaced_only_when_asked(folder, scbert):
    before = contents(folder)
    with pytest.raises(FileExistsError, match="exists; pass overwrite=True"):
        scbert.save(folder)
    assert contents(folder) == before
    scbert.save(folder, overwrite=True)
    assert {file.name for file in folder.iterdir()} == FILES  # labels.json went with the classifier
    assert ScBERT.load(folder).is_trained
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_a_folder_with_other_files_is_never_replaced(folder, scbert):
    (folder / "thesis.docx").write_text("years of work")
    before = contents(folder)
    with pytest.raises(FileExistsError, match=r"files that are not a model's \(thesis.docx\)"):
        scbert.save(folder, overwrite=True)
    assert contents(folder) == before


def test_a_file_is_never_replaced(scbert, tmp_path):
    path = tmp_path / "thesis.docx"
    path.write_text("years of work")
    with pytest.raises(FileExistsError, match="not a model's"):
        scbert.save(path, overwrite=True)
    assert path.read_text() == "years of work"


def test_missing_parents_are_made_and_links_followed(scbert, tmp_path):
    scbert.save(tmp_path / "a" / "b" / "model")
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b" / "model")
    scbert.save(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert sorted(p.name for p in tmp_path.rglob("*")) == sorted(
        ["a", "b", "model", "link", *FILES]
    )


@pytest.mark.parametrize(
    ("mask", "expected"),
    [(0o022, (0o755, 0o644)), (0o027, (0o750, 0o640)), (0o077, (0o700, 0o600))],
)
def test_permissions_follow_the_umask(scbert, tmp_path, mask, expected):
    before = os.umask(mask)
    try:
        scbert.save(tmp_path / "model")
    finally:
        os.umask(before)
    assert (tmp_path / "model").stat().st_mode & 0o777 == expected[0]
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "model").iterdir()} == {expected[1]}


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def stop(*args, **kwargs):
    raise KeyboardInterrupt


def fail_second(call):
    """Let the first call pass."""
    calls = []

    def second(self, *args):
        calls.append(args)
        return call(self, *args) if len(calls) == 1 or len(calls) > 2 else full()

    return second


CRASHES = {
    "weights": (exchange_folder, "serialize", full),
    "history": (pd.DataFrame, "to_csv", full),
    "text": (Path, "write_bytes", full),
    "stopped": (pd.DataFrame, "to_csv", stop),
    "first rename": (Path, "rename", full),
    "second rename": (Path, "rename", fail_second(Path.rename)),
}


@pytest.mark.parametrize("crash", CRASHES)
def test_a_crash_while_saving_leaves_the_old_model_as_it_was(folder, scbert, monkeypatch, crash):
    before = contents(folder)
    with monkeypatch.context() as patch:
        patch.setattr(*CRASHES[crash])
        with pytest.raises((OSError, KeyboardInterrupt)):
            scbert.save(folder, overwrite=True)
    assert contents(folder) == before
    assert [p.name for p in folder.parent.iterdir()] == ["model"]
    scbert.save(folder, overwrite=True)
    ScBERT.load(folder)


@pytest.mark.parametrize("crash", ["weights", "history", "text", "stopped", "first rename"])
def test_a_crash_while_saving_leaves_nothing_half_made(scbert, tmp_path, monkeypatch, crash):
    with monkeypatch.context() as patch:
        patch.setattr(*CRASHES[crash])
        with pytest.raises((OSError, KeyboardInterrupt)):
            scbert.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


# ---- what is refused


def truncate(folder):
    file = folder / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def flip(name, place=-1):
    def damage(folder):
        data = bytearray((folder / name).read_bytes())
        data[place] ^= 1
        (folder / name).write_bytes(data)

    return damage


def remove(name):
    return lambda folder: (folder / name).unlink()


def write(text):
    return lambda folder: (folder / "config.json").write_text(text)


DAMAGES = {
    "truncated": (
        truncate,
        ValueError,
        r"weights.safetensors is damaged or missing: its checksum differs",
    ),
    "flipped weight": (flip("weights.safetensors"), ValueError, r"weights.safetensors is damaged"),
    "flipped gene": (flip("vocab.txt", 1), ValueError, r"vocab.txt is damaged"),
    "flipped label": (flip("labels.json", 30), ValueError, r"labels.json is damaged"),
    "flipped history": (flip("history.csv"), ValueError, r"history.csv is damaged"),
    "no weights": (
        remove("weights.safetensors"),
        FileNotFoundError,
        "whole model folder .* weights.safetensors missing",
    ),
    "no genes": (remove("vocab.txt"), FileNotFoundError, "vocab.txt missing; it holds config.json"),
    "no labels": (remove("labels.json"), ValueError, r"labels.json is damaged or missing"),
    "broken JSON": (write('{"format": '), ValueError, r"config.json is damaged: Expecting value"),
    "not text": (
        lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"),
        ValueError,
        "config.json is damaged",
    ),
    "a list": (write("[1, 2]"), ValueError, "expected a JSON object"),
    "another's config": (
        write('{"model_type": "bert"}'),
        ValueError,
        "not a model folder of scbert_cll: .* does not say format",
    ),
    "half a config": (
        lambda f: edit_config(f, network=None, binning=None),
        ValueError,
        "it lacks binning, network",
    ),
    "newer": (
        lambda f: edit_config(f, format_version=99),
        ValueError,
        "newer scbert_cll .format 99, .* upgrade",
    ),
    "other width": (
        lambda f: edit_config(
            f, network=json.loads((f / "config.json").read_text())["network"] | {"n_hidden": 20}
        ),
        ValueError,
        r"config.json does not fit its weights",
    ),
    "unknown choice": (
        lambda f: edit_config(f, network={"width": 3}),
        ValueError,
        "does not fit its weights.*'width'",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused(folder, damage):
    harm, error, match = DAMAGES[damage]
    harm(folder)
    with pytest.raises(error, match=match):
        ScBERTClassifier.load(folder)


def test_what_is_no_model_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no model folder"):
        ScBERT.load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        FileNotFoundError,
        match=r"config.json, vocab.txt, weights.safetensors missing; it holds nothing",
    ):
        ScBERT.load(tmp_path / "empty")
    (tmp_path / "scvi").mkdir()
    torch.save({"model_state_dict": {}}, tmp_path / "scvi" / "model.pt")
    with pytest.raises(FileNotFoundError, match=r"config.json, .* missing; it holds model.pt"):
        ScBERT.load(tmp_path / "scvi")
    with pytest.raises(ValueError, match="is a file; a model of scbert_cll is a folder"):
        ScBERT.load(tmp_path / "scvi" / "model.pt")


def test_a_model_is_loaded_by_its_own_class(scbert, folder, tmp_path):
    scbert.save(tmp_path / "scbert")
    with pytest.raises(
        ValueError, match=r"holds a ScBERT, not a ScBERTClassifier; use ScBERT.load"
    ):
        ScBERTClassifier.load(tmp_path / "scbert")
    with pytest.raises(
        ValueError, match=r"holds a ScBERTClassifier, not a ScBERT; use ScBERTClassifier.load"
    ):
        ScBERT.load(folder)
