"""How both models train: a dry run, Lightning by scvi-tools' runner, the epoch that is kept."""

from __future__ import annotations

import math
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_info

from scbert_cll._process import as_it_was
from scbert_cll.model import _scvi
from scbert_cll.model._inference import calm_for
from scbert_cll.model._protocols import Network
from scbert_cll.model._tensors import not_finite, usable
from scbert_cll.model.training.batches import ResumableData
from scbert_cll.model.training.best import KeepBest, Outcome
from scbert_cll.model.training.checkpoint_file import WholeCheckpoints
from scbert_cll.model.training.checkpoints import Checkpoints, Run, StepRandom, interruptible
from scbert_cll.model.training.devices import training_device
from scbert_cll.model.training.divergence import (
    DivergedError,
    NotFinite,
    StopWhereNotFinite,
    diverged,
)
from scbert_cll.model.training.fsdp import Sharded, is_sharded, strategy_of
from scbert_cll.model.training.history import History, Throughput, loggers, step_bar
from scbert_cll.model.training.memory import (
    announcement,
    enough_memory,
    fitting_batch_size,
    forecast,
)
from scbert_cll.model.training.options import Fit
from scbert_cll.model.training.plans import Plan
from scbert_cll.model.training.run_settings import settings_of
from scbert_cll.model.training.seeds import one_at_a_time, seeded


def fit(
    model: Network,
    plan: Plan,
    data: ResumableData,
    options: Fit,
    outcome: Outcome,
    *,
    max_epochs: int,
    start: float = math.inf,
) -> None:
    """Train, one training at a time, and leave the user's process as it was.

    `start` is the validation loss before training, where the untrained network may be the best.
    """
    # a model that comes trained but without a history starts one, for which scvi-tools must think
    # it untrained
    trained = model.is_trained_
    model.is_trained_ = trained and bool(model.history_)
    try:
        with calm_for(model), one_at_a_time, as_it_was():
            model.n_threads_ = torch.get_num_threads()
            late_signal = _run(model, plan, data, options, outcome, max_epochs, start)
    except DivergedError:
        model.is_trained_ = trained or model.is_trained_  # it may have a good epoch
        raise
    except Exception:
        model.is_trained_ = trained
        raise
    if late_signal is not None:  # when nothing was left that could have been cut
        signal.raise_signal(late_signal)


def _run(
    model: Network,
    plan: Plan,
    data: ResumableData,
    options: Fit,
    outcome: Outcome,
    max_epochs: int,
    start: float,
) -> int | None:
    """Run Lightning; the signal that came too late for a checkpoint.

    With early stopping the best epoch's weights are kept, else the last one's. Of a training that
    diverges the best epoch before is kept, else the weights from before.
    """
    before = model.history_
    usable(model.module.state_dict())
    run = Run.of(options)
    model.module.set_recompute(options.recompute)
    data.batch_size = _prepare(model, plan, data, options, max_epochs)
    history = History(before if model.is_trained_ else None)
    best = KeepBest(
        model.module, start=start, restore=options.early_stopping or math.isfinite(start)
    )
    checkpoints = None if run is None else Checkpoints(run)
    runner = _runner(model, plan, data, options, max_epochs, history, best, checkpoints)
    settings = {} if run is None else settings_of(model, plan, data, options, runner.trainer)
    model.module.train()  # Lightning leaves the mode as it finds it
    with (
        nullcontext() if run is None else run.begin(settings) as newest,
        seeded(data.seed),
        _quiet(),
    ):
        runner.ckpt_path = newest
        try:
            with interruptible(run), enough_memory(model.config, data.batch_size, training=True):
                runner()
            last = runner.trainer.current_epoch
            if not_finite(model.module.state_dict()):  # whatever a callback did at the end
                raise NotFinite("weights", runner.trainer.global_step, max(last - 1, 0))
            model.kept_epoch_ = history.past + (best.epoch if best.restore else last)
        except NotFinite as error:
            outcome.keep_good(model, best, history.past, diverged=True)
            history.end_before(error.epoch + 1)
            best_epoch = history.past * bool(best.epoch) + best.epoch if outcome.has_good else None
            raise diverged(
                error, options, past=history.past, kept=best_epoch, model=model
            ) from None
        except BaseException:
            outcome.keep_good(model, best, history.past, diverged=False)
            raise
        finally:  # scvi-tools' own bookkeeping counts from 0 where a training goes on
            if runner.trainer.is_global_zero:
                model.history_ = history.history or before
    return None if checkpoints is None else checkpoints.signalled


