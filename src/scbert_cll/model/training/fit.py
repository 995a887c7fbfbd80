"""Both trainings, from options to a trained model: of all cells' genes, and of labelled cells.

A step is tried out first. Then Lightning trains, by scvi-tools' runner, and an epoch is kept.
"""

from __future__ import annotations

import math
import signal
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import lightning.pytorch as L
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_info

from scbert_cll import _checks
from scbert_cll._keys import SPLIT_ORDER, TRAIN, VAL
from scbert_cll._process import as_it_was, one_at_a_time
from scbert_cll.model import _scvi
from scbert_cll.model._inference import calm_for, cells_of, token_rows
from scbert_cll.model._protocols import Classifier, Network
from scbert_cll.model._tensors import not_finite, usable
from scbert_cll.model.corpus import start
from scbert_cll.model.corpus.data import CorpusData
from scbert_cll.model.linear import regression
from scbert_cll.model.training import callbacks, checkpoints, plans
from scbert_cll.model.training.batches import ResumableData, TokenSplits, random_split
from scbert_cll.model.training.devices import Rehearsal, enough_memory, training_device
from scbert_cll.model.training.options import Finetuning, Pretraining, as_seed, seeded

_CELL_PASSES: Final = 10_000
_EPOCHS: Final = (8, 20)
# standard deviations of a protein; a doublet shall not decide a batch
_FARTHEST: Final = 4.0


def pretrain(model: Network, options: Pretraining, corpus: CorpusData | None) -> None:
    """Train on hidden genes of the model's cells, or of those of a corpus."""
    seed = as_seed(options.rng)
    data: ResumableData
    if corpus is None:
        rows = token_rows(model, None, seed=seed)
        data = TokenSplits(rows, _parts_of(model, options.split_key, seed), seed=seed)
    else:
        data = start.attached(model, corpus, seed)
    plan = plans.PretrainPlan(model.module, options, seed)
    with callbacks.trained_or_as_before(model) as outcome:
        _Training(model, plan, data, options, outcome, options.max_epochs).run()


