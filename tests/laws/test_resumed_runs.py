"""A run that is resumed is the run that was begun: each argument, label and weight is compared, but
for a list with reasons.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse

from scbert_cll import pp, tl
from scbert_cll.model import ScBERT, ScBERTClassifier
from scbert_cll.model.training import checkpoints
from scbert_cll.model.training.checkpoints import WholeCheckpoints, is_whole, written
from scbert_cll.model.training.options import ELSEWHERE, FREE, Finetuning, Pretraining, compared

QUIET: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}
NETWORK: dict[str, Any] = {"n_hidden": 8, "n_heads": 2, "gene_embedding": "learned", "dropout": 0.1}
RUN: dict[str, Any] = {"max_epochs": 2, "batch_size": 16, "checkpoint_steps": 1} | QUIET


class Stop(L.Callback):
    """Interrupt a training behind its third step."""

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step == 3:
            raise InterruptedError("stopped by the test")


def simulated() -> AnnData:
    """96 cells of six donors, of two classes."""
    rng = np.random.default_rng(0)
    second = np.arange(96) % 2 > 0
    mean = np.tile(rng.gamma(1, 2, 30) + 0.5, (96, 1))
    mean[second, :8] *= 3
    obs = pd.DataFrame(
        {"donor": [f"P{i // 16}" for i in range(96)]}, index=[f"cell{i}" for i in range(96)]
    )
    obs["label"] = pd.Categorical(np.where(second, "b", "a"))
    obs["other_label"] = obs["label"].cat.rename_categories({"a": "A", "b": "B"})
    obs["split"] = [("train", "train", "train", "train", "val", "test")[i // 16] for i in range(96)]
    obs["other_split"] = [
        ("train", "val", "train", "train", "train", "test")[i // 16] for i in range(96)
    ]
    obs["weight"] = rng.uniform(0.5, 2, 96)
    counts = sparse.csr_matrix(rng.poisson(mean).astype(np.float32))
    adata = AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(30)]))
    adata.obsm["protein"] = pd.DataFrame(
        rng.poisson(20, (96, 3)), index=obs.index, columns=["p", "q", "r"]
    )
    pp.bin_expression(adata)
    adata.layers["other"] = adata.layers["binned"].copy()
    adata.layers["other"].data[:] = 1
    adata.uns["other"] = adata.uns["binned"]
    return adata


@pytest.fixture(scope="module")
def world() -> AnnData:
    """The cells; not to be changed."""
    return simulated()


@pytest.fixture
def adata(world: AnnData) -> AnnData:
    """Cells of one's own."""
    return world.copy()


def pretrain(adata: AnnData, folder: Path | None, callbacks: Any = (), **changed: Any) -> Any:
    ScBERT.setup_anndata(adata)
    model = ScBERT(adata, **NETWORK)
    model.train(
        **RUN
        | {"split_key": "split", "checkpoint_dir": folder, "callbacks": list(callbacks)}
        | changed
    )
    return model


def classify(adata: AnnData, folder: Path | None, callbacks: Any = (), **changed: Any) -> Any:
    ScBERTClassifier.setup_anndata(adata, labels_key="label")
    model = ScBERTClassifier(adata, **NETWORK)
    model.train(
        **RUN
        | {"split_key": "split", "checkpoint_dir": folder, "callbacks": list(callbacks)}
        | changed
    )
    return model


def by_verb(
    verb: Callable[..., Any],
    adata: AnnData,
    folder: Path | None,
    callbacks: Any = (),
    **changed: Any,
) -> Any:
    given: dict[str, Any] = (
        RUN | {"split_key": "split", "network": NETWORK, "checkpoint_dir": folder} | changed
    )
    return verb(adata, callbacks=list(callbacks), **given)


