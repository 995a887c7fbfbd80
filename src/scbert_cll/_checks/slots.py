"""Checks of where a result is to go, before it is computed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from scbert_cll import _names
from scbert_cll._checks.words import listed

_UNSAFE: Final = re.compile(r"[^\w.+-]+")
_LONGEST: Final = 60  # characters of a proposal


def new_key(
    key: Any,
    inputs: Iterable[str | None] = (),
    *,
    what: str = "key_added",
    stems: Iterable[str] = ("",),
) -> None:
    """Refuse a name for results that no file holds, or that with one of `stems` is read here."""
    if not isinstance(key, str) or not _names.is_key(key):
        proposal = _UNSAFE.sub("_", str(key))[:_LONGEST].strip("_.") or "result"
        raise ValueError(
            f"{what}={key!r} cannot be a name in a file: expected a text of 1 to 200 "
            f"characters without / and \\. Choose another, e.g. {what}={proposal!r}."
        )
    names_read = set(inputs)
    if taken := [f"{key}{stem}" for stem in stems if f"{key}{stem}" in names_read]:
        raise ValueError(
            f"{what}={key!r} would replace {listed(taken)}, which is read here. Choose "
            f"another, e.g. {what}={f'{key}_result'!r}."
        )


def not_replaced(inputs: Mapping[str, str | None], written: Iterable[str], slot: str) -> None:
    """Refuse to write where something is read."""
    names_written = set(written)
    for name, key in inputs.items():
        if key in names_written:
            copied = f"adata.{slot}['my_{key}'] = adata.{slot}[{key!r}]"
            raise ValueError(
                f"{name}={key!r} is where the result goes, and would be replaced. Copy it first "
                f"and name the copy, e.g. {copied}, {name}='my_{key}'."
            )
