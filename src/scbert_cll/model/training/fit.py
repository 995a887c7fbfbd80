"""How both models train: rehearsal, Lightning through scvi-tools' runner, the best epoch, and checkpoints."""

from __future__ import annotations

import copy
import math
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import Any, ClassVar, Final, Literal

import lightning.pytorch as L
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_info

from scbert_cll import _checks, _keys
from scbert_cll._checks.words import number_in, share
from scbert_cll._disk.formats import digest, versions
from scbert_cll._process import as_it_was
from scbert_cll.model import _finite, _scvi
from scbert_cll.model._inference import Inference
from scbert_cll.model.corpus.data import CorpusData
from scbert_cll.model.training.arguments import training_device
from scbert_cll.model.training.batches import TokenSplits, random_split
from scbert_cll.model.training.checkpoint_file import MAY_CHANGE, WholeCheckpoints
from scbert_cll.model.training.checkpoints import (
    Checkpoints,
    Preempted,
    Run,
    StepRandom,
    arrays_digest,
    tensors_digest,
)
from scbert_cll.model.training.divergence import NotFinite, StopWhereNotFinite, not_finite, usable
from scbert_cll.model.training.fsdp import Sharded, all_weights, is_sharded, strategy_of
from scbert_cll.model.training.history import Asked, History, Throughput, loggers, step_bar
from scbert_cll.model.training.memory import (
    announcement,
    enough_memory,
    fitting_batch_size,
    forecast,
)
from scbert_cll.model.training.plans import KeepBest, Plan

BatchSize = int | Literal["auto"]


def as_seed(rng: int | np.random.Generator | None) -> int:
    """Draw an integer seed from what users pass as `rng`."""
    return (
        int(rng)
        if isinstance(rng, (int, np.integer))
        else int(np.random.default_rng(rng).integers(2**31))
    )


def check_numbers(max_epochs: int, batch_size: BatchSize, **shares: float) -> None:
    """Numbers that training can use; BatchNorm needs two cells at a time."""
    number_in(max_epochs, "max_epochs", 1, np.inf, whole=True)
    if batch_size != "auto":
        number_in(batch_size, "batch_size", 2, np.inf, whole=True)
    for name, value in shares.items():
        share(value, name)


_one_at_a_time: Final = threading.RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's random numbers from `seed`, and the user's own stream untouched.

    There is one stream, so another thread waits.
    """
    with _one_at_a_time, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@contextmanager
def interruptible(run: Run | None) -> Iterator[None]:
    """Ctrl-C as Python has it: Lightning would end the process, and ignore the key from then on."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except Preempted:
        raise
    except SystemExit as stop:
        signal.signal(signal.SIGINT, handler)
        on = (
            "train() goes on from it."
            if run is None
            else f"The same call goes on from the last checkpoint in {run.folder}."
        )
        raise KeyboardInterrupt(
            f"Training was interrupted. The model has its best epoch, or is as it was where "
            f"no epoch had ended; {on}"
        ) from stop