KINDS: dict[str, Callable[..., Any]] = {
    "ScBERT.train": pretrain,
    "ScBERTClassifier.train": classify,
    "tl.pretrain": lambda *args, **kw: by_verb(tl.pretrain, *args, **kw),
    "tl.finetune": lambda *args, **kw: by_verb(tl.finetune, *args, **{"labels_key": "label"} | kw),
}
OF: dict[str, Any] = {
    "ScBERT.train": ScBERT.train,
    "ScBERTClassifier.train": ScBERTClassifier.train,
    "tl.pretrain": tl.pretrain,
    "tl.finetune": tl.finetune,
}
# For each argument another value, and what the refusal has to name where that is not the argument
# itself
OTHER: dict[str, tuple[Any, str]] = {
    "accumulate_grad_batches": (2, ""),
    "batch_size": (24, ""),
    "combine": ("residual", ""),
    "donor_key": (None, ""),
    "early_stopping": (None, ""),  # the other one
    "early_stopping_patience": (3, ""),
    "exclude_genes": (["G29"], "network|genes_sha256"),
    "feature_redraw_interval": (2, ""),
    "freeze": ("encoder", ""),
    "gene_embedding": ("sinusoidal", ""),
    "gradient_clip_val": (0.5, ""),
    "labels_key": ("other_label", "labels_sha256"),
    "layer": ("other", "data_sha256"),
    "limit_train_batches": (3, ""),
    "limit_val_batches": (0, ""),
    "lr": (1e-3, ""),
    "mask_fraction": (0.3, ""),
    "max_epochs": (3, ""),
    "max_steps": (7, ""),
    "network": (NETWORK | {"dropout": 0.2}, "dropout"),
    "precision": ("bf16-mixed", ""),
    "preset": ("scbert", "network|n_layers|tokens|head"),
    "protein_key": ("protein", ""),
    "recompute": (True, ""),
    "rng": (1, "seed"),
    "split_key": ("other_split", ""),
    "token_drop": (0.1, ""),
    "val_check_interval": (2, ""),
    "weight_decay": (0.1, ""),
    "weight_key": ("weight", ""),
}
NOT_HERE = {  # of a corpus, whose digest is compared; or that are other things than choices
    "adata": "changed cells have a test of their own",
    "balance": "a digest of the corpus and of how it is read",
    "datamodule": "a digest of the corpus and of how it is read",
    "key_added": "where results go, not what they are",
    "gene_vectors": "they are among the weights that a run starts with",
    "model": "its weights are what a run starts with",
    "num_workers": "how it is read, not what",
}
MORE = (
    "accumulate_grad_batches",
    "gradient_clip_val",
    "limit_train_batches",
    "limit_val_batches",
    "max_steps",
    "precision",
)
MORE += ("val_check_interval",)


def own_names(kind: str) -> list[str]:
    """Arguments of a training by their names, and some of those that Lightning takes."""
    parameters = inspect.signature(OF[kind]).parameters.values()
    return [p.name for p in parameters if p.kind != p.VAR_KEYWORD and p.name != "self"] + list(MORE)


