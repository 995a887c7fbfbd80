"""Checks of single values, and how things are listed by name."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Sequence
from difflib import get_close_matches
from typing import Any, Final

import numpy as np
import pandas as pd

_ALIKE: Final = 0.6  # letters in common, from which a name may be meant


def listed(items: Iterable[Any], n: int = 5) -> str:
    """Say the first `n` items by name and how many more there are."""
    items = [str(i) for i in items]
    shown = ", ".join(repr(i) for i in items[:n]) or "none"
    return shown + (f" and {len(items) - n} more" if len(items) > n else "")


def bytes_in_words(n: int) -> str:
    """A number of bytes as people say it."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n} bytes"


def choice(value: str, allowed: Sequence[str], what: str) -> str:
    """One of the allowed words."""
    if value not in allowed:
        raise ValueError(f"{what} must be one of {listed(allowed, 20)}; found {value!r}.")
    return value


def number_in(value: Any, what: str, least: float, most: float, *, whole: bool = False) -> None:
    """A number within limits; no truth value, no text."""
    kind = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    if not isinstance(value, kind) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(
            f"{what} must be a {'whole ' * whole}number from {least:g} to {most:g}; found "
            f"{value!r}."
        )


def share(value: float, what: str) -> None:
    """A number from 0 to 1."""
    number_in(value, what, 0, 1)


def at_least(value: float, least: float, what: str) -> None:
    """A number that is not too small."""
    if value < least:
        raise ValueError(f"{what} must be at least {least:g}; found {value:g}.")


def key_in(key: str, store: Any, where: str, remedy: str = "") -> None:
    """A key that exists; the ones that do are listed, the likeliest first."""
    if not isinstance(key, Hashable):
        raise TypeError(f"Expected one name of {where}, found {type(key).__name__}: {listed(key)}.")
    if key not in store:
        there = listed(
            closest_first(key, [k for k in store if k is not None]), 12
        )  # layers[None] is X
        raise KeyError(
            f"{key!r} is not in {where}; it has {there}." + (f" {remedy}" if remedy else "")
        )


def closest_first(asked: Any, names: Iterable[Any]) -> list[Any]:
    """Names that are meant most likely first: by capitals only, with the one in the other, of about the same letters; others as they were."""
    wanted = str(asked).casefold()

    def distance(name: Any) -> float:
        text = str(name).casefold()
        within = bool(text) and (wanted in text or text in wanted)
        ratio = difflib.SequenceMatcher(None, wanted, text).ratio()
        return -(text == wanted) - within - (ratio if ratio > _ALIKE else 0.0)

    return sorted(names, key=distance)


def unique(names: pd.Index, what: str, remedy: str) -> None:
    """No name twice."""
    twice = names[names.duplicated()].unique()
    if len(twice):
        raise ValueError(
            f"{what} must be unique; found more than once: {listed(twice)}. Remedy: {remedy}."
        )


def is_model(model: Any, names: Sequence[str]) -> None:
    """A model of this package (told by its class's name, since here nothing imports torch)."""
    if type(model).__name__ not in names:
        raise TypeError(f"Expected a model ({listed(names)}), found {type(model).__name__}.")


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
