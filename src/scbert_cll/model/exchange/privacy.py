"""No path of this machine and no address of a person in what is published with a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, Final

from scbert_cll._checks.words import listed

_PATH: Final = re.compile(  # within a text, too
    r"""(?:^|[\s'"(\[<=,;|])"""
    r"(?:~[\w.-]*[\\/]|[a-zA-Z]:[\\/](?!/)|\\\\[\w.-]+\\|\$\{?\w+\}?[\\/]|%\w+%[\\/]|"
    r"/(?:home|Users|root|mnt|media|srv|scratch|tmp|var|opt|data)/)|\bfile:/",
    re.IGNORECASE,
)
_MAIL: Final = re.compile(r"[\w.+-]+@[\w-]+\.\w[\w.-]*")


def nothing_private(content: Mapping[str, Any], file: str) -> None:
    """Refuse to publish paths of this machine and e-mail addresses; name where they stand."""
    texts = list(_texts(content))
    kinds: dict[str, Callable[[str], object]] = {
        "paths of this machine": _is_path,
        "e-mail addresses": _MAIL.search,
    }
    for what, is_private in kinds.items():
        if places := list(dict.fromkeys(name for name, text in texts if is_private(text))):
            raise ValueError(
                f"{file} would publish {what}: {listed(places)}. Name layers, columns, classes and "
                f"genes without them, and save again."
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
