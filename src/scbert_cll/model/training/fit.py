"""How both models train: rehearsal, Lightning through scvi-tools' runner, the best epoch, and checkpoints."""

from __future__ import annotations

import copy
import math
import os
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_info

from scbert_cll import _checks, _keys
from scbert_cll._checks.words import number_in, share
from scbert_cll._disk.formats import digest, versions
from scbert_cll._process import as_it_was
from scbert_cll.model import _finite, _scvi
from scbert_cll.model._inference import cells_of
from scbert_cll.model._protocols import Network
from scbert_cll.model._tensors import arrays_digest, not_finite, tensors_digest, usable
from scbert_cll.model.corpus.data import CorpusData
from scbert_cll.model.training.arguments import training_device
from scbert_cll.model.training.batches import TokenSplits, random_split
from scbert_cll.model.training.checkpoint_file import MAY_CHANGE, WholeCheckpoints
from scbert_cll.model.training.checkpoints import (
    Checkpoints,
    Preempted,
    Run,
    StepRandom,
)
from scbert_cll.model.training.divergence import NotFinite, StopWhereNotFinite
from scbert_cll.model.training.fsdp import Sharded, all_weights, is_sharded, strategy_of
from scbert_cll.model.training.history import Asked, History, Throughput, loggers, step_bar
from scbert_cll.model.training.memory import (
    announcement,
    enough_memory,
    fitting_batch_size,
    forecast,
)
from scbert_cll.model.training.plans import KeepBest, Plan
from scbert_cll.model.training.seeds import one_at_a_time, seeded

BatchSize = int | Literal["auto"]
_STATE: Final = (
    "is_trained_",
    "history_",
    "kept_epoch_",
    "n_threads_",
    "linear_",
    "combine",
    "not_donors_",
)  # what a training changes besides the network


@dataclass
class Outcome:
    """What is left of a training that ended in an error."""

    has_good: bool = False  # an epoch that is kept


def check_numbers(max_epochs: int, batch_size: BatchSize, **shares: float) -> None:
    """Numbers that training can use; BatchNorm needs two cells at a time."""
    number_in(max_epochs, "max_epochs", 1, np.inf, whole=True)
    if batch_size != "auto":
        number_in(batch_size, "batch_size", 2, np.inf, whole=True)
    for name, value in shares.items():
        share(value, name)


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


def parts_of(model: Network, split_key: str | None, seed: int) -> dict[str, np.ndarray]:
    """Rows of train, val and test; without a split a tenth of the cells validates."""
    if split_key is None:
        return random_split(cells_of(model, None).n_obs, 0.1, seed)
    column = _checks.adata.split(cells_of(model, None), split_key).to_numpy()
    return {part: np.flatnonzero(column == part) for part in _keys.SPLIT_ORDER}


def fit(
    model: Network,
    plan: Plan,
    data: TokenSplits | CorpusData,
    outcome: Outcome,
    asked: Mapping[str, Any],
    **how: Any,
) -> None:
    """Train, one training at a time, and leave the user's process as it was.

    `asked` are the arguments that make it this training.
    """
    # a model that comes trained but without a history starts one, for which scvi-tools must think
    # it untrained
    trained = model.is_trained_
    model.is_trained_ = trained and bool(model.history_)
    try:
        with one_at_a_time, as_it_was():
            model.n_threads_ = torch.get_num_threads()
            stopped = _run(model, plan, data, outcome, asked, **how)
    except _finite.DivergedError:
        model.is_trained_ = trained or model.is_trained_  # it may have a good epoch
        raise
    except Exception:
        model.is_trained_ = trained
        raise
    if stopped is not None:  # when nothing was left that could have been cut
        signal.raise_signal(stopped)


