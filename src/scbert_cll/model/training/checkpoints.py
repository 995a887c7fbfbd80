"""Checkpoints of a training: their files, when they are written, which run goes on from which.

A file is what PyTorch writes, with a seal at its end: it says by itself whether it is whole, and of
which run. The seal is the comment that a zip archive may end with. So the file is one that
:func:`torch.load` reads, and there is nothing beside it that could be missing or older.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import struct
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import lightning.pytorch as L
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from scbert_cll._checks.words import listed
from scbert_cll._disk import in_place
from scbert_cll._disk.formats import Json, digest, plain, same, versions, write_json
from scbert_cll._disk.left_overs import only_writer
from scbert_cll._process import in_main_thread
from scbert_cll.model._protocols import Network
from scbert_cll.model._tensors import bits, tensors_digest
from scbert_cll.model.training.batches import ResumableData
from scbert_cll.model.training.callbacks import History
from scbert_cll.model.training.options import Fit, compared
from scbert_cll.model.training.plans import Plan, is_sharded
from scbert_cll.nn.config import renamed

RUN: Final = "run"  # the settings of the run, in a checkpoint
MAY_CHANGE: Final = "may_change"  # what of them a run can go on without
# to be read by people; a run is known by what its checkpoints hold
RUN_FILE: Final = "run.json"
_NAME: Final = re.compile(r"step_([0-9]{1,18})\.ckpt")
_MARK: Final = b"scbert_cll checkpoint 1 "
_SHA256: Final = 64  # characters
_SEALED: Final = len(_MARK) + 2 * _SHA256 + 1
_LENGTH: Final = struct.pack("<H", _SEALED)  # in place of the length 0 of no comment
_PART: Final = 2**20
_KEPT: Final = 2  # should the newest be damaged, there is the one before
_NAMES: Final = ("SIGTERM", "SIGUSR1")  # the second is not on every system
_SIGNALS: Final = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
# on which the last digits of weights depend
_LIBRARIES: Final = ("torch", "lightning", "numpy")
_MOST: Final = 6  # differences that are named


# ---- the file


def written(folder: Path) -> list[Path]:
    """Checkpoints in a folder, oldest first.

    What has another name, or is no plain file, is none.
    """
    numbered = [
        (int(match[1]), path)
        for path in folder.iterdir()
        if (match := _NAME.fullmatch(path.name)) and path.is_file()
    ]
    return [path for _, path in sorted(numbered)]


def is_whole(path: Path) -> bool:
    """Whether a checkpoint is what was written: its seal fits its content."""
    with path.open("rb") as file:
        n = os.fstat(file.fileno()).st_size - _SEALED - len(_LENGTH)
        if n <= 0:
            return False
        checksum = hashlib.sha256()
        while part := file.read(min(_PART, n)):
            checksum.update(part)
            n -= len(part)
        end = file.read()
    return end == _seal(checksum, end[-_SHA256:])


def _seal(content: Any, run: bytes) -> bytes:
    """The end of the file: mark, checksum of content and run, and the run."""
    content.update(run)
    checksum: str = content.hexdigest()
    return _LENGTH + _MARK + checksum.encode() + b" " + run


class WholeCheckpoints(TorchCheckpointIO):
    """Write a sealed checkpoint aside, read it back, and rename it into place.

    Read nothing but tensors and plain values.
    """

    def save_checkpoint(self, checkpoint: Json, path: Any, storage_options: Any = None) -> None:
        """Write, and leave no half of a file under the name of a whole one.

        PyTorch writes to memory: to a file that it writes itself it says nothing of a full disk
        that anybody could act on.
        """
        path, parts = Path(path), _parts(checkpoint)
        try:
            is_same = partial(self._is, checkpoint=checkpoint)
            in_place.replace(path, partial(_write, parts=parts), is_same)
        except OSError as error:
            raise OSError(
                error.errno,
                f"The checkpoint could not be written ({os.strerror(error.errno or 0)}); the "
                f"ones before it are whole. "
                "Make room and start the same run again: it goes on from there",
                str(path),
            ) from error

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> Json:
        """Read; whatever is asked, nothing in the file is executed.

        Raises
        ------
        ValueError
            It holds more than tensors and plain values, or is not whole.
        """
        try:
            place = map_location or "cpu"
            checkpoint: Json = torch.load(path, place, weights_only=True)
        except (OSError, MemoryError):
            raise
        except Exception as error:
            raise ValueError(
                f"{path} is no checkpoint of a training: it is damaged, or holds more than "
                f"tensors and plain values, of which nothing was executed. "
                "Name another folder to start again."
            ) from error
        return checkpoint

    def _is(self, path: Path, checkpoint: Json) -> bool:
        """Whether a run that goes on from the file gets what this one has."""
        content = bits(self.load_checkpoint(path)) if is_whole(path) else None
        return same(content, bits(checkpoint))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove the file."""
        Path(path).unlink(missing_ok=True)


