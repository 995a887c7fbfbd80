"""What the verbs that train are asked for, looked at before anything is done."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from scbert_cll.model import ScBERT, ScBERTClassifier
from scbert_cll.model._network import check_network
from scbert_cll.model.training.arguments import check_training, names_of_training


def check_asked(
    name: str,
    verb: Callable[..., Any],
    kind: type[ScBERT | ScBERTClassifier],
    train: Mapping[str, Any],
    network: Mapping[str, Any] | None,
    *others: str,
) -> None:
    """Names of further arguments (those of the verb are among the nearest), the device, and choices of the network."""
    own = [p.name for p in inspect.signature(verb).parameters.values() if p.kind != p.VAR_KEYWORD]
    check_training(train, [*own, *names_of_training(kind.train, "datamodule")], name)
    check_network(network or {}, *others)
