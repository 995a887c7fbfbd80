"""After every public call the user's process is as it was."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch
from anndata import AnnData

from scbert_cll import tl
from scbert_cll._process import as_it_was, same_logs, same_random_state, to_change
from scbert_cll.model import ScBERT
from tests._make import cells

TINY: dict[str, Any] = {"n_hidden": 8, "n_heads": 2, "gene_embedding": "learned", "dropout": 0.2}
QUICK: dict[str, Any] = {
    "max_epochs": 1,
    "batch_size": 16,
    "accelerator": "cpu",
    "enable_progress_bar": False,
}


def model_of(adata: AnnData) -> ScBERT:
    ScBERT.setup_anndata(adata)
    return ScBERT(adata, **TINY)


# ---- every public call, in a process of its own


@pytest.fixture(scope="module")
def changes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What each call changed."""
    script = Path(__file__).with_name("process_state.py")
    written = tmp_path_factory.mktemp("state") / "changes.json"
    own = os.environ | {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(written)],
        capture_output=True,
        text=True,
        check=False,
        env=own,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert written.exists(), done.stdout[-1000:] + done.stderr[-3000:]
    found: dict[str, list[str]] = json.loads(written.read_text())
    return found


@pytest.mark.slow  # every public call, in a process of its own
def test_a_call_leaves_the_process_as_it_was(changes: dict[str, list[str]]) -> None:
    assert {name: found for name, found in changes.items() if found} == {}


@pytest.mark.slow  # every public call, in a process of its own
def test_every_public_function_was_called(changes: dict[str, list[str]]) -> None:
    spec: Any = importlib.util.spec_from_file_location(
        "test_api", Path(__file__).parents[1] / "test_api.py"
    )
    api = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(api)
    called = {name.split(" ")[0] for name in changes}
    public = {f"{room}.{name}" for room in ("pp", "tl", "pl", "get") for name in api.EXPECTED[room]}
    assert public - called == set()


# ---- signals


class Asks(L.Callback):
    """Sends a signal to this process in the last step of a training, behind which no checkpoint can
    be written.
    """

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("with_checkpoints", [True, False])
def test_who_handled_signals_before_a_training_does_so_afterwards(
    with_checkpoints: bool, tmp_path: Path
) -> None:
    heard: list[int] = []

    def listen(number: int, frame: Any) -> None:
        heard.append(number)

    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = [signal.signal(number, listen) for number in numbers]
    try:
        run = {"checkpoint_dir": tmp_path, "checkpoint_steps": 1} if with_checkpoints else {}
        model_of(cells(60, binned=True)).train(**QUICK | run)
        assert [signal.getsignal(number) for number in numbers] == [listen, listen]
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def test_a_signal_that_comes_too_late_for_a_checkpoint_is_passed_on(tmp_path: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        model = model_of(cells(60, binned=True))
        model.train(checkpoint_dir=tmp_path, callbacks=[Asks()], **QUICK)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
    assert model.is_trained_


# ---- random numbers


def trained(adata: AnnData, seed: int) -> ScBERT:
    model = model_of(adata)
    model.train(rng=seed, **QUICK | {"max_epochs": 3})
    return model


def test_trainings_in_two_threads_are_each_the_training_it_is_alone() -> None:
    alone = [trained(cells(60, binned=True), seed) for seed in (0, 1)]
    found: dict[int, ScBERT] = {}
    ready = [cells(60, binned=True), cells(60, binned=True)]

    def work(seed: int) -> None:
        found[seed] = trained(ready[seed], seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, model in enumerate(alone):
        for name, weight in model.module.state_dict().items():
            assert torch.equal(found[seed].module.state_dict()[name], weight), (seed, name)


def test_a_training_is_the_same_with_checkpoints_and_without(tmp_path: Path) -> None:
    with_them, without = model_of(cells(60, binned=True)), model_of(cells(60, binned=True))
    with_them.train(checkpoint_dir=tmp_path, checkpoint_steps=1, **QUICK)
    without.train(**QUICK)
    for name, weight in without.module.state_dict().items():
        assert torch.equal(with_them.module.state_dict()[name], weight), name
    assert with_them.history is not None
    assert all(frame.equals(without.history[name]) for name, frame in with_them.history.items())


# ---- the parts


def test_random_numbers_go_on_where_they_were() -> None:
    def drawn() -> tuple[float, float]:
        return random.random(), np.random.rand()  # noqa: NPY002, S311

    def begin() -> None:
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002

    begin()
    expected = drawn()
    begin()
    with same_random_state():
        drawn()
    assert drawn() == expected


def test_what_is_changed_is_put_back_after_an_error_too() -> None:
    before = torch.get_num_threads(), signal.getsignal(signal.SIGTERM)

    def fails() -> None:
        torch.set_num_threads(before[0] + 1)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise ValueError("of the caller")

    with pytest.raises(ValueError, match="of the caller"), as_it_was():
        fails()
    assert (torch.get_num_threads(), signal.getsignal(signal.SIGTERM)) == before


def test_loggers_are_put_back() -> None:
    log = to_change("of_a_test")
    before = log.level, log.handlers[:], log.filters[:]
    with same_logs():
        log.setLevel(10)
        log.addFilter(lambda record: False)
    assert (log.level, log.handlers, log.filters) == before


def test_a_logger_that_writes_wants_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("csv", "tensorboard"):
        with pytest.raises(
            ValueError,
            match=rf'logger="{name}" writes into the folder of the run: name checkpoint_dir="run"',
        ):
            tl.pretrain(cells(60, binned=True), network=TINY, logger=name, **QUICK)
    assert list(tmp_path.iterdir()) == []
    tl.pretrain(cells(60, binned=True), network=TINY, logger="csv", checkpoint_dir="run", **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_number_of_threads_is_recorded() -> None:
    adata = cells(60, binned=True)
    tl.pretrain(adata, network=TINY, **QUICK)
    assert adata.uns["scbert_pretrain"]["n_threads"] == torch.get_num_threads()