def finetune(model: Classifier, options: Finetuning, corpus: CorpusData | None) -> None:
    """Train on labelled cells, with a linear part beside the network."""
    seed = as_seed(options.rng)
    with callbacks.trained_or_as_before(model) as outcome:
        model.combine = options.combine
        data: ResumableData
        if corpus is None:
            cells, donor_key = cells_of(model, None), options.donor_key
            donor_key = _checks.people.donor_key_of(cells, donor_key)
            options = replace(options, donor_key=donor_key)
            data, loss = _labelled(model, options, seed)
        else:
            data, loss = start.labelled(model, corpus, seed, options.columns), math.inf
            options = options.without_columns()
        plans.leave_trainable(model.module, options.freeze)
        with seeded(seed):
            plan = plans.ClassifyPlan(model.module, options, seed, data.n_proteins)
        # fewer passes over more cells: some hundred steps are needed, and more than 20 overfit
        usual = int(np.clip(_CELL_PASSES // max(data.n_labelled, 1), *_EPOCHS))
        max_epochs = options.max_epochs or usual
        _Training(model, plan, data, options, outcome, max_epochs, loss).run()


# ---- labelled cells in memory


def _parts_of(model: Network, split_key: str | None, seed: int) -> dict[str, np.ndarray]:
    """Rows of train, val and test; without a split a tenth of the cells validates."""
    cells = cells_of(model, None)
    if split_key is None:
        return random_split(cells.n_obs, 0.1, seed)
    column = _checks.adata.split(cells, split_key).to_numpy()
    return {part: np.flatnonzero(column == part) for part in SPLIT_ORDER}


def _labelled(model: Classifier, options: Finetuning, seed: int) -> tuple[TokenSplits, float]:
    """The cells, and the validation loss that the network has to beat."""
    adata, parts = cells_of(model, None), _parts_of(model, options.split_key, seed)
    groups, model.not_donors_ = None, {}
    if options.donor_key is not None:
        has_label = _checks.adata.obs_column(adata, model.labels_key).notna().to_numpy()
        is_used = np.zeros(adata.n_obs, dtype=bool)
        is_used[parts[TRAIN]] = is_used[parts[VAL]] = True
        cells = has_label & is_used
        donors = _checks.people.donors(adata, options.donor_key, cells=cells)
        parts = {part: rows[donors.iloc[rows].notna()] for part, rows in parts.items()}
        groups = donors.to_numpy(dtype=object)
        model.not_donors_ = _checks.people.left_out(donors)
    codes = _checks.adata.labels(adata, model.labels_key, model.classes, parts[TRAIN])
    unlabelled = parts[TRAIN][codes[parts[TRAIN]] < 0]
    parts = {part: rows[codes[rows] >= 0] for part, rows in parts.items()}
    weights = _weights(adata, options.weight_key, codes, parts)
    parts[TRAIN] = parts[TRAIN][weights[parts[TRAIN]] > 0]
    data = token_rows(model, None, seed=seed, labels=codes, weights=weights)
    train, val = parts[TRAIN], parts[VAL]
    examples = regression.Examples(data.csr, codes, weights, train, val, groups, seed)
    model.linear_, loss = regression.fit_linear(examples), math.inf
    if model.combine == "residual":
        offset = regression.out_of_fold_logits(model.linear_, examples)
        data.columns["offset"] = torch.from_numpy(offset.astype(np.float32))
        if not model.is_trained_:  # begin with the linear part alone
            model.module.zero_head()
            if len(val):
                loss = regression.loss_of_logits(offset[val], codes[val], weights[val])
    if options.protein_key is not None:
        parts[TRAIN] = np.sort(np.concatenate([parts[TRAIN], unlabelled]))
        levels = _protein_levels(adata, options.protein_key, parts[TRAIN])
        data.columns["proteins"] = torch.from_numpy(levels)
    return TokenSplits(data, parts, seed=seed), loss


def _weights(
    adata: AnnData, key: str | None, codes: np.ndarray, parts: Mapping[str, np.ndarray]
) -> np.ndarray:
    """How much each cell counts.

    A validation cell as the mean training cell of its class, 1 over all of them.
    """
    weights = (codes >= 0).astype(np.float32)
    if key is None:
        return weights
    train, val = parts[TRAIN], parts[VAL]
    column = _checks.adata.obs_column(adata, key)
    weights[train] = pd.to_numeric(column.iloc[train], errors="coerce")
    used = weights[train]
    if not np.isfinite(used).all() or (used < 0).any() or used.sum() <= 0:
        raise ValueError(
            f"adata.obs[{key!r}] must hold finite weights of zero or more for all training "
            "cells; make it with pp.balance."
        )
    train = train[weights[train] > 0]
    n_classes = codes.max() + 1
    n = np.bincount(codes[train], minlength=n_classes)
    by_class = np.bincount(codes[train], weights[train], n_classes) / np.maximum(n, 1)
    if len(val):
        weights[val] = by_class[codes[val]] / max(by_class[codes[val]].mean(), 1e-12)
    return weights


def _protein_levels(adata: AnnData, key: str, train: np.ndarray) -> np.ndarray:
    """Logarithms of protein counts in units of their spread among the training cells.

    float32 (cells, proteins); proteins that do not vary there are left out.
    """
    level = np.log1p(_checks.adata.protein_counts(adata, key))
    spread = level[train].std(0)
    varying = spread > 0
    standard = (level[:, varying] - level[train][:, varying].mean(0)) / spread[varying]
    return np.asarray(np.clip(standard, -_FARTHEST, _FARTHEST), dtype=np.float32)


# ---- the training itself


@dataclass(frozen=True)
class _Training:
    """One training of a model, by a plan, on data.

    `loss` is the validation loss before it, where the untrained network may be the best.
    """

    model: Network
    plan: plans.Plan
    data: ResumableData
    options: Pretraining | Finetuning
    outcome: callbacks.Outcome
    max_epochs: int
    loss: float = math.inf

    def run(self) -> None:
        """Train, one training at a time, and leave the user's process as it was."""
        # a model that comes trained but without a history starts one, for which scvi-tools must
        # think it untrained
        model, was_trained = self.model, self.model.is_trained_
        model.is_trained_ = was_trained and bool(model.history_)
        try:
            with calm_for(model), one_at_a_time, as_it_was():
                model.n_threads_ = torch.get_num_threads()
                late_signal = self._fit()
        except Exception as error:
            # a training that diverged may have a good epoch
            has_good = isinstance(error, callbacks.DivergedError) and model.is_trained_
            model.is_trained_ = was_trained or has_good
            raise
        if late_signal is not None:  # when nothing was left that could have been cut
            signal.raise_signal(late_signal)

    def _fit(self) -> int | None:
        """Run Lightning; the signal that came too late for a checkpoint.

        With early stopping the best epoch's weights are kept, else the last one's. Of a training
        that diverges the best epoch before is kept, else the weights from before.
        """
        model, data, options = self.model, self.data, self.options
        before, network = model.history_, model.module
        usable(network.state_dict())
        run, folder = None, options.checkpoint_dir
        if folder is not None:
            run = checkpoints.Run(Path(folder), options)
        network.set_recompute(options.recompute)
        data.batch_size = self._tried_batch_size()
        history = callbacks.History(before if model.is_trained_ else None)
        restore = options.early_stopping or math.isfinite(self.loss)
        best = callbacks.KeepBest(network, start=self.loss, restore=restore)
        runner = self._runner(history, best, run)
        begun: AbstractContextManager[Path | None] = nullcontext()
        if run is not None:
            trainer = runner.trainer
            begun = run.begin(checkpoints.settings_of(model, self.plan, data, options, trainer))
        network.train()  # Lightning leaves the mode as it finds it
        with begun as newest, seeded(data.seed), _quiet():
            runner.ckpt_path = newest
            try:
                with (
                    _interruptible(options.checkpoint_dir),
                    enough_memory(model.config, data.batch_size, training=True),
                ):
                    runner()
                last, step = runner.trainer.current_epoch, runner.trainer.global_step
                # whatever a callback did at the end
                if not_finite(network.state_dict()):
                    raise callbacks.NotFinite("weights", step, max(last - 1, 0))
                epoch = best.epoch if best.restore else last
                model.kept_epoch_ = history.past + epoch
            except callbacks.NotFinite as error:
                self.outcome.keep_good(model, best, history.past, diverged=True)
                history.end_before(error.epoch + 1)
                epoch = None
                if self.outcome.has_good:
                    epoch = history.past * bool(best.epoch) + best.epoch
                raise callbacks.diverged(
                    error, options, past=history.past, kept_epoch=epoch, model=model
                ) from None
            except BaseException:
                self.outcome.keep_good(model, best, history.past, diverged=False)
                raise
            finally:  # scvi-tools' own bookkeeping counts from 0 where a training goes on
                if runner.trainer.is_global_zero:
                    model.history_ = history.history or before
        return None if run is None else run.signalled

    def _tried_batch_size(self) -> int:
        """Dry-run a step: the batch size, found where that is wished; say what takes long."""
        trainer, size = self.options.trainer, self.options.batch_size
        cells, rows, n_cells = self.data.rehearsal()
        device, precision = training_device(trainer), trainer.get("precision")
        rehearsal = Rehearsal(self.plan, cells, rows, device, precision)
        config = self.model.config
        with enough_memory(config, None if size == "auto" else size, training=True):
            if size == "auto":
                size = rehearsal.fitting_batch_size()
                rank_zero_info(f"batch_size={size} fits.")
            step = rehearsal.forecast(size)
        sentence = rehearsal.announcement(
            step, n_cells=n_cells, batch_size=size, max_epochs=self.max_epochs
        )
        if sentence is not None:
            rank_zero_info(sentence)
        return size

    def _runner(
        self, history: callbacks.History, best: L.Callback, run: checkpoints.Run | None
    ) -> _scvi.TrainRunner:
        """scvi-tools' runner of Lightning's trainer, with the callbacks in the order they need."""
        options, data = self.options, self.data
        is_watched = data.is_streamed or options.logger is not None
        user = {"callbacks": (), "plugins": (), "strategy": "auto", **options.trainer}
        trainer = {
            "check_val_every_n_epoch": 1,
            "log_every_n_steps": 1,
            "limit_val_batches": min(1.0, data.n_val),
            "use_distributed_sampler": False,  # the data share the cells out themselves
            **({"simple_progress_bar": False} if is_watched else {}),
            **options.trainer,
            "strategy": plans.strategy_of(user["strategy"]),
            "plugins": [*user["plugins"], checkpoints.WholeCheckpoints()],
        }
        every = [*user["callbacks"], callbacks.StopWhereNotFinite(), best]
        # first, so that the best epoch's weights are the last word
        if plans.is_sharded(trainer["strategy"]):
            every.insert(0, plans.Sharded(self.model.module))
        if options.early_stopping and data.n_val:
            patience = options.early_stopping_patience
            every.append(EarlyStopping("validation_loss", patience=patience))
        if is_watched:
            every.append(callbacks.Throughput())
            if trainer.get("enable_progress_bar", True):
                every.append(callbacks.step_bar())
        if run is not None:
            every.append(checkpoints.Checkpoints(run))
        trainer["callbacks"] = every
        with _quiet():
            return _scvi.TrainRunner(
                self.model,
                training_plan=self.plan,
                data_splitter=data,
                max_epochs=self.max_epochs,
                logger=[history, *callbacks.loggers(options.logger, options.checkpoint_dir)],
                **trainer,
            )


@contextmanager
def _interruptible(checkpoint_dir: Any) -> Iterator[None]:
    """Ctrl-C as Python has it: Lightning would end the process, and ignore the key from then on."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except checkpoints.Preempted:
        raise
    except SystemExit as stop:
        signal.signal(signal.SIGINT, handler)
        remedy = "train() goes on from it."
        if checkpoint_dir is not None:
            place = f"the last checkpoint in {checkpoint_dir}"
            remedy = f"The same call goes on from {place}."
        raise KeyboardInterrupt(
            f"Training was interrupted. The model has its best epoch, or is as it was where "
            f"no epoch had ended; {remedy}"
        ) from stop


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
