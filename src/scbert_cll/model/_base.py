"""What both models share: registry, training, folders."""

from __future__ import annotations

import math
import os
import signal
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any, Final, Literal, Self, get_args, get_type_hints

import lightning.pytorch as L
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

import scbert_cll
from scbert_cll import _checks, _keys
from scbert_cll.model import _io, _scvi
from scbert_cll.model._data import TokenRows, TokenSplits, random_split
from scbert_cll.model._inference import Inference
from scbert_cll.model._plans import KeepBest, Plan
from scbert_cll.model._resources import (
    announcement,
    enough_memory,
    fitting_batch_size,
    forecast,
    training_device,
)
from scbert_cll.nn import Config, Performer

PRESETS: Final[dict[str, dict[str, Any]]] = {
    # trains on a laptop: only expressed genes attend, their mean is classified; with a maximum per head none of the heads
    # drowns in the constant floor of the features when another one's keys grow
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
_CHOICES: Final = {name: list(get_args(kind)) for name, kind in get_type_hints(Config).items() if get_args(kind)}
_COUNTS: Final = {"n_hidden", "n_layers", "n_heads", "dim_head", "n_feedforward", "n_background"}


def width(*, preset: str = "small", **network: Any) -> int:
    """Width of the network that these choices make."""
    found: int = (PRESETS.get(preset, {}) | network).get("n_hidden", Config.n_hidden)
    return found


def as_seed(rng: int | np.random.Generator | None) -> int:
    """Draw an integer seed from what users pass as `rng`."""
    return int(rng) if isinstance(rng, (int, np.integer)) else int(np.random.default_rng(rng).integers(2**31))


def check_numbers(max_epochs: int, batch_size: int | Literal["auto"], **shares: float) -> None:
    """Numbers that training can use; BatchNorm needs two cells at a time."""
    _checks.number_in(max_epochs, "max_epochs", 1, np.inf, whole=True)
    if batch_size != "auto":
        _checks.number_in(batch_size, "batch_size", 2, np.inf, whole=True)
    for name, value in shares.items():
        _checks.share(value, name)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's random numbers from `seed`, and the user's own stream untouched."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@contextmanager
def interruptible() -> Iterator[None]:
    """Ctrl-C as Python has it: Lightning would end the process, and ignore the key from then on."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt(
            "Training was interrupted. The model has its best epoch; train() goes on from it."
        ) from stop


class TokenModel(Inference):
    """A Performer over binned genes, with the verbs of scvi-tools."""

    def __init__(
        self,
        adata: AnnData | None,
        registry: dict[str, Any] | None,
        network: Mapping[str, Any],
        *,
        preset: str,
        binning: Mapping[str, Any] | None,
        classes: Sequence[str],
        rng: int | np.random.Generator | None,
    ) -> None:
        super().__init__(adata, registry)
        setup = self.registry["setup_args"]
        self.layer: str = setup["layer"]
        names = pd.Index([str(g) for g in self.registry["field_registries"]["X"]["state_registry"]["column_names"]])
        self.genes: pd.Index = names[~names.isin(setup["exclude_genes"])]
        if binning is None:
            if adata is None:
                raise ValueError("A model without adata needs binning=, the uns record that pp.bin_expression wrote.")
            _, binning = _checks.tokens(adata, self.layer)
        self.binning: dict[str, Any] = {"params": dict(binning["params"]), "edges": binning["edges"]}
        config = self._config(preset, network, len(classes))
        vectors = (
            _gene_vectors(adata, self.genes) if adata is not None and config.gene_embedding == "gene2vec" else None
        )
        with seeded(as_seed(rng)):
            self.module = Performer(config, vectors)
        self.module.eval()
        self._model_summary_string = f"{type(self).__name__}: {config}"
        self.init_params_ = self._get_init_params(locals())

    def _config(self, preset: str, network: Mapping[str, Any], n_classes: int) -> Config:
        _checks.choice(preset, list(PRESETS), "preset")
        unknown = [name for name in network if name not in _NETWORK]
        if unknown:
            raise TypeError(
                f"Unknown network parameters {_checks.listed(unknown)}; there are {_checks.listed(_NETWORK, 20)}."
            )
        for name, known in _CHOICES.items():
            if name in network:
                _checks.choice(network[name], known, name)
        for name in _COUNTS & set(network):
            _checks.number_in(network[name], name, 1, np.inf, whole=True)
        derived = {"n_genes": len(self.genes), "n_bins": int(self.binning["params"]["n_bins"]), "n_classes": n_classes}
        return Config(**(PRESETS[preset] | dict(network) | derived))

    # ---- training

    def _parts(self, split_key: str | None, seed: int) -> dict[str, np.ndarray]:
        """Rows of train, val and test; without a split a tenth of the cells validates."""
        if split_key is None:
            return random_split(self._cells(None).n_obs, 0.1, seed)
        column = _checks.split(self._cells(None), split_key).to_numpy()
        return {part: np.flatnonzero(column == part) for part in _keys.SPLIT_ORDER}

    def _fit(
        self,
        plan: Plan,
        data: TokenRows,
        parts: dict[str, np.ndarray],
        *,
        max_epochs: int,
        batch_size: int | Literal["auto"],
        recompute: bool,
        early_stopping: bool,
        seed: int,
        start: float = math.inf,
        callbacks: Sequence[L.Callback] = (),
        **trainer: Any,
    ) -> None:
        """Run Lightning through scvi-tools' runner; with early stopping the best epoch's weights are kept, else the last one's."""
        self.module.set_recompute(recompute)
        batch_size = self._prepare(plan, data, parts[_keys.TRAIN], batch_size, max_epochs, trainer)
        splits = TokenSplits(data, parts, batch_size=batch_size, seed=seed)
        keep_best = early_stopping or math.isfinite(start)
        best = [KeepBest(start=start, restore=keep_best)] if splits.n_val else []
        runner = _scvi.TrainRunner(
            self,
            training_plan=plan,
            data_splitter=splits,
            max_epochs=max_epochs,
            early_stopping=early_stopping and splits.n_val > 0,
            early_stopping_monitor="validation_loss",
            callbacks=[*callbacks, *best],
            **{"check_val_every_n_epoch": 1, "log_every_n_steps": 1, "limit_val_batches": min(1.0, splits.n_val)}
            | {"use_distributed_sampler": False}  # RowBatches shares the cells out itself
            | trainer,
        )
        self.module.train()  # Lightning leaves the mode as it finds it
        with seeded(seed), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*isinstance\(treespec")  # Lightning on PyTorch's own changes
            try:
                with interruptible(), enough_memory(self.config, batch_size, training=True):
                    runner()
            except (KeyboardInterrupt, MemoryError):
                self.module.eval()
                self.is_trained_ = bool(best) and best[0].weights is not None
                raise

    def _prepare(
        self,
        plan: Plan,
        data: TokenRows,
        rows: np.ndarray,
        batch_size: int | Literal["auto"],
        max_epochs: int,
        trainer: Mapping[str, Any],
    ) -> int:
        """Rehearse a step: find the batch that fits where that is wished, and announce a long training."""
        device, precision = training_device(trainer), trainer.get("precision")
        with enough_memory(self.config, None if batch_size == "auto" else batch_size, training=True):
            if batch_size == "auto":
                batch_size = fitting_batch_size(plan, data, rows, device, precision)
                rank_zero_info(f"batch_size={batch_size} fits.")
            found = forecast(plan, data, rows, device, precision, batch_size)
        said = announcement(found, data, rows, batch_size=batch_size, max_epochs=max_epochs)
        if said is not None:
            rank_zero_info(said)
        return batch_size

    # ---- folders

    def save(self, dir_path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Save the model as a folder of text files and safetensors, complete enough to predict without training data.

        Parameters
        ----------
        dir_path
            The folder; it appears whole or not at all.
        overwrite
            Replace a model that is there. A folder that holds anything else is never replaced.

        Raises
        ------
        FileExistsError
            The folder exists and `overwrite` is False, or it holds other files.
        """
        edges = self.binning["edges"]
        learned = edges if isinstance(edges, pd.DataFrame) else None
        _io.save_folder(
            dir_path,
            config={
                "class": type(self).__name__,
                "versions": {
                    "scbert_cll": scbert_cll.__version__,
                    "scvi-tools": _scvi.SCVI_VERSION,
                    "torch": torch.__version__,
                },
                "is_trained": bool(self.is_trained_),
                "joined": self._joined(),
                "setup": self.registry["setup_args"],
                "network": asdict(self.config),
                "binning": self.binning | {"edges": None if learned is not None else self.binning["edges"]},
            },
            genes=list(self.genes),
            weights=self.module.state_dict(),
            labels=self._labels(),
            history=_wide(self.history_),
            edges=learned,
            linear=self._linear_arrays(),
            overwrite=overwrite,
        )

    def _labels(self) -> dict[str, Any] | None:
        return None

    def _joined(self) -> dict[str, Any] | None:
        """How a linear part takes part in predictions, where there is one."""
        return None

    def _linear_arrays(self) -> dict[str, np.ndarray] | None:
        return None

    def _take_linear(self, joined: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Take over a linear part that was saved."""

    @classmethod
    def load(
        cls,
        dir_path: str | os.PathLike[str],
        adata: AnnData | None = None,
        *,
        accelerator: str = "auto",
        device: int | Literal["auto"] = "auto",
    ) -> Self:
        """Load a model that :meth:`save` wrote.

        Parameters
        ----------
        dir_path
            The folder.
        adata
            Cells to attach, so that methods can be called without naming them; genes may be in any order.
        accelerator
            ``"auto"`` takes a GPU where there is one; ``"cpu"`` or ``"gpu"`` decide.
        device
            Number of the GPU where there are several.

        Raises
        ------
        FileNotFoundError, ValueError
            The folder is missing, incomplete, damaged, of another class or not a model of this package.
        """
        saved = _io.load_folder(dir_path)
        config = saved["config"]
        if config["class"] != cls.__name__:
            raise ValueError(f"{dir_path} holds a {config['class']}, not a {cls.__name__}; use {config['class']}.load.")
        # excluded genes are not in the saved vocabulary, so nothing is left to exclude
        registry = _scvi.detached_registry(cls.__name__, saved["genes"], config["setup"])
        network = {name: value for name, value in config["network"].items() if name not in _DERIVED}
        binning = config["binning"] | ({} if saved["edges"] is None else {"edges": saved["edges"]})
        try:
            model = cls(registry=registry, binning=binning, **(saved["labels"] or {}), **network)
            model.module.load_state_dict(saved["weights"])
        except (KeyError, RuntimeError, TypeError) as error:
            raise ValueError(f"{dir_path} is damaged: its config.json does not fit its weights. {error}") from error
        use_gpu = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
        gpu = "cuda" if device == "auto" else f"cuda:{device}"
        model.module.to(gpu if use_gpu else "cpu")
        model.is_trained_ = config["is_trained"]
        if saved["linear"] is not None:
            model._take_linear(config["joined"], saved["linear"])
        model.history_ = _long(saved["history"])
        if adata is not None:
            model._adata = _checks.anndata(adata)
        return model


def _gene_vectors(adata: AnnData, genes: pd.Index) -> Tensor:
    """Rows of varm['gene2vec'] for the model's genes."""
    remedy = 'Make them with tl.gene2vec(adata), or choose gene_embedding="learned".'
    _checks.key_in(_keys.GENE2VEC, adata.varm, "adata.varm", remedy)
    vectors = np.asarray(adata.varm[_keys.GENE2VEC], dtype=np.float32)
    return torch.from_numpy(vectors[adata.var_names.get_indexer(genes)])


def _wide(history: Mapping[str, pd.DataFrame] | None) -> pd.DataFrame | None:
    return pd.concat(list(history.values()), axis=1) if history else None


def _long(history: pd.DataFrame | None) -> dict[str, pd.DataFrame] | None:
    return None if history is None else {str(name): history[[name]].dropna() for name in history}
