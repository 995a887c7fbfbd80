"""Options of a network and of its training, declared once: names, types, defaults and checks.

The models, the verbs, the command line, records and checkpoints read them from here. Beside them
what a seed does, and which options make a run another run.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, Literal, Self, get_args, get_type_hints

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger

from scbert_cll import _record
from scbert_cll._checks.words import choice, keywords, number_in, share
from scbert_cll._disk.formats import Json
from scbert_cll._keys import DONOR
from scbert_cll._process import one_at_a_time
from scbert_cll.model import _scvi
from scbert_cll.model.linear.regression import Combine
from scbert_cll.model.training.devices import training_device
from scbert_cll.nn import Config
from scbert_cll.nn.config import renamed

PRESETS: Final[Mapping[str, Json]] = {
    # trains on a laptop: only expressed genes attend, their mean is classified; with a maximum per
    # head none of the heads drowns in the constant floor of the features when another one's keys
    # grow
    "small": {"stabilizer": "head"},
    # the published network: every gene attends, gene2vec stays as it is
    "scbert": {
        "n_hidden": 200,
        "n_layers": 6,
        "n_heads": 10,
        "dim_head": 64,
        "dropout": 0.0,
        "train_gene_embedding": False,
        "tokens": "all",
        "end_token": True,
        "head": "scbert",
    },
}
_DERIVED: Final = {"n_genes", "n_bins", "n_classes"}
_NETWORK: Final = [f.name for f in fields(Config) if f.name not in _DERIVED]
_WORDS: Final = {name: get_args(kind) for name, kind in get_type_hints(Config).items()}
_LEAST: Final = {  # of numbers
    "n_hidden": 1,
    "n_layers": 1,
    "n_heads": 1,
    "dim_head": 1,
    "n_random_features": 0,
    "n_feedforward": 1,
    "n_background": 1,
}

type Rng = int | np.random.Generator | None  # a seed, what draws one, or chance
Logging = str | Logger | None
BatchSize = int | Literal["auto"]
Freeze = Literal["none", "encoder", "scbert"]
_COLUMNS: Final = ("split_key", "weight_key", "donor_key", "protein_key")
_NO_OPTIONS: Final = ("self", "kwargs", "trainer", "train")
_LARGEST: Final = float(np.finfo(np.float32).max)  # what networks compute with

# what may change where a run goes on, and why
FREE: Final[Mapping[str, str]] = {
    "accelerator": "a run may go on on another machine; weights differ by no more than rounding",
    "callbacks": "objects of the user, which only he can compare",
    "checkpoint_dir": "where checkpoints are, not what is trained",
    "checkpoint_minutes": "when checkpoints are written, not what is trained",
    "checkpoint_steps": "when checkpoints are written, not what is trained",
    "default_root_dir": "where others than this package may write",
    "devices": "which ones; how many processes there are is compared as `processes`",
    "enable_model_summary": "what is shown",
    "enable_progress_bar": "what is shown",
    "log_every_n_steps": "what is shown",
    "logger": "what is shown, and where it is written",
    "num_nodes": "how many processes there are is compared as `processes`",
    "plugins": "objects of the user, which only he can compare",
    "profiler": "what is measured while it runs",
    "resume": "whether to go on, not with what",
    "simple_progress_bar": "what is shown",
    "strategy": "what it makes of the run is compared as `processes` and `sharded`",
}
ELSEWHERE: Final[Mapping[str, str]] = {  # what they become, under which name
    "batch_size": "batch_size",  # "auto" becomes a number
    "datamodule": "data_sha256",
    "lr": "lr",
    "mask_fraction": "mask_fraction",
    "max_epochs": "max_epochs",  # None becomes a number
    "rng": "seed",
    "token_drop": "token_drop",
    "weight_decay": "weight_decay",
}


def as_seed(rng: Rng) -> int:
    """Draw an integer seed from what users pass as `rng`."""
    if isinstance(rng, (int, np.integer)):
        return int(rng)
    return int(np.random.default_rng(rng).integers(2**31))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's random numbers from `seed`, and the user's own stream untouched.

    There is one stream, so another thread waits.
    """
    with one_at_a_time, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def check_network(network: Mapping[str, Any], *others: str) -> None:
    """Refuse unknown names of choices, words that do not exist and numbers out of range."""
    network = renamed(network)
    keywords(network, [*_NETWORK, *others], "The network")
    for name, words in _WORDS.items():
        if words and name in network:
            choice(network[name], words, name)
    for name, least in _LEAST.items():
        if name in network:
            number_in(network[name], name, least, np.inf, whole=True)
    if "dropout" in network:
        share(network["dropout"], "dropout")


