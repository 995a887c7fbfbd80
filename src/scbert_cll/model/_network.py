"""Choices of a network: the presets, the checks, and the `Config` they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, Final, get_args, get_type_hints

import numpy as np

from scbert_cll._checks.words import choice, keywords, number_in, share
from scbert_cll._disk.formats import Json
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
_NAMES: Final = [f.name for f in fields(Config) if f.name not in _DERIVED]
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


def check_network(network: Mapping[str, Any], *others: str) -> None:
    """Refuse unknown names of choices, words that do not exist and numbers out of range."""
    network = renamed(network)
    keywords(network, [*_NAMES, *others], "The network")
    for name, words in _WORDS.items():
        if words and name in network:
            choice(network[name], words, name)
    for name, least in _LEAST.items():
        if name in network:
            number_in(network[name], name, least, np.inf, whole=True)
    if "dropout" in network:
        share(network["dropout"], "dropout")


def config_of(
    n_genes: int,
    binning: Mapping[str, Any],
    preset: str,
    network: Mapping[str, Any],
    n_classes: int,
) -> Config:
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
