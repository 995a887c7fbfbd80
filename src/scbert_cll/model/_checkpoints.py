"""Checkpoints of a training: when they are written, that they are whole, and that a resumed run is the same run."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lightning.pytorch as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch import Tensor

from scbert_cll import _checks, _files, _in_place
from scbert_cll._files import read_json, same, sha256, versions, write_json
from scbert_cll._in_place import NotAsWrittenError
from scbert_cll._left_overs import only_writer
from scbert_cll.model._io import bits
from scbert_cll.model._monitor import History
from scbert_cll.model._plans import APART

RUN: Final = "run.json"
_KEPT: Final = 2  # should the newest be damaged, there is the one before
_SIGNALS: Final = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]


class Preempted(SystemExit):
    """The cluster asked for the machine; a checkpoint was written."""


@dataclass(frozen=True)
class Run:
    """Where a training keeps its checkpoints, and how often."""

    folder: Path
    minutes: float | None
    steps: int | None
    resume: bool

    @classmethod
    def of(
        cls, folder: str | os.PathLike[str] | None, *, minutes: float | None, steps: int | None, resume: bool
    ) -> Run | None:
        """Check the choices; None without a folder."""
        if minutes is not None:
            _checks.number_in(minutes, "checkpoint_minutes", 0, float("inf"))
        if steps is not None:
            _checks.number_in(steps, "checkpoint_steps", 1, float("inf"), whole=True)
        return None if folder is None else cls(Path(folder), minutes, steps, resume)

    @contextlib.contextmanager
    def begin(self, settings: dict[str, Any]) -> Iterator[Path | None]:
        """Be the only run in the folder, with these settings; hand over the checkpoint to go on from."""
        with only_writer(self.folder, "the checkpoints") if _is_first() else contextlib.nullcontext():
            newest = self._newest()
            if newest is not None and not self.resume:
                raise FileExistsError(
                    f"{self.folder} holds checkpoints of a run ({newest.name}); pass resume=True to go on with it, or name another folder."
                )
            if newest is not None:
                begun = self.folder / RUN
                _refuse_other_run(self.folder, read_json(begun) if begun.is_file() else {}, settings)
                rank_zero_info(f"Going on from {newest}.")
            elif _is_first():
                write_json(self.folder / RUN, settings)
            yield newest

    def _newest(self) -> Path | None:
        """The newest checkpoint that is whole."""
        found = written(self.folder)
        for path in reversed(found):
            if is_whole(path):
                return path
            rank_zero_info(f"{path} is damaged: its checksum differs. Looking for the one before.")
        if found:
            raise ValueError(
                f"All checkpoints in {self.folder} are damaged: {_checks.listed(p.name for p in found)}. Name another folder to start again."
            )
        return None


def written(folder: Path) -> list[Path]:
    """Checkpoints in a folder, oldest first."""
    return sorted(folder.glob("step_*.ckpt"), key=lambda path: int(path.stem.removeprefix("step_")))


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is what was written."""
    beside = _sum(path)
    return beside.is_file() and beside.read_text(encoding="ascii").strip() == sha256(path)