def config_of(n_genes: int, binning: Json, preset: str, network: Json, n_classes: int) -> Config:
    """Dimensions of a network: the preset, and what `network` has in its place."""
    choice(preset, list(PRESETS), "preset")
    check_network(network)
    n_bins = int(binning["params"]["n_bins"])
    derived = {"n_genes": n_genes, "n_bins": n_bins, "n_classes": n_classes}
    return Config(**(PRESETS[preset] | dict(network) | derived))


def choices(config: Config | Mapping[str, Any]) -> Json:
    """What of a `Config` a user chooses: all but numbers of genes, bins and classes."""
    values = asdict(config) if isinstance(config, Config) else renamed(config)
    return {name: value for name, value in values.items() if name not in _DERIVED}


def width(*, preset: str = "small", **network: Any) -> int:
    """Width of the network that these choices make."""
    n_hidden: int = (PRESETS.get(preset, {}) | network).get("n_hidden", Config.n_hidden)
    return n_hidden


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
    # what else Lightning's trainer takes
    trainer: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, what: str, named: Json, further: Json, *without: str) -> Self:
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
        names = cls.__dataclass_fields__.keys() - {"trainer"}
        others = [name for name in named if name not in _NO_OPTIONS]
        keywords(further, [*others, *cls.names(*without)], what)
        values = {**named, **further}
        trainer = {name: value for name, value in further.items() if name not in names}
        chosen = {name: values[name] for name in names & values.keys()}
        return cls(**chosen, trainer=trainer)

    @classmethod
    def names(cls, *without: str) -> list[str]:
        """Names of the options, and of arguments of Lightning's trainer as scvi-tools calls it."""
        trainer = {
            **inspect.signature(L.Trainer.__init__).parameters,
            **inspect.signature(_scvi.Trainer.__init__).parameters,
        }
        # scvi-tools' early stopping is another one, which is never switched on
        lightning = [name for name in trainer if not name.startswith("early_stopping")]
        every = dict.fromkeys([*(f.name for f in fields(cls)), *lightning])
        return [name for name in every if name not in (*_NO_OPTIONS, *without)]

    def __post_init__(self) -> None:
        """Refuse numbers that training cannot use, and a device that is not there."""
        number_in(self.lr, "lr", 0, _LARGEST)
        number_in(self.weight_decay, "weight_decay", 0, _LARGEST)
        _number(self.trainer.get("gradient_clip_val"), "gradient_clip_val", 0)
        training_device(self.trainer)
        _number(self.max_epochs, "max_epochs", 1, whole=True)
        if self.batch_size != "auto":  # BatchNorm needs two cells at a time
            number_in(self.batch_size, "batch_size", 2, np.inf, whole=True)
        _number(self.checkpoint_minutes, "checkpoint_minutes", 0)
        _number(self.checkpoint_steps, "checkpoint_steps", 1, whole=True)


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
        _number(self.feature_redraw_interval, "feature_redraw_interval", 1, whole=True)


@dataclass(frozen=True, kw_only=True)
class Finetuning(Fit):
    """How a `ScBERTClassifier` is trained on labelled cells."""

    batch_size: BatchSize = 16
    early_stopping: bool = False
    token_drop: float = 0.3
    weight_key: str | None = None
    donor_key: str | None = DONOR
    protein_key: str | None = None
    combine: Combine = "none"
    freeze: Freeze = "none"

    def __post_init__(self) -> None:
        """Refuse numbers and words that training cannot use, and a device that is not there."""
        super().__post_init__()
        share(self.token_drop, "token_drop")
        choice(self.combine, get_args(Combine), "combine")
        choice(self.freeze, get_args(Freeze), "freeze")

    @property
    def columns(self) -> dict[str, str | None]:
        """Arguments that name what cells in memory have, and a corpus has not; None: as usual."""
        keys = {name: getattr(self, name) for name in _COLUMNS}
        if self.donor_key == DONOR:
            keys["donor_key"] = None
        return keys

    def without_columns(self) -> Self:
        """The options of a training on a corpus, which has no such columns."""
        no_columns: dict[str, Any] = dict.fromkeys(_COLUMNS)
        return replace(self, **no_columns)


def _number(value: object, name: str, least: float, *, whole: bool = False) -> None:
    """None, or a number that is not too small."""
    if value is not None:
        number_in(value, name, least, np.inf, whole=whole)


def compared(options: Fit) -> Json:
    """Options of a training that are compared by their own names, as plain values."""
    values = dict(vars(options))
    trainer = values.pop("trainer")
    values, elsewhere = _record.params({**values, **trainer}), {*FREE, *ELSEWHERE}
    return {name: values[name] for name in values if name not in elsewhere}
