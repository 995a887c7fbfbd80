"""CD49d status and gene signatures from single-cell RNA of CLL, inside the scverse."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from scbert_cll._version import __version__

if TYPE_CHECKING:
    from scbert_cll import datasets, estimators, get, io, model, nn, pl, pp, tl, vocab
    from scbert_cll._settings import settings
    from scbert_cll.model import ScBERT, ScBERTClassifier

__all__ = [
    "ScBERT",
    "ScBERTClassifier",
    "__version__",
    "datasets",
    "estimators",
    "get",
    "io",
    "model",
    "nn",
    "pl",
    "pp",
    "settings",
    "tl",
    "vocab",
]


def __getattr__(name: str) -> Any:
    """Open a room on first use, so that `import scbert_cll` loads neither torch nor scvi."""
    if name in {"ScBERT", "ScBERTClassifier"}:
        return getattr(_opened("model"), name)
    if name == "settings":
        return importlib.import_module("scbert_cll._settings").settings
    if name in __all__:
        return _opened(name)
    raise AttributeError(f"module 'scbert_cll' has no attribute {name!r}")


def _opened(room: str) -> Any:
    """Load a room, and with it OpenMP, whose threads are to sleep while they wait."""
    from scbert_cll._process import passive

    with passive():
        return importlib.import_module(f"scbert_cll.{room}")


def __dir__() -> list[str]:
    return sorted(__all__)
