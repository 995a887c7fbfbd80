"""Checks of what is published with a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Final

from scbert_cll._checks._words import listed

_EVALUATED: Final = ("summary", "params", "classes", "unit", "n_units")


def evaluation_of(found: Any, classes: Sequence[str] | None) -> Mapping[str, Any]:
    """What `tl.cross_validate` wrote, about the classes that the model names."""
    if not isinstance(found, Mapping):
        raise TypeError(
            f"evaluation must be what tl.cross_validate wrote, adata.uns['cv']; found {type(found).__name__}."
        )
    if absent := [key for key in _EVALUATED if key not in found]:
        raise ValueError(
            f"evaluation must be what tl.cross_validate wrote, adata.uns['cv']; it lacks {listed(absent)}, and holds {listed(found)}."
        )
    if classes is None:
        raise ValueError(
            "A ScBERT names no classes, so evaluation= says nothing about it. Publish it with the classifier made from it."
        )
    if set(evaluated := [str(name) for name in found["classes"]]) != set(classes):
        raise ValueError(
            f"evaluation is of the classes {listed(evaluated)}, and the model names {listed(classes)}. "
            "Give the evaluation of the same labels, or leave it out."
        )
    return found


def no_paths(content: Mapping[str, Any], file: str) -> None:
    """No path of this machine in what others are going to read."""
    found = [name for name, text in _texts(content) if _is_path(text)]
    if found:
        raise ValueError(
            f"{file} would publish paths of this machine: {listed(found)}. Name layers and columns without them, and save again."
        )


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text with the keys that lead to it."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _texts(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, name)


def _is_path(text: str) -> bool:
    return PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute()
