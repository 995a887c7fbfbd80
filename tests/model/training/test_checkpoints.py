"""A run that is killed, asked to leave, or out of disk space loses nothing, and ends with the same
weights.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import runpy
import shutil
import signal
import stat
import textwrap
import time

import lightning.pytorch as L
import pandas as pd
import pytest
import torch

from scbert_cll import pp
from scbert_cll._disk.left_overs import only_writer
from scbert_cll.model import CorpusData, ScBERT, ScBERTClassifier
from scbert_cll.model.training import checkpoints

HOW = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "batch_size": 16,
    "max_epochs": 2,
    "checkpoint_steps": 5,
}
CORPUS = {"chunk_size": 16, "preload_nchunks": 3}
NETWORK = {"n_hidden": 16, "n_heads": 2}

# What a process does before it dies; it runs in a child of a process that has imported everything
# already.
CHILD = """
import os, signal, time
import lightning.pytorch as L
import torch
from scbert_cll.model import CorpusData, ScBERT
from scbert_cll.model.training import checkpoints as _checkpoints

torch.set_num_threads(1)


class Die(L.Callback):
    def on_train_batch_end(self, trainer, *args):
        if fault == "step" and trainer.global_step == 12:
            os.kill(os.getpid(), signal.SIGKILL)
        if (
            fault == "wait" and trainer.global_step == 7
        ):  # between two checkpoints, and long enough to be told something
            open(f"{folder}.at_step_7", "w").close()
            time.sleep(2)


write = _checkpoints._write


