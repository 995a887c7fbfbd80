"""Checks of a user's input that several rooms share, each with the sentence that goes with it.

A check never changes what it looks at. It returns what the caller needs next (a column, a matrix),
or raises with what was expected, what was found, the offenders by name and the remedy. What one
caller alone checks stands there, beside its `if`.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scbert_cll._checks import adata, counts, files, genes, people, words

__all__ = ["adata", "counts", "files", "genes", "people", "words"]


def __getattr__(name: str) -> ModuleType:
    """Open a subject on first use, so that words alone need no anndata."""
    if name in __all__:
        return importlib.import_module(f"scbert_cll._checks.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