class WholeCheckpoints(TorchCheckpointIO):
    """Write a checkpoint aside, read it back, and rename it into place with its checksum; read nothing but tensors and plain values."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write, and leave no half of a file under the name of a whole one."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.new")
        try:
            _in_place.written(
                aside, lambda file: _save(file, checkpoint), lambda file: self._is(file, checkpoint), path
            )
            _files.write_text(_sum(path), sha256(aside) + "\n")
            _in_place.put_in_place(aside, path)
        except NotAsWrittenError:
            aside.unlink(missing_ok=True)
            raise
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise OSError(
                error.errno,
                f"The checkpoint could not be written ({error.strerror or error}); the ones before it are whole. "
                "Make room and start the same run again: it goes on from there",
                str(path),
            ) from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read; whatever is asked, nothing in the file is executed."""
        found: dict[str, Any] = torch.load(path, map_location=map_location or "cpu", weights_only=True)
        return found

    def _is(self, path: Path, checkpoint: dict[str, Any]) -> bool:
        """Whether a run that goes on from the file gets what this one has."""
        return same(bits(self.load_checkpoint(path)), bits(checkpoint))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove the file and its checksum."""
        Path(path).unlink(missing_ok=True)
        _sum(Path(path)).unlink(missing_ok=True)


class Checkpoints(L.Callback):
    """Write a checkpoint every so many minutes and steps, and when the cluster asks for the machine.

    Lightning's own requeueing saves inside the handler of the signal, in the middle of a step; here the step is finished
    first. A checkpoint is only written where nothing is half done: between optimiser steps, and not between the last step of an epoch and
    its validation; what is due there is written after the next step.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.asked: int | None = None
        self.due = False
        self._saved = 0.0
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen to the cluster."""
        self.asked, self.due, self._saved = None, False, time.monotonic()
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._listen) for number in _SIGNALS}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write what is due, if this is a place where a run can be cut."""
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped:
            self._look(trainer)
        if self.due and stepped and not self._something_follows(trainer, batch_idx):
            self._save(trainer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the signals to who had them."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take the history along."""
        history = getattr(trainer.logger, "history", None) or {}
        checkpoint["history"] = {name: frame[name].to_dict() for name, frame in history.items()}
        checkpoint["versions"] = versions("torch", "lightning", "numpy")

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with the history."""
        if isinstance(trainer.logger, History):
            trainer.logger.restore(checkpoint["history"])

    def _listen(self, number: int, frame: Any) -> None:
        self.asked = number

    def _look(self, trainer: L.Trainer) -> None:
        """Whether a checkpoint is due, for all processes alike."""
        run = self.run
        late = run.minutes is not None and time.monotonic() - self._saved >= 60 * run.minutes
        mine = late or self.asked is not None
        self.due |= trainer.strategy.reduce_boolean_decision(mine, all=False)
        self.due |= run.steps is not None and trainer.global_step % run.steps == 0

    @staticmethod
    def _something_follows(trainer: L.Trainer, batch_idx: int) -> bool:
        """The end of the epoch, or a validation: not a place to cut."""
        if batch_idx + 1 >= trainer.num_training_batches:
            return True
        every = trainer.val_check_batch
        return bool(trainer.enable_validation and every and every > 1 and (batch_idx + 1) % every == 0)

    def _save(self, trainer: L.Trainer) -> None:
        path = self.run.folder / f"step_{trainer.global_step}.ckpt"
        trainer.save_checkpoint(path, False)  # not the weights alone: all that a run needs to go on
        self.due, self._saved = False, time.monotonic()
        if trainer.is_global_zero:
            for old in written(self.run.folder)[:-_KEPT]:
                trainer.strategy.checkpoint_io.remove_checkpoint(old)
        if trainer.strategy.reduce_boolean_decision(self.asked is not None, all=False):
            self._leave(trainer, path)

    def _leave(self, trainer: L.Trainer, path: Path) -> None:
        """Give the machine back; ask SLURM to start the job again where it did not say that it will."""
        job = os.environ.get("SLURM_JOB_ID")
        if trainer.is_global_zero and job is not None and self.asked != signal.SIGTERM:
            if "SLURM_ARRAY_JOB_ID" in os.environ:
                job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
            subprocess.run(["scontrol", "requeue", job], check=False)  # noqa: S603, S607 (SLURM's own command)
        rank_zero_info(f"Stopped on request; {path} is whole, and the same command goes on from it.")
        raise Preempted(128 + signal.SIGTERM)


class StepRandom(L.Callback):
    """Dropout's random numbers from the seed and the step, so that a resumed run draws what it would have drawn."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed PyTorch for this step and process."""
        torch.manual_seed(self.seed + 1 + trainer.fit_loop.total_batch_idx + APART * trainer.global_rank)


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """Checksum of a network's weights."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _is_first() -> bool:
    """Whether this process is the one that writes."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def _save(path: Path, checkpoint: dict[str, Any]) -> None:
    with path.open("wb") as file:
        torch.save(checkpoint, file)


def _sum(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _refuse_other_run(folder: Path, there: dict[str, Any], now: dict[str, Any]) -> None:
    """Name what differs between the run that was begun and this one."""
    differ = [name for name in sorted(there.keys() | now.keys()) if there.get(name) != now.get(name)]
    if not differ:
        return
    said = [
        f"{name} has changed" if "sha256" in name else f"{name} was {there.get(name)!r}, is {now.get(name)!r}"
        for name in differ[:6]
    ]
    raise ValueError(
        f"{folder} holds checkpoints of another run: {'; '.join(said)}. Start with the same data and settings to go on with it, or name another folder."
    )