class Training(Inference):
    """A model that Lightning trains."""

    is_trained_: bool
    history_: dict[str, pd.DataFrame] | None
    _of_a_training: ClassVar[tuple[str, ...]] = (
        "is_trained_",
        "history_",
        "kept_epoch_",
        "n_threads_",
    )
    _has_good = False  # an epoch that is kept where a training ends in an error
    n_threads_: int | None = (
        None  # of PyTorch, with which it was trained: they change the last digits of weights
    )
    kept_epoch_: int | None = (
        None  # of the history: the one whose weights the model has; 0 before the first
    )

    def _parts(self, split_key: str | None, seed: int) -> dict[str, np.ndarray]:
        """Rows of train, val and test; without a split a tenth of the cells validates."""
        if split_key is None:
            return random_split(self._cells(None).n_obs, 0.1, seed)
        column = _checks.adata.split(self._cells(None), split_key).to_numpy()
        return {part: np.flatnonzero(column == part) for part in _keys.SPLIT_ORDER}

    def _fit(
        self, plan: Plan, data: TokenSplits | CorpusData, asked: Mapping[str, Any], **how: Any
    ) -> None:
        """Train, one training at a time, and leave the user's process as it was.

        `asked` are the arguments that make it this training.
        """
        with _one_at_a_time, as_it_was():
            self.n_threads_ = torch.get_num_threads()
            stopped = self._run(plan, data, asked, **how)
        if stopped is not None:  # when nothing was left that could have been cut
            signal.raise_signal(stopped)

    def _run(
        self,
        plan: Plan,
        data: TokenSplits | CorpusData,
        asked: Mapping[str, Any],
        *,
        max_epochs: int,
        batch_size: BatchSize,
        recompute: bool,
        early_stopping: bool,
        early_stopping_patience: int,
        seed: int,
        start: float = math.inf,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        checkpoint_minutes: float | None = 30,
        checkpoint_steps: int | None = None,
        resume: bool = True,
        logger: Asked | Sequence[Asked] = None,
        callbacks: Sequence[L.Callback] = (),
        plugins: Sequence[Any] = (),
        **trainer: Any,
    ) -> int | None:
        """Run Lightning through scvi-tools' runner.

        With early stopping the best epoch's weights are kept, else the last one's.

        Of a training that diverges the best epoch before is kept, else the weights from before.
        Returns the signal that came too late for a checkpoint.
        """
        past = self.history_
        usable(self.module.state_dict())
        run = Run.of(
            checkpoint_dir, minutes=checkpoint_minutes, steps=checkpoint_steps, resume=resume
        )
        self.module.set_recompute(recompute)
        data.batch_size = self._prepare(plan, data, batch_size, max_epochs, trainer)
        restore = early_stopping or math.isfinite(start)
        history = History(self.history_ if self.is_trained_ else None)
        best = KeepBest(self.module, start=start, restore=restore)
        stops = early_stopping and data.n_val
        stop = [EarlyStopping("validation_loss", patience=early_stopping_patience)] if stops else []
        watched = isinstance(data, CorpusData) or logger is not None
        checkpoints = None if run is None else Checkpoints(run)
        runner = self._runner(
            plan,
            data,
            max_epochs=max_epochs,
            logger=loggers(history, logger, None if run is None else run.folder),
            callbacks=[*callbacks, StopWhereNotFinite(), best, *stop]
            + ([Throughput()] if watched else [])
            + ([step_bar()] if watched and trainer.get("enable_progress_bar", True) else [])
            + ([] if checkpoints is None else [checkpoints])
            + [StepRandom(seed)],
            plugins=[*plugins, WholeCheckpoints()],
            **({"simple_progress_bar": False} if watched else {}) | trainer,
        )
        settings = (
            {}
            if run is None
            else {**asked, **self._settings(plan, data, runner.trainer, seed, max_epochs)}
        )
        self.module.train()  # Lightning leaves the mode as it finds it
        with (
            nullcontext() if run is None else run.begin(settings) as newest,
            seeded(seed),
            _quiet(),
        ):
            runner.ckpt_path = newest
            try:
                with interruptible(run), enough_memory(self.config, data.batch_size, training=True):
                    runner()
                if not_finite(self.module.state_dict()):  # whatever a callback did at the end
                    raise NotFinite(
                        "weights",
                        runner.trainer.global_step,
                        max(runner.trainer.current_epoch - 1, 0),
                    )
                self.kept_epoch_ = history.past + (
                    best.epoch if restore else runner.trainer.current_epoch
                )
            except BaseException as error:
                good = self._keep_good(best, history.past, diverged=isinstance(error, NotFinite))
                if not isinstance(error, NotFinite):
                    raise
                history.end_before(error.epoch + 1)
                at: dict[str, Any] = {
                    "epoch": history.past + error.epoch + 1,
                    "step": error.step,
                    "lr": plan.lr,
                }
                kept = history.past * bool(best.epoch) + best.epoch if good else None
                raise _finite.diverged(
                    error.what,
                    **at,
                    kept=kept,
                    asked=trainer | {"checkpoint_dir": checkpoint_dir},
                    model=self,
                ) from None
            finally:  # scvi-tools' own bookkeeping counts from 0 where a training goes on
                if runner.trainer.is_global_zero:
                    self.history_ = history.history or past
        return None if checkpoints is None else checkpoints.asked

    def _keep_good(self, best: KeepBest, past: int, *, diverged: bool) -> bool:
        """Behind an error: the best epoch's weights, if there is one.

        If not, the model is going to be as it was before.
        """
        self.module.eval()
        self._has_good = best.weights is not None and not not_finite(best.weights)
        if self._has_good:
            if diverged or not_finite(self.module.state_dict()):
                self.module.load_state_dict(best.weights or {})
            self.is_trained_, self.kept_epoch_ = True, past + best.epoch
        return self._has_good

    @contextmanager
    def _trained_or_as_before(self) -> Iterator[None]:
        """A training that ends in an error and leaves no good epoch leaves the model as it was: one training is never half of another."""
        self._has_good = False
        weights = all_weights(self.module)
        trains = {name: one.requires_grad for name, one in self.module.named_parameters()}
        others = {name: getattr(self, name) for name in self._of_a_training if hasattr(self, name)}
        others["history_"] = copy.deepcopy(self.history_)  # scvi-tools writes to the tables
        try:
            yield
        except BaseException:
            if not self._has_good:
                self.module.to(
                    weights["token_embedding.weight"].dtype
                )  # precision="16-true" may have changed it
                self.module.load_state_dict(weights)
                self.module.eval()
                for name, one in self.module.named_parameters():
                    one.requires_grad_(trains[name])
                for name, value in others.items():
                    setattr(self, name, value)
            raise

    def _runner(
        self, plan: Plan, data: TokenSplits | CorpusData, *, callbacks: list[Any], **trainer: Any
    ) -> Any:
        defaults = {
            "check_val_every_n_epoch": 1,
            "log_every_n_steps": 1,
            "limit_val_batches": min(1.0, data.n_val),
            "use_distributed_sampler": False,  # the data share the cells out themselves
        }
        trainer = defaults | trainer | {"strategy": strategy_of(trainer.get("strategy", "auto"))}
        if is_sharded(trainer["strategy"]):
            callbacks = [
                Sharded(self.module),
                *callbacks,
            ]  # first, so that the best epoch's weights have the last word
        with _quiet():
            return _scvi.TrainRunner(
                self, training_plan=plan, data_splitter=data, callbacks=callbacks, **trainer
            )

    def _settings(
        self,
        plan: Plan,
        data: TokenSplits | CorpusData,
        trainer: L.Trainer,
        seed: int,
        max_epochs: int,
    ) -> dict[str, Any]:
        """All that decides what comes out of a training: a run with other settings is another run."""
        return {
            "class": type(self).__name__,
            "network": asdict(self.config),
            "genes_sha256": digest(list(self.genes)),
            "labels_sha256": digest(self._labels()),
            "start_sha256": tensors_digest(plan.state_dict()),
            "linear_sha256": arrays_digest(self._linear_arrays() or {}),
            "trained_sha256": digest(
                [name for name, one in plan.named_parameters() if one.requires_grad]
            ),
            "data_sha256": data.digest(),
            "plan": plan.settings(),
            "batch_size": data.batch_size,
            "max_epochs": max_epochs,
            "max_steps": trainer.max_steps,
            "accumulate_grad_batches": trainer.accumulate_grad_batches,
            "gradient_clip_val": trainer.gradient_clip_val,
            "precision": str(trainer.precision),
            "processes": trainer.world_size,
            "sharded": is_sharded(trainer.strategy),
            "seed": seed,
            MAY_CHANGE: {
                "threads": self.n_threads_,
                "versions": versions("torch", "lightning", "numpy"),
            },
        }

    def _prepare(
        self,
        plan: Plan,
        data: TokenSplits | CorpusData,
        batch_size: BatchSize,
        max_epochs: int,
        trainer: Mapping[str, Any],
    ) -> int:
        """Rehearse a step: find the batch that fits where that is wished, and announce a long training."""
        device, precision = training_device(trainer), trainer.get("precision")
        cells, rows, n_cells = data.rehearsal()
        with enough_memory(
            self.config, None if batch_size == "auto" else batch_size, training=True
        ):
            if batch_size == "auto":
                batch_size = fitting_batch_size(plan, cells, rows, device, precision)
                rank_zero_info(f"batch_size={batch_size} fits.")
            found = forecast(plan, cells, rows, device, precision, batch_size)
        said = announcement(
            found, cells, rows, n_cells=n_cells, batch_size=batch_size, max_epochs=max_epochs
        )
        if said is not None:
            rank_zero_info(said)
        return batch_size


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings that nobody here can act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=r".*isinstance\(treespec"
        )  # Lightning on PyTorch's own changes
        warnings.filterwarnings(
            "ignore", message="early_stopping was automatically disabled"
        )  # Lightning's own is used
        warnings.filterwarnings(
            "ignore", message="FSDP2-wrapped module"
        )  # of changes in place, which nobody makes
        yield