def _parts(checkpoint: Json) -> list[memoryview | bytes]:
    """The archive, without the two bytes that say that it has no comment, and the seal."""
    memory, settings = io.BytesIO(), checkpoint.get(RUN, {})
    torch.save(checkpoint, memory)
    content = memory.getbuffer()[: -len(_LENGTH)]
    # what makes a run another run
    run = digest({name: settings[name] for name in settings if name != MAY_CHANGE})
    return [content, _seal(hashlib.sha256(content), run.encode())]


def _write(path: Path, parts: Iterable[memoryview | bytes]) -> None:
    with path.open("wb") as file:
        for part in parts:
            file.write(part)


# ---- which run it is


def settings_of(
    model: Network, plan: Plan, data: ResumableData, options: Fit, trainer: L.Trainer
) -> Json:
    """All that decides what comes out of a training: a run with other settings is another run."""
    trained = [name for name, one in plan.named_parameters() if one.requires_grad]
    linear = {} if model.linear_ is None else model.linear_.arrays()
    return compared(options) | {
        "class": type(model).__name__,
        "network": asdict(model.config),
        "genes_sha256": digest(list(model.genes)),
        "labels_sha256": digest(model.labels),
        "start_sha256": tensors_digest(plan.state_dict()),
        "linear_sha256": tensors_digest(linear),
        "trained_sha256": digest(trained),
        "data_sha256": data.digest(),
        "plan": {name: getattr(plan, name) for name in plan.chosen},
        "batch_size": data.batch_size,
        "max_epochs": trainer.max_epochs,
        "max_steps": trainer.max_steps,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "precision": str(trainer.precision),
        "processes": trainer.world_size,
        "sharded": is_sharded(trainer.strategy),
        "seed": data.seed,
        MAY_CHANGE: {"threads": model.n_threads_, "versions": versions(*_LIBRARIES)},
    }


def _comparable(settings: Json) -> Json:
    """Settings as plain values that a file can hold: what is not finite as text."""
    text = json.dumps(plain(settings))
    values: Json = json.loads(text, parse_constant=lambda name: str(float(name)))
    return values


def _refuse_other_run(folder: Path, begun: Json, now: Json) -> None:
    """Name what differs between the run that was begun and this one."""
    pairs = _differences(begun, now)
    if differences := [words for name, words in pairs if name != MAY_CHANGE]:
        n_more = len(differences) - _MOST
        raise ValueError(
            f"{folder} holds checkpoints of another run: {'; '.join(differences[:_MOST])}"
            f"{f' and {n_more} more' if n_more > 0 else ''}. Start with the same data and "
            f"settings to go on with it, or name another folder."
        )


def _news(begun: Json, now: Json) -> str:
    """What has changed of that which may, in a sentence; empty where nothing has."""
    pairs = _differences(begun.get(MAY_CHANGE, {}), now[MAY_CHANGE])
    if not (changes := ", ".join(words for _, words in pairs)):
        return ""
    differ = "the weights may differ in their last digits"
    return f"Since it was written {changes}: {differ}."


def _differences(begun: Json, now: Json) -> Iterator[tuple[str, str]]:
    """Names of what differs, and the value that was and that is; entries of dicts one by one."""
    for name in sorted(begun.keys() | now.keys()):
        was, is_now = begun.get(name), now.get(name)
        if isinstance(was, dict) and isinstance(is_now, dict):
            yield from ((name, words) for _, words in _differences(was, is_now))
        elif was != is_now and "sha256" in name:
            yield name, f"{name} has changed"
        elif was != is_now:
            yield name, f"{name} was {was!r}, is {is_now!r}"


# ---- the run


class Preempted(SystemExit):
    """The cluster asked for the machine; a checkpoint was written."""


@dataclass
class Run:
    """A training that keeps checkpoints: where, and with which settings it was begun."""

    folder: Path
    options: Fit
    settings: Json = field(default_factory=dict)
    signalled: int | None = None  # what the cluster asked for

    def __post_init__(self) -> None:
        """Refuse a file."""
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(
                f"checkpoint_dir={str(self.folder)!r} is a file. Name a folder, or a new name for "
                f"one."
            )

    @contextmanager
    def begin(self, settings: Json) -> Iterator[Path | None]:
        """Be the only run in the folder, with these settings.

        Hand over the checkpoint to go on from.
        """
        self.settings = _comparable(settings)
        # one of several processes
        writes = int(getattr(rank_zero_only, "rank", 0)) == 0
        with only_writer(self.folder, "the checkpoints") if writes else nullcontext():
            if writes:  # halves of checkpoints, which writers that were killed left
                for path in self.folder.glob(f"{in_place.OURS}*"):
                    in_place.remove(path)
            if (newest := self._newest()) is not None:
                self._go_on(newest)
            if writes and not (self.folder / RUN_FILE).is_dir():
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
        if not self.options.resume:
            raise FileExistsError(
                f"{self.folder} holds checkpoints of a run ({newest.name}); pass resume=True to "
                f"go on with it, or name another folder."
            )
        begun = WholeCheckpoints().load_checkpoint(newest).get(RUN, {})
        begun = {**begun, "network": renamed(begun.get("network", {}))}
        _refuse_other_run(self.folder, begun, self.settings)
        rank_zero_info(f"Going on from {newest}. {_news(begun, self.settings)}".strip())


