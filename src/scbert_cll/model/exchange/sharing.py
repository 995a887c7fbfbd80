"""Checks of what is published with a model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Final

import numpy as np

from scbert_cll._checks.words import listed

_PATH: Final = re.compile(  # within a text, too
    r"""(?:^|[\s'"(\[<=,;|])(?:~[\w.-]*[\\/]|[a-zA-Z]:[\\/](?!/)|\\\\[\w.-]+\\|\$\{?\w+\}?[\\/]|%\w+%[\\/]|/(?:home|Users|root|mnt|media|srv|scratch|tmp|var|opt|data)/)|\bfile:/""",
    re.IGNORECASE,
)
_MAIL: Final = re.compile(r"[\w.+-]+@[\w-]+\.\w[\w.-]*")
_EVALUATED: Final = ("summary", "params", "classes", "unit", "n_units")


def evaluation_of(found: Any, classes: Sequence[str] | None) -> Mapping[str, Any]:
    """What `tl.cross_validate` wrote, about the classes that the model names."""
    if not isinstance(found, Mapping):
        raise TypeError(
            f"evaluation must be what tl.cross_validate wrote, adata.uns['cv']; found "
            f"{type(found).__name__}."
        )
    if absent := [key for key in _EVALUATED if key not in found]:
        raise ValueError(
            f"evaluation must be what tl.cross_validate wrote, adata.uns['cv']; it lacks "
            f"{listed(absent)}, and holds {listed(found)}."
        )
    if classes is None:
        raise ValueError(
            "A ScBERT names no classes, so evaluation= says nothing about it. Publish it with "
            "the classifier made from it."
        )
    if set(evaluated := [str(name) for name in found["classes"]]) != set(classes):
        raise ValueError(
            f"evaluation is of the classes {listed(evaluated)}, and the model names "
            f"{listed(classes)}. "
            "Give the evaluation of the same labels, or leave it out."
        )
    return found


def names_in_evaluation(evaluation: Mapping[str, Any] | None) -> dict[str, Any]:
    """What others named in an evaluation, and a card repeats."""
    if evaluation is None:
        return {}
    params = evaluation["params"]
    said = {
        name: [str(one) for one in np.ravel(params.get(name, ()))]
        for name in ("models", "baselines", "scheme")
    }
    return {"evaluation": said | {"unit": str(evaluation["unit"])}}


def nothing_private(content: Mapping[str, Any], file: str) -> None:
    """No path of this machine and no address of a person in what others are going to read."""
    texts = list(_texts(content))
    for is_private, what in (
        (_is_path, "paths of this machine"),
        (_MAIL.search, "e-mail addresses"),
    ):
        if found := list(dict.fromkeys(name for name, text in texts if is_private(text))):
            raise ValueError(
                f"{file} would publish {what}: {listed(found)}. Name layers, columns, classes "
                f"and genes without them, and save again."
            )


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text with the keys that lead to it."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield f"{name}.{key}".lstrip("."), str(key)
            yield from _texts(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, name)


def _is_path(text: str) -> bool:
    whole = PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
    return whole or _PATH.search(text) is not None