@pytest.fixture(scope="module")
def begun(world: AnnData, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a run that was interrupted; not to be changed."""
    made: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("runs") / "run"
            with pytest.raises(InterruptedError):
                KINDS[kind](world.copy(), made[kind], [Stop()])
        return made[kind]

    return of


def test_every_argument_is_on_a_list_or_has_another_value_here() -> None:
    for kind in KINDS:
        assert set(own_names(kind)) - OTHER.keys() - FREE.keys() - NOT_HERE.keys() == set(), kind


@pytest.mark.parametrize("kind", [Pretraining, Finetuning])
def test_whatever_lightning_takes_is_compared_unless_it_is_on_the_list(kind: Any) -> None:
    names = kind.names()
    own = {f.name for f in fields(kind)}
    options = kind()
    object.__setattr__(options, "trainer", dict.fromkeys(set(names) - own, "another"))
    assert compared(options).keys() == set(names) - FREE.keys() - ELSEWHERE.keys()
    assert all(FREE.values())
    assert not set(FREE) & set(OTHER)


@pytest.mark.slow  # two trainings for every argument
@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in KINDS for name in own_names(kind) if name in OTHER]
)
def test_an_argument_that_changes_is_refused_by_name(
    kind: str, name: str, adata: AnnData, begun: Callable[[str], Path], tmp_path: Path
) -> None:
    value, named = OTHER[name]
    if name == "early_stopping":
        value = not inspect.signature(OF[kind]).parameters[name].default
    shutil.copytree(begun(kind), tmp_path / "run")
    with pytest.raises(ValueError, match=rf"of another run: .*({named or name})") as error:
        KINDS[kind](adata, tmp_path / "run", **{name: value})
    assert not isinstance(error.value, FileExistsError)
    assert len(written(tmp_path / "run")) == 2


@pytest.mark.parametrize("kind", ["ScBERT.train", "tl.finetune"])
def test_what_is_on_the_list_may_change(
    kind: str, adata: AnnData, begun: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(begun(kind), tmp_path / "moved")
    whole = KINDS[kind](simulated(), None)
    changed = {
        "checkpoint_steps": None,
        "checkpoint_minutes": None,
        "enable_progress_bar": True,
        "logger": "csv",
    }
    changed |= {
        "accelerator": "auto",
        "devices": 1,
        "strategy": "auto",
        "log_every_n_steps": 2,
        "num_nodes": 1,
    }
    resumed = KINDS[kind](
        adata, tmp_path / "moved", [Idle()], **changed, enable_model_summary=False
    )
    for name, weight in whole.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], weight), name
    for name, frame in whole.history.items():
        pd.testing.assert_frame_equal(resumed.history[name], frame)


class Idle(L.Callback):
    """A callback that the interrupted run had not."""


def _label(adata: AnnData, part: str) -> None:
    cell = int(np.flatnonzero(adata.obs["split"] == part)[0])
    column = adata.obs["label"].astype(object).to_numpy(copy=True)
    column[cell] = "b" if column[cell] == "a" else "a"
    adata.obs["label"] = pd.Categorical(column)


def _token(adata: AnnData) -> None:
    tokens = adata.layers["binned"]
    tokens.data[0] = tokens.data[0] % 5 + 1


def _part(adata: AnnData) -> None:
    adata.obs["split"] = adata.obs["other_split"]


def _class(adata: AnnData) -> None:
    adata.obs["label"] = adata.obs["label"].cat.rename_categories({"a": "c"})


def _genes(adata: AnnData) -> None:
    adata._inplace_subset_var(np.roll(np.arange(adata.n_vars), 1))


CELLS: dict[str, Callable[[AnnData], None]] = {
    "a training label": lambda adata: _label(adata, "train"),
    "a validation label": lambda adata: _label(adata, "val"),
    "a token": _token,
    "the part of a donor": _part,
    "the name of a class": _class,
    "the order of genes": _genes,
}


@pytest.mark.parametrize("what", CELLS)
def test_cells_that_change_are_refused(
    what: str, adata: AnnData, begun: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(begun("ScBERTClassifier.train"), tmp_path / "run")
    CELLS[what](adata)
    with pytest.raises(
        ValueError, match=r"of another run: .*(data_sha256|labels_sha256|genes_sha256) has changed"
    ):
        classify(adata, tmp_path / "run")


def test_a_weight_that_changes_is_refused(adata: AnnData, tmp_path: Path) -> None:
    with pytest.raises(InterruptedError):
        classify(simulated(), tmp_path / "run", [Stop()], weight_key="weight")
    cell = int(np.flatnonzero(adata.obs["split"] == "train")[0])
    adata.obs.iloc[cell, adata.obs.columns.get_loc("weight")] *= 2
    with pytest.raises(ValueError, match="data_sha256 has changed"):
        classify(adata, tmp_path / "run", weight_key="weight")


def test_another_number_of_threads_is_told(
    adata: AnnData,
    begun: Callable[[str], Path],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # as where OpenMP's threads sleep while they wait
    monkeypatch.setattr("scbert_cll.model._inference.calm", lambda **_: nullcontext())
    shutil.copytree(begun("ScBERT.train"), tmp_path / "run")
    n = torch.get_num_threads()
    torch.set_num_threads(n + 1)
    try:
        with caplog.at_level(logging.INFO, logger="lightning.pytorch.utilities.rank_zero"):
            pretrain(adata, tmp_path / "run")
    finally:
        torch.set_num_threads(n)
    (said,) = [one.getMessage() for one in caplog.records if "Going on from" in one.getMessage()]
    assert re.search(
        rf"Since it was written threads was {n}, is {n + 1}: the weights may differ in their "
        rf"last digits",
        said,
    )


# ---- what else lies in the folder


def _stray(folder: Path) -> None:
    newest = written(folder)[-1]
    (folder / "step_abc.ckpt").write_text("no number")
    shutil.copy(newest, folder / f"{newest.stem} (1).ckpt")
    shutil.copy(newest, folder / "step_-5.ckpt")
    shutil.copy(newest, folder / "step_²5.ckpt")
    (folder / "step_900.ckpt").mkdir()
    (folder / "step_90.ckpt.sha256").write_text("of an earlier version")
    (folder / "notes.txt").write_text("of the user")
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "step_901.ckpt")


def _half(folder: Path) -> None:
    (folder / ".scbert_cll-new-step_25.ckpt").write_bytes(b"half of a checkpoint")


def _no_settings(folder: Path) -> None:
    (folder / "run.json").unlink()


def _damaged_settings(folder: Path) -> None:
    (folder / "run.json").write_bytes(b'{"lr": \xff')


def _settings_are_a_list(folder: Path) -> None:
    (folder / "run.json").write_text("[1, 2]")


def _settings_are_a_folder(folder: Path) -> None:
    (folder / "run.json").unlink()
    (folder / "run.json").mkdir()


def _unsealed(folder: Path) -> None:
    torch.save({"state_dict": {}}, folder / "step_77.ckpt")


def _cut(folder: Path) -> None:
    content = written(folder)[-1].read_bytes()
    (folder / "step_78.ckpt").write_bytes(content[:-1])
    (folder / "step_79.ckpt").write_bytes(content[: len(content) // 2])
    (folder / "step_80.ckpt").write_bytes(b"")


@pytest.mark.parametrize(
    "there",
    [
        _stray,
        _half,
        _no_settings,
        _damaged_settings,
        _settings_are_a_list,
        _settings_are_a_folder,
        _unsealed,
        _cut,
    ],
)
def test_what_else_lies_in_the_folder_changes_nothing(
    there: Callable[[Path], None], adata: AnnData, begun: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(begun("ScBERT.train"), tmp_path / "run")
    there(tmp_path / "run")
    resumed, whole = pretrain(adata, tmp_path / "run"), pretrain(simulated(), None)
    for name, weight in whole.module.state_dict().items():
        assert torch.equal(resumed.module.state_dict()[name], weight), name
    assert not list((tmp_path / "run").glob(".*.new"))


def test_a_file_is_no_folder_for_checkpoints(adata: AnnData, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("of the user")
    with pytest.raises(FileExistsError, match=r"checkpoint_dir='.*run' is a file\. Name a folder"):
        pretrain(adata, tmp_path / "run")
    assert (tmp_path / "run").read_text() == "of the user"


def test_any_flipped_bit_of_a_checkpoint_is_found(
    begun: Callable[[str], Path], tmp_path: Path
) -> None:
    newest = written(begun("ScBERT.train"))[-1]
    content, path = newest.read_bytes(), tmp_path / "step_3.ckpt"
    places = {
        *np.random.default_rng(0).integers(0, len(content), 40).tolist(),
        *range(len(content) - 180, len(content)),
    }
    for place in sorted(places):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert not is_whole(path), place
    path.write_bytes(content)
    assert is_whole(path)
    assert (
        torch.load(path, weights_only=True)["run"]["batch_size"] == 16
    )  # one file, that PyTorch reads


class Evil:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(self.path),))


def test_nothing_in_a_checkpoint_is_executed(
    adata: AnnData, begun: Callable[[str], Path], tmp_path: Path
) -> None:
    """Not even in one that somebody sealed."""
    folder = tmp_path / "run"
    shutil.copytree(begun("ScBERT.train"), folder)
    content = WholeCheckpoints().load_checkpoint(written(folder)[-1])
    parts = checkpoints._parts(content | {"more": Evil(tmp_path / "executed")})
    checkpoints._write(folder / "step_99.ckpt", parts)
    assert is_whole(folder / "step_99.ckpt")
    with pytest.raises(
        ValueError,
        match=r"step_99\.ckpt is no checkpoint of a training: .* of which nothing was executed",
    ):
        pretrain(adata, folder)
    assert not (tmp_path / "executed").exists()


def test_a_checkpoint_is_forced_to_the_disk_before_it_has_its_name(
    begun: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = WholeCheckpoints().load_checkpoint(written(begun("ScBERT.train"))[-1])
    fsync, done = os.fsync, list[tuple[str, bool]]()
    path = tmp_path / "step_3.ckpt"

    def noted(opened: int) -> None:
        done.append((str(Path(f"/proc/self/fd/{opened}").readlink()), path.exists()))
        fsync(opened)

    monkeypatch.setattr(os, "fsync", noted)
    WholeCheckpoints().save_checkpoint(content, path)
    assert (str(tmp_path / ".scbert_cll-new-step_3.ckpt"), False) in done
    assert (str(tmp_path), True) in done
    assert done.index((str(tmp_path / ".scbert_cll-new-step_3.ckpt"), False)) < done.index(
        (str(tmp_path), True)
    )