def _runner(
    model: Network,
    plan: Plan,
    data: ResumableData,
    options: Fit,
    max_epochs: int,
    history: History,
    best: KeepBest,
    checkpoints: Checkpoints | None,
) -> Any:
    """scvi-tools' runner of Lightning's trainer, with the callbacks in the order they need."""
    is_watched = data.is_streamed or options.logger is not None
    folder = None if checkpoints is None else checkpoints.run.folder
    trainer = {
        "check_val_every_n_epoch": 1,
        "log_every_n_steps": 1,
        "limit_val_batches": min(1.0, data.n_val),
        "use_distributed_sampler": False,  # the data share the cells out themselves
        **({"simple_progress_bar": False} if is_watched else {}),
        **options.trainer,
        "strategy": strategy_of(options.trainer.get("strategy", "auto")),
        "plugins": [*options.trainer.get("plugins", ()), WholeCheckpoints()],
    }
    callbacks: list[L.Callback] = [
        *options.trainer.get("callbacks", ()),
        StopWhereNotFinite(),
        best,
    ]
    if is_sharded(trainer["strategy"]):  # first, so that the best epoch's weights are the last word
        callbacks.insert(0, Sharded(model.module))
    if options.early_stopping and data.n_val:
        callbacks.append(EarlyStopping("validation_loss", patience=options.early_stopping_patience))
    if is_watched:
        callbacks.append(Throughput())
        if trainer.get("enable_progress_bar", True):
            callbacks.append(step_bar())
    if checkpoints is not None:
        callbacks.append(checkpoints)
    trainer["callbacks"] = [*callbacks, StepRandom(data.seed)]
    with _quiet():
        return _scvi.TrainRunner(
            model,
            training_plan=plan,
            data_splitter=data,
            max_epochs=max_epochs,
            logger=[history, *loggers(options.logger, folder)],
            **trainer,
        )


def _prepare(model: Network, plan: Plan, data: ResumableData, options: Fit, max_epochs: int) -> int:
    """Dry-run a step: the batch size, found where that is wished; a long training is announced."""
    device, precision = training_device(options.trainer), options.trainer.get("precision")
    cells, rows, n_cells = data.rehearsal()
    batch_size = options.batch_size
    with enough_memory(model.config, None if batch_size == "auto" else batch_size, training=True):
        if batch_size == "auto":
            batch_size = fitting_batch_size(plan, cells, rows, device, precision)
            rank_zero_info(f"batch_size={batch_size} fits.")
        step = forecast(plan, cells, rows, device, precision, batch_size)
    sentence = announcement(
        step, cells, rows, n_cells=n_cells, batch_size=batch_size, max_epochs=max_epochs
    )
    if sentence is not None:
        rank_zero_info(sentence)
    return batch_size


@contextmanager
def _quiet() -> Iterator[None]:
    """Without warnings that nobody here can act on."""
    with warnings.catch_warnings():
        # of Lightning on PyTorch's own changes; that its early stopping is the one that is used;
        # of changes in place, which nobody makes
        for message in (
            r".*isinstance\(treespec",
            "early_stopping was automatically disabled",
            "FSDP2-wrapped module",
        ):
            warnings.filterwarnings("ignore", message=message)
        yield
