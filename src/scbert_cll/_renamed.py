"""Arguments under their former names, for one release."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Final

_PACKAGE: Final = f"{Path(__file__).parent}/"


def renamed_arguments[**P, R](
    values: Mapping[str, Mapping[object, object]] | None = None, /, **new: str
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take keyword arguments under their former names, with a `FutureWarning`.

    Parameters
    ----------
    values
        New values of the former ones, by the former name, where these have changed, too.
    **new
        The new name of each former one.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def renamed(*args: P.args, **kwargs: P.kwargs) -> R:
            given: dict[str, object] = kwargs
            for old in [name for name in given if name in new]:
                if new[old] in given:
                    clash = f"{old}= is the former name of {new[old]}="
                    raise TypeError(f"{clash}; give one of them.")
                name = function.__qualname__.removesuffix(".__init__")
                value = given.pop(old)
                before, after = f"{old}=", f"{new[old]}="
                if old in (values or {}):
                    now = (values or {})[old].get(value, value)
                    before, after, value = f"{before}{value!r}", f"{after}{now!r}", now
                warnings.warn(
                    f"{name}: {before} is now {after}. The next release refuses the former name.",
                    FutureWarning,
                    skip_file_prefixes=(_PACKAGE,),
                )
                given[new[old]] = value
            return function(*args, **kwargs)

        return renamed

    return decorate
