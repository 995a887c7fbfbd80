"""Checkpoints of a training: when they are written, and that a resumed run is the same run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import lightning.pytorch as L
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from scbert_cll._checks.words import listed
from scbert_cll._disk.formats import versions, write_json
from scbert_cll._disk.left_overs import only_writer
from scbert_cll._process import in_main_thread
from scbert_cll.model.training.checkpoint_file import RUN, WholeCheckpoints, is_whole, tidy, written
from scbert_cll.model.training.history import History
from scbert_cll.model.training.options import Fit
from scbert_cll.model.training.run_settings import comparable, news, refuse_other_run
from scbert_cll.model.training.seeds import seed_of_step
from scbert_cll.nn.config import renamed

RUN_FILE: Final = "run.json"  # to be read by people; a run is known by what its checkpoints hold
_KEPT: Final = 2  # should the newest be damaged, there is the one before
_SIGNALS: Final = [
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)
]


class Preempted(SystemExit):
    """The cluster asked for the machine; a checkpoint was written."""


@dataclass
class Run:
    """Where a training keeps its checkpoints, how often, and with which settings it was begun."""

    folder: Path
    minutes: float | None
    steps: int | None
    resume: bool
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, options: Fit) -> Run | None:
        """The run of a training; None of one that keeps no checkpoints."""
        if options.checkpoint_dir is None:
            return None
        folder = Path(options.checkpoint_dir)
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(
                f"checkpoint_dir={str(folder)!r} is a file. Name a folder, or a new name for one."
            )
        return cls(folder, options.checkpoint_minutes, options.checkpoint_steps, options.resume)

    @contextlib.contextmanager
    def begin(self, settings: dict[str, Any]) -> Iterator[Path | None]:
        """Be the only run in the folder, with these settings.

        Hand over the checkpoint to go on from.
        """
        self.settings = comparable(settings)
        with (
            only_writer(self.folder, "the checkpoints") if _is_first() else contextlib.nullcontext()
        ):
            if _is_first():
                tidy(self.folder)
            newest = self._newest()
            if newest is not None and not self.resume:
                raise FileExistsError(
                    f"{self.folder} holds checkpoints of a run ({newest.name}); pass "
                    f"resume=True to go on with it, or name another folder."
                )
            if newest is not None:
                self._go_on(newest)
            if _is_first() and not (self.folder / RUN_FILE).is_dir():
                write_json(self.folder / RUN_FILE, self.settings)
            yield newest

    def _newest(self) -> Path | None:
        """The newest checkpoint that is whole."""
        checkpoints = written(self.folder) if self.folder.is_dir() else []
        for path in reversed(checkpoints):
            if is_whole(path):
                return path
            rank_zero_info(
                f"{path} is damaged, or of an earlier version: its seal does not fit. Looking "
                f"for the one before."
            )
        if checkpoints:
            raise ValueError(
                f"All checkpoints in {self.folder} are damaged, or of an earlier version: "
                f"{listed(p.name for p in checkpoints)}. "
                "Name another folder to start again."
            )
        return None

    def _go_on(self, newest: Path) -> None:
        """Refuse another run, and say what has changed of this one."""
        begun = WholeCheckpoints().load_checkpoint(newest).get(RUN, {})
        begun = begun | {"network": renamed(begun.get("network", {}))}
        refuse_other_run(self.folder, begun, self.settings)
        rank_zero_info(f"Going on from {newest}. {news(begun, self.settings)}".strip())


@contextlib.contextmanager
def interruptible(run: Run | None) -> Iterator[None]:
    """Ctrl-C as Python has it: Lightning would end the process, and ignore the key from then on."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except Preempted:
        raise
    except SystemExit as stop:
        signal.signal(signal.SIGINT, handler)
        remedy = (
            "train() goes on from it."
            if run is None
            else f"The same call goes on from the last checkpoint in {run.folder}."
        )
        raise KeyboardInterrupt(
            f"Training was interrupted. The model has its best epoch, or is as it was where "
            f"no epoch had ended; {remedy}"
        ) from stop


class Checkpoints(L.Callback):
    """Write checkpoints by minutes and steps, and when the cluster asks for the machine.

    Lightning's own requeueing saves inside the handler of the signal, in the middle of a step; here
    the step is finished first. A checkpoint is only written where nothing is half done: between
    optimiser steps, and not between the last step of an epoch and its validation; what is due there
    is written after the next step.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.signalled: int | None = None
        self.due = False
        self._saved = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen to the cluster; who listened before does so again when the training has ended."""
        self.signalled, self.due, self._saved = None, False, time.monotonic()
        if in_main_thread():
            for number in _SIGNALS:
                signal.signal(number, self._listen)

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Write what is due, if this is a place where a run can be cut."""
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped:
            self._look(trainer)
        if self.due and stepped and not self._something_follows(trainer, batch_idx):
            self._save(trainer)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the history along, and what the run was begun with."""
        checkpoint[RUN] = self.run.settings
        history = getattr(trainer.logger, "history", None) or {}
        checkpoint["history"] = {name: frame[name].to_dict() for name, frame in history.items()}
        checkpoint["versions"] = versions("torch", "lightning", "numpy")

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on with the history."""
        if isinstance(trainer.logger, History):
            trainer.logger.restore(checkpoint["history"])

    def _listen(self, number: int, frame: Any) -> None:
        self.signalled = number

    def _look(self, trainer: L.Trainer) -> None:
        """Whether a checkpoint is due, for all processes alike."""
        run = self.run
        late = run.minutes is not None and time.monotonic() - self._saved >= 60 * run.minutes
        mine = late or self.signalled is not None
        self.due |= trainer.strategy.reduce_boolean_decision(mine, all=False)
        self.due |= run.steps is not None and trainer.global_step % run.steps == 0

    @staticmethod
    def _something_follows(trainer: L.Trainer, batch_idx: int) -> bool:
        """The end of the epoch, or a validation: not a place to cut."""
        if batch_idx + 1 >= trainer.num_training_batches:
            return True
        every = trainer.val_check_batch
        return bool(
            trainer.enable_validation and every and every > 1 and (batch_idx + 1) % every == 0
        )

    def _save(self, trainer: L.Trainer) -> None:
        path = self.run.folder / f"step_{trainer.global_step}.ckpt"
        trainer.save_checkpoint(path, False)  # not the weights alone: all that a run needs to go on
        self.due, self._saved = False, time.monotonic()
        if trainer.is_global_zero:
            for old in written(self.run.folder)[:-_KEPT]:
                trainer.strategy.checkpoint_io.remove_checkpoint(old)
        if trainer.strategy.reduce_boolean_decision(self.signalled is not None, all=False):
            self._leave(trainer, path)

    def _leave(self, trainer: L.Trainer, path: Path) -> None:
        """Give the machine back.

        Ask SLURM to start the job again where it did not say that it will.
        """
        job = os.environ.get("SLURM_JOB_ID")
        if trainer.is_global_zero and job is not None and self.signalled != signal.SIGTERM:
            if "SLURM_ARRAY_JOB_ID" in os.environ:
                job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
            subprocess.run(["scontrol", "requeue", job], check=False)  # noqa: S603, S607
        rank_zero_info(
            f"Stopped on request; {path} is whole, and the same command goes on from it."
        )
        raise Preempted(128 + signal.SIGTERM)


class StepRandom(L.Callback):
    """Dropout's random numbers from the seed and the step, the same in a resumed run."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed PyTorch for this step and process."""
        torch.manual_seed(seed_of_step(trainer, self.seed))


def _is_first() -> bool:
    """Whether this process is the one that writes."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0