def half_of_it(path, parts):
    if trainer_step["n"] == 1:
        path.write_bytes(bytes(parts[0][: len(parts[0]) // 2]))
        os.kill(os.getpid(), signal.SIGKILL)
    trainer_step["n"] += 1
    write(path, parts)


trainer_step = {"n": 0}
if fault == "saving":
    _checkpoints._write = half_of_it

data = CorpusData(corpus, **windows)
model = ScBERT.from_corpus(data, **network)
model.train(datamodule=data, checkpoint_dir=folder, callbacks=[Die()], **how)
"""


@pytest.fixture(scope="module")
def in_a_child(tmp_path_factory, corpus):
    """Start the training in a process of its own: `in_a_child(folder, fault, env)`."""
    script = tmp_path_factory.mktemp("child") / "child.py"
    script.write_text(textwrap.dedent(CHILD))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scbert_cll.model", "scbert_cll.model.corpus.reader"])

    def start(folder, fault):
        given = {"corpus": str(corpus), "folder": str(folder), "fault": fault}
        given |= {"how": HOW, "windows": CORPUS, "network": NETWORK}
        process = context.Process(
            target=runpy.run_path, args=(str(script),), kwargs={"init_globals": given}
        )
        process.start()
        return process

    return start


def _run(corpus, folder=None, *, callbacks=(), **how):
    data = CorpusData(corpus, **CORPUS)
    model = ScBERT.from_corpus(data, **NETWORK)
    model.train(datamodule=data, checkpoint_dir=folder, callbacks=list(callbacks), **HOW | how)
    return model


class Stop(L.Callback):
    """Interrupt a training in this process."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_end(self, trainer, *args) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.at:
            raise InterruptedError("stopped by the test")


def _same_weights(one, other):
    for name, weight in one.module.state_dict().items():
        torch.testing.assert_close(
            other.module.state_dict()[name], weight, rtol=0, atol=0, msg=name
        )


def _same_history(one, other):
    assert one.history.keys() == other.history.keys()
    for name, values in other.history.items():
        pd.testing.assert_frame_equal(values, one.history[name])


def _names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.fixture(scope="module")
def uninterrupted(corpus):
    """The same training in one go; not to be changed."""
    return _run(corpus)


@pytest.mark.slow  # starts processes that are ended
@pytest.mark.parametrize("fault", ["step", "saving"])
def test_a_killed_run_goes_on_to_the_same_weights(
    corpus, tmp_path, in_a_child, uninterrupted, fault
):
    child = in_a_child(tmp_path, fault)
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    whole = ["step_10.ckpt", "step_5.ckpt"] if fault == "step" else ["step_5.ckpt"]
    assert [name for name in _names(tmp_path) if name.endswith(".ckpt")] == whole
    resumed = _run(corpus, tmp_path)
    _same_weights(uninterrupted, resumed)
    _same_history(uninterrupted, resumed)
    assert not list(tmp_path.glob(".*.new"))


@pytest.mark.slow  # starts processes that are ended
def test_slurm_gets_its_machine_back_and_is_asked_to_start_again(
    corpus, tmp_path, in_a_child, uninterrupted, monkeypatch
):
    """SIGUSR1, which `sbatch --signal` sends: the step is finished, a checkpoint written, the job
    queued again.
    """
    asked, command = tmp_path / "asked", tmp_path / "bin" / "scontrol"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    job = {
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "pretrain",
        "SLURM_NTASKS": "1",
        "SLURM_PROCID": "0",
    }
    job |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "localhost"}
    code = tmp_path / "child.py"
    code.write_text(
        f"import os\nos.environ |= {job}\nos.environ['PATH'] = '{command.parent}:' + "
        f"os.environ['PATH']\n" + CHILD
    )
    given = {"corpus": str(corpus), "folder": str(tmp_path / "run"), "fault": "wait"}
    given |= {"how": HOW, "windows": CORPUS, "network": NETWORK}
    context = multiprocessing.get_context("forkserver")
    child = context.Process(
        target=runpy.run_path, args=(str(code),), kwargs={"init_globals": given}
    )
    child.start()
    _wait_for(tmp_path / "run.at_step_7")
    os.kill(child.pid, signal.SIGUSR1)
    child.join(60)
    assert child.exitcode == 128 + signal.SIGTERM
    assert asked.read_text() == "requeue 4711\n"
    newest = checkpoints.written(tmp_path / "run")[-1]
    assert newest.stem not in ("step_5", "step_10")
    assert checkpoints.is_whole(newest)
    _same_weights(uninterrupted, _run(corpus, tmp_path / "run"))


@pytest.mark.slow  # starts processes that are ended
def test_a_run_that_is_told_to_end_writes_a_checkpoint_first(
    corpus, tmp_path, in_a_child, uninterrupted
):
    child = in_a_child(tmp_path, "wait")
    _wait_for(tmp_path.with_name(f"{tmp_path.name}.at_step_7"))
    child.terminate()
    child.join(60)
    assert child.exitcode == 128 + signal.SIGTERM
    assert checkpoints.written(tmp_path)[-1].stem not in ("step_5", "step_10")
    _same_weights(uninterrupted, _run(corpus, tmp_path))


def _wait_for(path):
    until = time.monotonic() + 90
    while not path.exists():
        assert time.monotonic() < until, f"{path} did not come"
        time.sleep(0.01)


@pytest.mark.parametrize(
    "how",
    [
        {"accumulate_grad_batches": 3, "gradient_clip_val": 1.0},
        {"early_stopping": False, "max_steps": 20},
        {"val_check_interval": 7},
        {"feature_redraw_interval": 4},
    ],
    ids=lambda how: next(iter(how)),
)
def test_whatever_is_chosen_a_resumed_run_is_the_same_run(corpus, tmp_path, how):
    """Interrupted twice: in the middle of an epoch, and behind its end, before which nothing may be
    cut.
    """
    whole = _run(corpus, **how)
    n = whole.trainer.num_training_batches
    for at in (8, n + 1):
        with pytest.raises(InterruptedError):
            _run(corpus, tmp_path, callbacks=[Stop(at)], **how | {"checkpoint_steps": 1})
    resumed = _run(corpus, tmp_path, **how | {"checkpoint_steps": 1})
    _same_weights(whole, resumed)
    _same_history(whole, resumed)


def test_cells_in_memory_resume_too(adata, scbert, tmp_path):
    """With a linear part, tokens left out at random and dropout."""

    def train(folder=None, callbacks=()):
        model = ScBERTClassifier.from_pretrained(scbert, adata, labels_key="label", dropout=0.2)
        how = HOW | {"split_key": "split", "combine": "residual", "early_stopping": True}
        model.train(checkpoint_dir=folder, callbacks=list(callbacks), **how)
        return model

    folder = tmp_path / "run"
    with pytest.raises(InterruptedError):
        train(folder, [Stop(7)])
    assert checkpoints.written(folder)
    resumed, whole = train(folder), train()
    _same_weights(whole, resumed)
    _same_history(whole, resumed)


def test_checkpoints_come_by_minutes_too_and_two_are_kept(corpus, tmp_path):
    _run(corpus, tmp_path, checkpoint_minutes=0, checkpoint_steps=None, max_epochs=1)
    names = [name for name in _names(tmp_path) if name.startswith("step")]
    assert len(names) == 2
    assert all(checkpoints.is_whole(path) for path in checkpoints.written(tmp_path))


def test_a_damaged_checkpoint_is_passed_over_and_others_are_not_guessed(
    corpus, tmp_path, uninterrupted
):
    with pytest.raises(InterruptedError):
        _run(corpus, tmp_path, callbacks=[Stop(12)])
    _, newest = checkpoints.written(tmp_path)
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(bytes(content))
    kept = tmp_path / "kept"
    shutil.copytree(tmp_path, kept, ignore=shutil.ignore_patterns("kept"))
    _same_weights(uninterrupted, _run(corpus, tmp_path))
    for path in checkpoints.written(kept):
        path.write_bytes(b"nothing")
    with pytest.raises(
        ValueError,
        match=r"All checkpoints in .*kept are damaged, or of an earlier version: 'step_5.ckpt', "
        r"'step_10.ckpt'",
    ):
        _run(corpus, kept)


def test_a_full_disk_leaves_the_checkpoint_before(corpus, tmp_path, uninterrupted, monkeypatch):
    """A real limit on the size of files, under which PyTorch's own writer says something of its
    own.
    """
    write, n = checkpoints._write, iter(range(9))

    def full(path, parts):
        if next(n) == 0:
            return write(path, parts)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(parts[0]) // 2, before[1]))
        try:
            return write(path, parts)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    monkeypatch.setattr(checkpoints, "_write", full)
    with pytest.raises(
        OSError, match=r"could not be written .File too large.; the ones before it are whole"
    ):
        _run(corpus, tmp_path)
    assert [path.name for path in checkpoints.written(tmp_path)] == ["step_5.ckpt"]
    assert not list(tmp_path.glob(".*.new"))
    monkeypatch.undo()
    _same_weights(uninterrupted, _run(corpus, tmp_path))


def test_two_runs_do_not_write_to_one_folder(corpus, tmp_path):
    with (
        only_writer(tmp_path, "anything"),
        pytest.raises(RuntimeError, match=r"is being written to by process \d+ on"),
    ):
        _run(corpus, tmp_path)
    assert not checkpoints.written(tmp_path)


def test_another_run_is_not_resumed(corpus, tmp_path):
    with pytest.raises(InterruptedError):
        _run(corpus, tmp_path, callbacks=[Stop(8)])
    with pytest.raises(
        ValueError,
        match=r"of another run: batch_size was 16, is 32; max_epochs was 2, is 3\. Start",
    ):
        _run(corpus, tmp_path, batch_size=32, max_epochs=3)
    with pytest.raises(
        FileExistsError, match=r"holds checkpoints of a run \(step_5.ckpt\); pass resume=True"
    ):
        _run(corpus, tmp_path, resume=False)


def test_a_corpus_that_has_changed_is_not_gone_on_with(corpus, tmp_path):
    copy = tmp_path / "corpus.zarr"
    shutil.copytree(corpus, copy)
    with pytest.raises(InterruptedError):
        _run(copy, tmp_path / "run", callbacks=[Stop(8)])
    shutil.rmtree(copy)
    paths = [corpus.parent / f"{number}.h5ad" for number in range(3)]
    how = {"obs_columns": ["label"], "target_sum": 300, "val_fraction": 0.2, "rng": 1}
    pp.build_corpus(paths, copy, vocab=[f"G{i}" for i in range(60)], **how)
    with pytest.raises(ValueError, match=r"of another run: data_sha256 has changed"):
        _run(copy, tmp_path / "run")


def test_what_was_chosen_is_written_where_it_can_be_read(corpus, tmp_path):
    model = _run(corpus, tmp_path, max_epochs=1)
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["network"]["n_hidden"] == model.config.n_hidden
    assert run["plan"]["lr"] == 2e-3
    assert run["processes"] == 1


@pytest.mark.parametrize("logger", ["csv", "tensorboard"])
def test_loggers_say_how_fast_it_is(corpus, tmp_path, logger):
    _run(corpus, tmp_path, logger=logger, max_epochs=1)
    (folder,) = (tmp_path / "logs").iterdir()
    if logger == "csv":
        header = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
        assert {"cells_per_second", "data_wait", "train_loss_step", "learning_rate"} <= set(header)
    else:
        assert any(path.name.startswith("events") for path in folder.iterdir())


def test_choices_that_make_no_sense_are_refused(corpus, tmp_path):
    with pytest.raises(ValueError, match="checkpoint_steps must be a whole number from 1"):
        _run(corpus, tmp_path, checkpoint_steps=0)
    with pytest.raises(
        ValueError, match="logger must be one of 'csv', 'tensorboard'; found 'wandb'"
    ):
        _run(corpus, tmp_path, logger="wandb")