def _run(
    model: Network,
    plan: Plan,
    data: TokenSplits | CorpusData,
    outcome: Outcome,
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
    past = model.history_
    usable(model.module.state_dict())
    run = Run.of(checkpoint_dir, minutes=checkpoint_minutes, steps=checkpoint_steps, resume=resume)
    model.module.set_recompute(recompute)
    data.batch_size = _prepare(model, plan, data, batch_size, max_epochs, trainer)
    restore = early_stopping or math.isfinite(start)
    history = History(model.history_ if model.is_trained_ else None)
    best = KeepBest(model.module, start=start, restore=restore)
    stops = early_stopping and data.n_val
    stop = [EarlyStopping("validation_loss", patience=early_stopping_patience)] if stops else []
    watched = isinstance(data, CorpusData) or logger is not None
    checkpoints = None if run is None else Checkpoints(run)
    runner = _runner(
        model,
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
        else {**asked, **_settings(model, plan, data, runner.trainer, seed, max_epochs)}
    )
    model.module.train()  # Lightning leaves the mode as it finds it
    with (
        nullcontext() if run is None else run.begin(settings) as newest,
        seeded(seed),
        _quiet(),
    ):
        runner.ckpt_path = newest
        try:
            with interruptible(run), enough_memory(model.config, data.batch_size, training=True):
                runner()
            if not_finite(model.module.state_dict()):  # whatever a callback did at the end
                raise NotFinite(
                    "weights",
                    runner.trainer.global_step,
                    max(runner.trainer.current_epoch - 1, 0),
                )
            model.kept_epoch_ = history.past + (
                best.epoch if restore else runner.trainer.current_epoch
            )
        except BaseException as error:
            good = _keep_good(
                model, outcome, best, history.past, diverged=isinstance(error, NotFinite)
            )
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
                model=model,
            ) from None
        finally:  # scvi-tools' own bookkeeping counts from 0 where a training goes on
            if runner.trainer.is_global_zero:
                model.history_ = history.history or past
    return None if checkpoints is None else checkpoints.asked


def _keep_good(
    model: Network, outcome: Outcome, best: KeepBest, past: int, *, diverged: bool
) -> bool:
    """Behind an error: the best epoch's weights, if there is one.

    If not, the model is going to be as it was before.
    """
    model.module.eval()
    outcome.has_good = best.weights is not None and not not_finite(best.weights)
    if outcome.has_good:
        if diverged or not_finite(model.module.state_dict()):
            model.module.load_state_dict(best.weights or {})
        model.is_trained_, model.kept_epoch_ = True, past + best.epoch
    return outcome.has_good


@contextmanager
def trained_or_as_before(model: Network) -> Iterator[Outcome]:
    """A training that ends in an error and leaves no good epoch leaves the model as it was: one training is never half of another."""
    outcome = Outcome()
    weights = all_weights(model.module)
    trains = {name: one.requires_grad for name, one in model.module.named_parameters()}
    others = {name: getattr(model, name) for name in _STATE if hasattr(model, name)}
    others["history_"] = copy.deepcopy(model.history_)  # scvi-tools writes to the tables
    try:
        yield outcome
    except BaseException:
        if not outcome.has_good:
            model.module.to(
                weights["token_embedding.weight"].dtype
            )  # precision="16-true" may have changed it
            model.module.load_state_dict(weights)
            model.module.eval()
            for name, one in model.module.named_parameters():
                one.requires_grad_(trains[name])
            for name, value in others.items():
                setattr(model, name, value)
        raise


def _runner(
    model: Network,
    plan: Plan,
    data: TokenSplits | CorpusData,
    *,
    callbacks: list[Any],
    **trainer: Any,
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
            Sharded(model.module),
            *callbacks,
        ]  # first, so that the best epoch's weights have the last word
    with _quiet():
        return _scvi.TrainRunner(
            model, training_plan=plan, data_splitter=data, callbacks=callbacks, **trainer
        )


def _settings(
    model: Network,
    plan: Plan,
    data: TokenSplits | CorpusData,
    trainer: L.Trainer,
    seed: int,
    max_epochs: int,
) -> dict[str, Any]:
    """All that decides what comes out of a training: a run with other settings is another run."""
    return {
        "class": type(model).__name__,
        "network": asdict(model.config),
        "genes_sha256": digest(list(model.genes)),
        "labels_sha256": digest(model.labels),
        "start_sha256": tensors_digest(plan.state_dict()),
        "linear_sha256": arrays_digest({} if model.linear_ is None else model.linear_.arrays()),
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
            "threads": model.n_threads_,
            "versions": versions("torch", "lightning", "numpy"),
        },
    }


def _prepare(
    model: Network,
    plan: Plan,
    data: TokenSplits | CorpusData,
    batch_size: BatchSize,
    max_epochs: int,
    trainer: Mapping[str, Any],
) -> int:
    """Rehearse a step: find the batch that fits where that is wished, and announce a long training."""
    device, precision = training_device(trainer), trainer.get("precision")
    cells, rows, n_cells = data.rehearsal()
    with enough_memory(model.config, None if batch_size == "auto" else batch_size, training=True):
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
