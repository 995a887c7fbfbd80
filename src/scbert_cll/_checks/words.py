"""Checks of single values, and how things are listed by name."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from difflib import SequenceMatcher, get_close_matches
from typing import Final

import numpy as np
import pandas as pd

_ALIKE: Final = 0.6  # letters in common, from which a name may be meant


def listed(items: Iterable[object], n: int = 5) -> str:
    """The first `n` items by name, and how many more there are."""
    names = [str(item) for item in items]
    shown = ", ".join(map(repr, names[:n])) or "none"
    return shown + (f" and {len(names) - n} more" if len(names) > n else "")


def bytes_in_words(n: float) -> str:
    """A number of bytes as people say it."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n:.0f} bytes"


def column_names(keys: str | Iterable[str], what: str) -> list[str]:
    """Several names, not the letters of one."""
    if isinstance(keys, str):
        raise TypeError(
            f"{what} must be a list of columns of adata.obs; found the text {keys!r}. Write "
            f"[{keys!r}]."
        )
    return list(keys)


def choice(value: str, allowed: Sequence[str], what: str) -> str:
    """One of the allowed words."""
    if value not in allowed:
        names = listed(allowed, 20)
        raise ValueError(f"{what} must be one of {names}; found {value!r}.")
    return value


def number_in(value: object, what: str, least: float, most: float, *, whole: bool = False) -> None:
    """Refuse what is not a number within limits; a truth value or text is none."""
    kind = (int, np.integer) if whole else (int, float, np.integer, np.floating)
    is_inside = isinstance(value, kind) and least <= value <= most
    if not is_inside or isinstance(value, bool):
        number = f"{'whole ' * whole}number from {least:g} to {most:g}"
        raise ValueError(f"{what} must be a {number}; found {value!r}.")


def share(value: float, what: str) -> None:
    """A number from 0 to 1."""
    number_in(value, what, 0, 1)


def at_least(value: float, least: float, what: str) -> None:
    """A number that is not too small."""
    if value < least:
        raise ValueError(f"{what} must be at least {least:g}; found {value:g}.")


def key_in(key: str, store: Iterable[object], where: str, remedy: str = "") -> None:
    """Refuse a key that is not there, and list those that are, the likeliest first."""
    kind = type(key).__name__
    if not isinstance(key, Hashable):
        raise TypeError(f"Expected one name of {where}, found {kind}: {listed(key)}.")
    if key not in store:
        names = [name for name in store if name is not None]  # X is layers[None]
        likely = listed(closest_first(key, names), 12)
        raise KeyError(f"{key!r} is not in {where}; it has {likely}. {remedy}".rstrip())


def closest_first[T](name: object, names: Iterable[T]) -> list[T]:
    """Names, the likely ones first: other capitals, one in the other, few letters off."""
    wanted = str(name).casefold()

    def distance(other: object) -> float:
        text = str(other).casefold()
        within = bool(text) and (wanted in text or text in wanted)
        ratio = SequenceMatcher(None, wanted, text).ratio()
        return -(text == wanted) - within - (ratio if ratio > _ALIKE else 0.0)

    return sorted(names, key=distance)


def unique(names: pd.Index[str], what: str, remedy: str) -> None:
    """Refuse a name that is there twice."""
    if len(twice := names[names.duplicated()].unique()):
        raise ValueError(
            f"{what} must be unique; found more than once: {listed(twice)}. Remedy: {remedy}."
        )


def refuse_given(given: Mapping[str, bool], why: str) -> None:
    """Refuse arguments that are given and are not for this, by name."""
    if names := [name for name, is_given in given.items() if is_given]:
        raise ValueError(f"{listed(names)} {why}")


def is_model(model: object, names: Sequence[str]) -> None:
    """A model of this package (told by its class's name, since here nothing imports torch)."""
    if (kind := type(model).__name__) not in names:
        raise TypeError(f"Expected a model ({listed(names)}), found {kind}.")


_HABITS: Final = {  # names of other packages
    other: ours
    for ours, others in {
        "rng": ("random_state", "seed", "random_seed"),
        "accelerator": ("device", "use_gpu"),
        "devices": ("n_gpus", "gpus"),
        "max_epochs": ("epochs", "n_epochs", "num_epochs"),
        "lr": ("learning_rate",),
        "early_stopping": ("early_stop",),
        "early_stopping_patience": ("patience",),
        "n_hidden": ("n_latent", "hidden_size"),
        "dropout": ("dropout_rate",),
        "n_layers": ("depth",),
        "labels_key": ("label_key", "groupby"),
        "donor_key": ("sample_key",),
        "num_workers": ("n_jobs",),
    }.items()
    for other in others
}


class UnknownArgumentError(TypeError, ValueError):
    """No argument has this name: a TypeError as Python's own, and bad input on the command line."""


def keywords(given: Iterable[str], allowed: Iterable[str], what: str) -> None:
    """Refuse names of arguments that do not exist, and name the nearest ones."""
    names = list(allowed)
    near = {name: nearest(name, names) for name in given if name not in names}
    if near:
        unknown = ", ".join(
            repr(name) + (f" (did you mean {likely!r}?)" if likely else "")
            for name, likely in near.items()
        )
        others = "" if all(near.values()) else f"; there are {listed(names, 20)}"
        raise UnknownArgumentError(f"{what} has no argument {unknown}{others}.")


def hint(unknown: Iterable[str], allowed: Iterable[str]) -> str:
    """A sentence with the nearest known names, or nothing."""
    names = list(allowed)
    near = list(dict.fromkeys(filter(None, (nearest(name, names) for name in unknown))))
    return f" Did you mean {listed(near)}?" if near else ""


def nearest(name: str, allowed: Sequence[str]) -> str | None:
    """The name that was meant: another package's word for it, or the most similar one."""
    habit = _HABITS.get(name)
    similar = get_close_matches(name.lower(), allowed, n=1, cutoff=0.6)
    return habit if habit in allowed else next(iter(similar), None)
