"""What both models share: registry, training, folders."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, Final, Literal, Self, get_args, get_type_hints

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from scbert_cll import _checks, _keys
from scbert_cll._checks.words import choice, key_in, keywords, number_in, share
from scbert_cll.model import _finite, _scvi
from scbert_cll.model.exchange import folder
from scbert_cll.model.exchange.sizes import as_saved
from scbert_cll.model.training.arguments import device_of, known_place
from scbert_cll.model.training.fit import Training, as_seed, seeded
from scbert_cll.nn import Config, Performer
from scbert_cll.nn.config import renamed

PRESETS: Final[dict[str, dict[str, Any]]] = {
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
_CHOICES: Final = {
    name: list(get_args(kind)) for name, kind in get_type_hints(Config).items() if get_args(kind)
}
_COUNTS: Final = {"n_hidden", "n_layers", "n_heads", "dim_head", "n_feedforward", "n_background"}


def check_network(network: Mapping[str, Any], *others: str) -> None:
    """Choices of a network by their names, and words and counts among them that can be."""
    network = renamed(network)
    keywords(network, [*_NETWORK, *others], "The network")
    for name, known in _CHOICES.items():
        if name in network:
            choice(network[name], known, name)
    for name in _COUNTS & set(network):
        number_in(network[name], name, 1, np.inf, whole=True)
    if "n_random_features" in network:
        number_in(network["n_random_features"], "n_random_features", 0, np.inf, whole=True)
    if "dropout" in network:
        share(network["dropout"], "dropout")


def _config(
    n_genes: int,
    binning: Mapping[str, Any],
    preset: str,
    network: Mapping[str, Any],
    n_classes: int,
) -> Config:
    """What shapes the network: the preset, what differs from it, and what genes, bins and classes give."""
    choice(preset, list(PRESETS), "preset")
    check_network(network)
    derived = {
        "n_genes": n_genes,
        "n_bins": int(binning["params"]["n_bins"]),
        "n_classes": n_classes,
    }
    return Config(**(PRESETS[preset] | dict(network) | derived))


def width(*, preset: str = "small", **network: Any) -> int:
    """Width of the network that these choices make."""
    found: int = (PRESETS.get(preset, {}) | network).get("n_hidden", Config.n_hidden)
    return found


class TokenModel(Training):
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
        names = pd.Index(
            [
                str(g)
                for g in self.registry["field_registries"]["X"]["state_registry"]["column_names"]
            ]
        )
        self.genes: pd.Index = names[~names.isin(setup["exclude_genes"])]
        if binning is None:
            if adata is None:
                raise ValueError(
                    "A model without adata needs binning=, the uns record that "
                    "pp.bin_expression wrote."
                )
            _, binning = _checks.tokens.tokens(adata, self.layer)
        self.binning: dict[str, Any] = {
            "params": dict(binning["params"]),
            "edges": binning["edges"],
        }
        config = _config(len(self.genes), self.binning, preset, network, len(classes))
        vectors = (
            _gene_vectors(adata, self.genes)
            if adata is not None and config.gene_embedding == "gene2vec"
            else None
        )
        with seeded(as_seed(rng)):
            self.module = Performer(config, vectors)
        self.module.eval()
        self._model_summary_string = f"{type(self).__name__}: {config}"
        self.init_params_ = self._get_init_params(locals())

    def to_device(self, device: str | int) -> None:
        """Move the network to a device.

        Parameters
        ----------
        device
            PyTorch's name of it: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``, or the number of
            a GPU.

        Raises
        ------
        ValueError
            There is no such device.
        """
        super().to_device(known_place(device))

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
        ValueError
            Weights are not finite.
        """
        edges = self.binning["edges"]
        learned = edges if isinstance(edges, pd.DataFrame) else None
        folder.save_folder(
            dir_path,
            config={
                "class": type(self).__name__,
                "is_trained": bool(self.is_trained_),
                "kept_epoch": self.kept_epoch_,
                "joined": self._joined(),
                "setup": self.registry["setup_args"],
                "network": asdict(self.config),
                "binning": self.binning
                | {"edges": None if learned is not None else self.binning["edges"]},
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
            Cells to attach, so that methods can be called without naming them; genes may be in any
            order.
        accelerator
            ``"auto"`` takes an NVIDIA GPU where there is one; ``"cpu"``, ``"gpu"``, ``"cuda"`` or
            ``"mps"`` decide.
        device
            Number of the GPU where there are several.

        Raises
        ------
        FileNotFoundError, ValueError
            The folder is missing, incomplete, damaged, of another class or not a model of this
            package, or its weights are not finite; there is no such device.
        """
        place = device_of(accelerator, device)
        saved = folder.load_folder(dir_path)
        config = saved["config"]
        if config["class"] != cls.__name__:
            raise ValueError(
                f"{dir_path} holds a {config['class']}, not a {cls.__name__}; use "
                f"{config['class']}.load."
            )
        # excluded genes are not in the saved vocabulary, so nothing is left to exclude
        registry = _scvi.detached_registry(cls.__name__, saved["genes"], config["setup"])
        network = {n: value for n, value in renamed(config["network"]).items() if n not in _DERIVED}
        binning = config["binning"] | ({} if saved["edges"] is None else {"edges": saved["edges"]})
        labels = saved["labels"] or {}
        try:
            asked = _config(
                len(saved["genes"]), binning, "small", network, len(labels.get("classes", ()))
            )
            as_saved(asked, saved["weights"], saved["linear"], dir_path)
            model = cls(registry=registry, binning=binning, **labels, **network)
            model.module.load_state_dict(saved["weights"])
        except (KeyError, RuntimeError, TypeError) as error:
            raise ValueError(
                f"{dir_path} is damaged: its config.json does not fit its weights. {error}"
            ) from error
        model.module.to(place)
        model.is_trained_ = config["is_trained"]
        model.kept_epoch_ = config.get("kept_epoch")  # models of before did not say
        if saved["linear"] is not None:
            model._take_linear(config["joined"], saved["linear"])
        model.history_ = _long(saved["history"])
        if adata is not None:
            model._adata = _checks.adata.anndata(adata)
        return model


def _gene_vectors(adata: AnnData, genes: pd.Index) -> Tensor:
    """Rows of varm['gene2vec'] for the model's genes."""
    remedy = 'Make them with tl.gene2vec(adata), or choose gene_embedding="learned".'
    key_in(_keys.GENE2VEC, adata.varm, "adata.varm", remedy)
    vectors = np.asarray(adata.varm[_keys.GENE2VEC], dtype=np.float32)[
        adata.var_names.get_indexer(genes)
    ]
    return torch.from_numpy(_finite.gene_vectors(vectors, genes, f"adata.varm[{_keys.GENE2VEC!r}]"))


def _wide(history: Mapping[str, pd.DataFrame] | None) -> pd.DataFrame | None:
    """Tables by name as one."""
    return pd.concat(list(history.values()), axis=1) if history else None


def _long(history: pd.DataFrame | None) -> dict[str, pd.DataFrame] | None:
    """One table as tables by name."""
    return None if history is None else {str(name): history[[name]].dropna() for name in history}