# ---- when they are written


class Checkpoints(L.Callback):
    """Write checkpoints by minutes and steps, and when the cluster asks for the machine.

    Lightning's own requeueing saves inside the handler of the signal, in the middle of a step; here
    the step is finished first. A checkpoint is only written where nothing is half done: between
    optimiser steps, and not between the last step of an epoch and its validation; what is due there
    is written after the next step.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.due = run, False
        self._saved = 0.0

    def on_train_start(self, *_: object) -> None:
        """Listen to the cluster; who listened before does so again when the training has ended."""
        self.run.signalled, self.due, self._saved = None, False, time.monotonic()
        if in_main_thread():
            for number in _SIGNALS:
                signal.signal(number, self._listen)

    def on_train_batch_end(
        self, trainer: L.Trainer, _: object, __: object, ___: object, batch_idx: int
    ) -> None:
        """Write what is due, if this is a place where a run can be cut."""
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped:
            self._look(trainer)
        if self.due and stepped and not self._something_follows(trainer, batch_idx):
            self._save(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, _: object, checkpoint: Json) -> None:
        """Take the history along, and what the run was begun with."""
        checkpoint[RUN] = self.run.settings
        history = getattr(trainer.logger, "history", None) or {}
        checkpoint["history"] = {name: t[name].to_dict() for name, t in history.items()}
        checkpoint["versions"] = versions(*_LIBRARIES)

    def on_load_checkpoint(self, trainer: L.Trainer, _: object, checkpoint: Json) -> None:
        """Go on with the history."""
        if isinstance(trainer.logger, History):
            trainer.logger.restore(checkpoint["history"])

    def _listen(self, number: int, frame: Any) -> None:
        self.run.signalled = number

    def _look(self, trainer: L.Trainer) -> None:
        """Whether a checkpoint is due, for all processes alike."""
        options = self.run.options
        minutes, steps = options.checkpoint_minutes, options.checkpoint_steps
        late = minutes is not None and time.monotonic() - self._saved >= 60 * minutes
        mine = late or self.run.signalled is not None
        self.due |= trainer.strategy.reduce_boolean_decision(mine, all=False)
        self.due |= steps is not None and trainer.global_step % steps == 0

    @staticmethod
    def _something_follows(trainer: L.Trainer, batch_idx: int) -> bool:
        """The end of the epoch, or a validation: not a place to cut."""
        done, every = batch_idx + 1, trainer.val_check_batch
        if done >= trainer.num_training_batches:
            return True
        is_due = every and every > 1 and done % every == 0
        return bool(trainer.enable_validation and is_due)

    def _save(self, trainer: L.Trainer) -> None:
        path = self.run.folder / f"step_{trainer.global_step}.ckpt"
        # not the weights alone: all that a run needs to go on
        trainer.save_checkpoint(path, False)
        self.due, self._saved = False, time.monotonic()
        if trainer.is_global_zero:
            for old in written(self.run.folder)[:-_KEPT]:
                trainer.strategy.checkpoint_io.remove_checkpoint(old)
        is_asked = self.run.signalled is not None
        if trainer.strategy.reduce_boolean_decision(is_asked, all=False):
            self._leave(trainer, path)

    def _leave(self, trainer: L.Trainer, path: Path) -> None:
        """Give the machine back.

        Ask SLURM to start the job again where it did not say that it will.
        """
        job = os.environ.get("SLURM_JOB_ID")
        if trainer.is_global_zero and job and self.run.signalled != signal.SIGTERM:
            if "SLURM_ARRAY_JOB_ID" in os.environ:
                whole = "{SLURM_ARRAY_JOB_ID}_{SLURM_ARRAY_TASK_ID}"
                job = whole.format_map(os.environ)
            subprocess.run(["scontrol", "requeue", job], check=False)  # noqa: S603, S607
        rank_zero_info(
            f"Stopped on request; {path} is whole, and the same command goes on from it."
        )
        raise Preempted(128 + signal.SIGTERM)
