"""Options of a training, declared once: names, types, defaults and checks.

`train`, the verbs that train, the command line, records and checkpoints read them from here.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, Literal, Self

import lightning.pytorch as L
import numpy as np

from scbert_cll._checks.words import choice, keywords, number_in, share
from scbert_cll.model import _scvi
from scbert_cll.model.linear.regression import COMBINE, Combine
from scbert_cll.model.training.devices import training_device
from scbert_cll.model.training.history import Logging

BatchSize = int | Literal["auto"]
Freeze = Literal["none", "encoder", "scbert"]
_FREEZE: Final = ("none", "encoder", "scbert")
_NO_OPTIONS: Final = ("self", "kwargs", "trainer", "train")
_LARGEST: Final = float(np.finfo(np.float32).max)  # what networks compute with


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How long, on which cells and how a network is trained, and where its checkpoints are."""

    max_epochs: int | None = None
    split_key: str | None = None
    batch_size: BatchSize = 32
    lr: float = 2e-3
    weight_decay: float = 0.01
    recompute: bool = False
    early_stopping: bool = True
    early_stopping_patience: int = 10
    rng: int | np.random.Generator | None = 0
    checkpoint_dir: str | os.PathLike[str] | None = None
    checkpoint_minutes: float | None = 30
    checkpoint_steps: int | None = None
    resume: bool = True
    logger: Logging | Sequence[Logging] = None
    trainer: Mapping[str, Any] = field(default_factory=dict)  # what else Lightning's trainer takes

    @classmethod
    def of(
        cls,
        what: str,
        named: Mapping[str, Any],
        further: Mapping[str, Any],
        *without: str,
    ) -> Self:
        """Options of a call of `what`, in which names are looked at before anything is done.

        Parameters
        ----------
        what
            The function that is called, for messages.
        named
            Its arguments, such as `locals()`; those that are no options are left out.
        further
            Its further keyword arguments: options, and arguments of Lightning's trainer.
        without
            Options that are not among the further ones.
        """
        names = [f.name for f in fields(cls) if f.name != "trainer"]
        others = [name for name in named if name not in _NO_OPTIONS]
        keywords(further, [*others, *cls.names(*without)], what)
        given = {**named, **further}
        return cls(
            **{name: given[name] for name in names if name in given},
            trainer={name: value for name, value in further.items() if name not in names},
        )

    @classmethod
    def names(cls, *without: str) -> list[str]:
        """Names of the options, and of arguments of Lightning's trainer as scvi-tools calls it."""
        trainer = {
            **inspect.signature(L.Trainer.__init__).parameters,
            **inspect.signature(_scvi.Trainer.__init__).parameters,
        }
        # scvi-tools' early stopping is another one, which is never switched on
        of_lightning = [name for name in trainer if not name.startswith("early_stopping")]
        no_names = {*_NO_OPTIONS, *without}
        every = dict.fromkeys([*(f.name for f in fields(cls)), *of_lightning])
        return [name for name in every if name not in no_names]

    def __post_init__(self) -> None:
        """Refuse numbers that training cannot use, and a device that is not there."""
        number_in(self.lr, "lr", 0, _LARGEST)
        number_in(self.weight_decay, "weight_decay", 0, _LARGEST)
        if self.trainer.get("gradient_clip_val") is not None:
            number_in(self.trainer["gradient_clip_val"], "gradient_clip_val", 0, np.inf)
        training_device(self.trainer)
        if self.max_epochs is not None:
            number_in(self.max_epochs, "max_epochs", 1, np.inf, whole=True)
        if self.batch_size != "auto":  # BatchNorm needs two cells at a time
            number_in(self.batch_size, "batch_size", 2, np.inf, whole=True)
        if self.checkpoint_minutes is not None:
            number_in(self.checkpoint_minutes, "checkpoint_minutes", 0, np.inf)
        if self.checkpoint_steps is not None:
            number_in(self.checkpoint_steps, "checkpoint_steps", 1, np.inf, whole=True)


@dataclass(frozen=True, kw_only=True)
class Pretraining(Fit):
    """How a `ScBERT` is trained on hidden genes."""

    max_epochs: int = 20
    mask_fraction: float = 0.15
    feature_redraw_interval: int | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that training cannot use, and a device that is not there."""
        super().__post_init__()
        number_in(self.max_epochs, "max_epochs", 1, np.inf, whole=True)
        share(self.mask_fraction, "mask_fraction")
        if self.feature_redraw_interval is not None:
            number_in(
                self.feature_redraw_interval, "feature_redraw_interval", 1, np.inf, whole=True
            )


@dataclass(frozen=True, kw_only=True)
class Finetuning(Fit):
    """How a `ScBERTClassifier` is trained on labelled cells."""

    batch_size: BatchSize = 16
    early_stopping: bool = False
    token_drop: float = 0.3
    weight_key: str | None = None
    donor_key: str | None = None
    protein_key: str | None = None
    combine: Combine = "none"
    freeze: Freeze = "none"

    def __post_init__(self) -> None:
        """Refuse numbers and words that training cannot use, and a device that is not there."""
        super().__post_init__()
        share(self.token_drop, "token_drop")
        choice(self.combine, COMBINE, "combine")
        choice(self.freeze, _FREEZE, "freeze")

    @property
    def columns(self) -> dict[str, str | None]:
        """Arguments that name what cells in memory have, and a corpus has not."""
        names = ("split_key", "weight_key", "donor_key", "protein_key")
        return {name: getattr(self, name) for name in names}

    def without_columns(self) -> Self:
        """The options of a training on a corpus, which has no such columns."""
        return replace(self, split_key=None, weight_key=None, donor_key=None, protein_key=None)
