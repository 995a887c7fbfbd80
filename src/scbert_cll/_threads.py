"""OpenMP's threads sleep while they wait.

A thread that waits for the others in a loop takes the core that these need: on a machine shared
with other jobs that cost two to nine times the processor time of the work itself. How threads wait
is read from the environment when a library of OpenMP is loaded, and cannot be changed afterwards.
So what this package loads is loaded with that set (:func:`passive`); what others loaded before
works with one thread while a small network is at work (:func:`calm`). Neither leaves a trace:
environment and numbers of threads are afterwards as they were. A policy of the user's own
(``OMP_WAIT_POLICY``) is left alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

_POLICY: Final = "OMP_WAIT_POLICY"
_CHOICES: Final = (_POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")  # variables by which a user decides
_asleep: set[str] = set()  # libraries of OpenMP that were loaded here


@contextmanager
def passive() -> Iterator[None]:
    """Libraries of OpenMP that are loaded within let idle threads sleep."""
    if any(name in os.environ for name in _CHOICES):
        yield
        return
    before = _loaded()
    os.environ[_POLICY] = "PASSIVE"
    try:
        yield
    finally:
        os.environ.pop(_POLICY, None)
        _asleep.update(_loaded() - before)


@contextmanager
def calm(*, small: bool = True) -> Iterator[None]:
    """Work with one thread where OpenMP would spin.

    A large network, whose threads seldom wait, keeps them all.
    """
    spins = (
        set() if not small or any(name in os.environ for name in _CHOICES) else _loaded() - _asleep
    )
    if not spins:
        yield
        return
    from threadpoolctl import ThreadpoolController

    torch: Any = sys.modules.get("torch")
    threads = None if torch is None else torch.get_num_threads()
    with ExitStack() as stack:
        stack.enter_context(ThreadpoolController().select(filepath=sorted(spins)).limit(limits=1))
        if (
            threads not in (None, 1) and torch.get_num_threads() == 1
        ):  # its MKL has a number of its own
            torch.set_num_threads(1)
            stack.callback(torch.set_num_threads, threads)
        yield


def _loaded() -> set[str]:
    """Libraries of OpenMP in this process, by path."""
    from threadpoolctl import threadpool_info

    return {str(one["filepath"]) for one in threadpool_info() if one["user_api"] == "openmp"}
