"""A device that is not here, or cannot compute so, is a sentence before anything runs; on the
command line with code 2.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import scbert_cll as sc_cll
from scbert_cll.__main__ import main
from scbert_cll.estimators import ScBERTEstimator
from scbert_cll.model.training.devices import device_of, training_device
from tests._make import few_cells

NETWORK = {"n_hidden": 8, "n_heads": 2, "gene_embedding": "learned"}
needs_none = pytest.mark.skipif(
    torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU"
)


def model(kind: Any = sc_cll.ScBERT) -> Any:
    adata = few_cells()
    kind.setup_anndata(
        adata, **({"labels_key": "cd49d"} if kind is sc_cll.ScBERTClassifier else {})
    )
    return kind(adata, **NETWORK)


def saved(folder: Path) -> Path:
    made = model()
    made.is_trained_ = True
    made.save(folder / "saved")
    return folder / "saved"


DOORS: dict[str, Callable[..., Any]] = {
    "tl.pretrain": lambda folder, **asked: sc_cll.tl.pretrain(few_cells(), **asked),
    "tl.finetune": lambda folder, **asked: sc_cll.tl.finetune(few_cells(), **asked),
    "ScBERT.train": lambda folder, **asked: model().train(1, **asked),
    "ScBERTClassifier.train": lambda folder, **asked: model(sc_cll.ScBERTClassifier).train(
        1, **asked
    ),
    "ScBERTEstimator": lambda folder, **asked: ScBERTEstimator(**split(asked)).fit(
        few_cells(), few_cells().obs["cd49d"]
    ),
    "tl.cross_validate": lambda folder, **asked: sc_cll.tl.cross_validate(
        few_cells(), models={"own": ScBERTEstimator(**split(asked))}
    ),
    "load": lambda folder, **asked: sc_cll.ScBERT.load(saved(folder), **asked),
    "from_pretrained": lambda folder, **asked: sc_cll.ScBERT.from_pretrained(
        saved(folder), **asked
    ),
    "from_scbert_checkpoint": lambda folder, **asked: sc_cll.ScBERT.from_scbert_checkpoint(
        folder / "none.pth", vocab=["A"], **asked
    ),
}
TRAIN = list(DOORS)[:6]


def split(asked: dict[str, Any]) -> dict[str, Any]:
    """An estimator has the device among its own parameters, the rest in `train`."""
    own = {"accelerator": asked.pop("accelerator")} if "accelerator" in asked else {}
    return own | {"train": asked}


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a step was taken")

    monkeypatch.setattr("scbert_cll.model.training.fit.Rehearsal.forecast", fails)


@needs_none
@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "mps", "tpu"])
@pytest.mark.parametrize("door", list(DOORS))
def test_a_device_that_is_not_here(door: str, accelerator: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'asks for .* finds none here. Pass accelerator="auto"'):
        DOORS[door](tmp_path, accelerator=accelerator)


@needs_none
@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cuda", "an NVIDIA GPU"),
        ("cuda:0", "an NVIDIA GPU"),
        ("mps", "Apple"),
        (0, "an NVIDIA GPU"),
        ("gpu", "found 'gpu'"),
    ],
)
def test_a_model_is_not_moved_where_there_is_nothing(device: Any, said: str) -> None:
    made = model()
    with pytest.raises(ValueError, match=said):
        made.to_device(device)
    made.to_device("cpu")


@pytest.mark.parametrize("accelerator", ["GPU", "cpus", "", None, 1])
@pytest.mark.parametrize("door", list(DOORS))
def test_a_device_that_does_not_exist(door: str, accelerator: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="accelerator must be one of 'auto', 'cpu', 'gpu'"):
        DOORS[door](tmp_path, accelerator=accelerator)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"accelerator": "cpu", "devices": 0},
            "devices must be a number of processes from 1 on a CPU; found 0",
        ),
        ({"accelerator": "cpu", "devices": "two"}, "devices must be .*found 'two'"),
        ({"accelerator": "cpu", "precision": "16-mixed"}, 'needs a GPU; a CPU has "bf16-mixed"'),
        ({"accelerator": "cpu", "precision": "bf16-mixd"}, "precision must be one of '32-true'"),
        ({"accelerator": "cpu", "strategy": "dpp"}, "strategy must be one of 'auto', 'ddp'"),
    ],
)
@pytest.mark.parametrize("door", TRAIN)
def test_what_a_device_has_not(door: str, asked: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        DOORS[door](tmp_path, **asked)


def test_of_several_gpus_those_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("lightning.pytorch.accelerators.CUDAAccelerator.is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    for devices in ("auto", -1, 1, 2, "2", "0,1", [1]):
        assert training_device({"accelerator": "gpu", "devices": devices}) == torch.device("cuda")
    for devices in (3, [2], "0,2", 0, "3", []):
        with pytest.raises(ValueError, match="asks for GPUs that are not here: there are 2"):
            training_device({"accelerator": "gpu", "devices": devices})
    with pytest.raises(ValueError, match=r'bfloat16, which Tesla T4 has not; take "16-mixed"'):
        training_device({"precision": "bf16-mixed"})
    assert training_device({"precision": "16-mixed"}) == torch.device("cuda")  # the remedy
    assert device_of("gpu", 1) == torch.device("cuda:1")
    with pytest.raises(ValueError, match="device must be the number of a GPU, 0 to 1"):
        device_of("gpu", 2)


@needs_none
@pytest.mark.parametrize(
    "words",
    [
        ["demo", "--accelerator", "gpu"],
        ["pretrain", "none.h5ad", "--out", "model", "--accelerator", "gpu"],
        ["finetune", "none.h5ad", "--out", "model", "--accelerator", "gpu"],
        ["predict", "none.h5ad", "--model", "none", "--out", "p.h5ad", "--accelerator", "gpu"],
        ["pretrain", "none.h5ad", "--out", "model", "--more.accelerator", "mps"],
        ["finetune", "none.h5ad", "--out", "model", "--precision", "16-mixed"],
        ["finetune", "none.h5ad", "--out", "model", "--devices", "0"],
        ["finetune", "none.h5ad", "--out", "model", "--strategy", "dpp"],
    ],
    ids=lambda words: " ".join(words[-2:]) + words[0],
)
def test_on_the_command_line_before_anything_is_read_or_written(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "none.h5ad" not in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("accelerator", ["auto", "cpu"])
def test_the_remedies_work(accelerator: str) -> None:
    assert training_device({"accelerator": accelerator}) in (
        torch.device("cpu"),
        torch.device("cuda"),
    )
    assert training_device(
        {"accelerator": "cpu", "precision": "bf16-mixed", "devices": 2}
    ) == torch.device("cpu")
