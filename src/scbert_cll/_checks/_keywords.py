"""Checks of names of arguments, where a function takes more of them than it lists."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

from scbert_cll._checks._words import listed

# what is meant by names of other packages
_HABITS: Final = {
    "random_state": "rng",
    "seed": "rng",
    "random_seed": "rng",
    "device": "accelerator",
    "use_gpu": "accelerator",
    "n_gpus": "devices",
    "gpus": "devices",
    "epochs": "max_epochs",
    "n_epochs": "max_epochs",
    "num_epochs": "max_epochs",
    "learning_rate": "lr",
    "early_stop": "early_stopping",
    "patience": "early_stopping_patience",
    "n_latent": "n_hidden",
    "hidden_size": "n_hidden",
    "dropout_rate": "dropout",
    "depth": "n_layers",
    "label_key": "labels_key",
    "groupby": "labels_key",
    "sample_key": "donor_key",
    "n_jobs": "num_workers",
}


class UnknownArgumentError(TypeError, ValueError):
    """A name that nothing goes by: a TypeError as Python's own, and bad input where names are typed (the command line)."""


def keywords(given: Iterable[str], known: Iterable[str], what: str) -> None:
    """Names of arguments that exist; of others the nearest is named."""
    known = list(known)
    unknown = [name for name in given if name not in known]
    if unknown:
        raise UnknownArgumentError(f"{what} has no argument {did_you_mean(unknown, known)}.")


def did_you_mean(unknown: Iterable[str], known: Iterable[str]) -> str:
    """Unknown names, each with the nearest known one; where none is near, some of the known."""
    unknown, known = list(unknown), list(known)
    near = {name: nearest(name, known) for name in unknown}
    said = ", ".join(
        f"{name!r}" + (f" (did you mean {near[name]!r}?)" if near[name] else "") for name in unknown
    )
    return said if all(near.values()) else f"{said}; there are {listed(known, 20)}"


def hint(unknown: Iterable[str], known: Iterable[str]) -> str:
    """A sentence with the nearest known names, or nothing."""
    near = list(dict.fromkeys(filter(None, (nearest(name, known) for name in unknown))))
    return f" Did you mean {listed(near)}?" if near else ""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The name that was meant: another package's word for it, or the most similar one."""
    known = list(known)
    if _HABITS.get(name) in known:
        return _HABITS[name]
    similar = get_close_matches(name.lower(), known, n=1, cutoff=0.6)
    return similar[0] if similar else None
