"""State of the user's process: put back after calls of libraries, with threads that sleep.

Libraries that this package calls leave things behind in the process: handlers of signals, a style
of figures, filters of warnings, a number of threads. What runs within :func:`as_it_was` leaves none
of it. It is for calls of such libraries, not for every function: what is taken back is everybody's,
another thread's, too.

A thread of OpenMP that waits for the others in a loop takes the core that these need: on a machine
shared with other jobs that cost two to nine times the processor time of the work itself. How
threads wait is read from the environment when a library of OpenMP is loaded, and cannot be changed
afterwards. So what this package loads is loaded with that set (:func:`passive`); what others loaded
before works with one thread while a small network is at work (:func:`calm`). Neither leaves a
trace. A policy of the user's own (``OMP_WAIT_POLICY``) is left alone.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any, Final, cast

from threadpoolctl import ThreadpoolController
from tqdm.auto import tqdm

one_at_a_time: Final = threading.RLock()  # trainings, which share the global random state
_POLICY: Final = "OMP_WAIT_POLICY"
# variables by which a user decides
_CHOICES: Final = (_POLICY, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_asleep: set[str] = set()  # libraries of OpenMP that were loaded here


class Bar(tqdm):  # type: ignore[misc]
    """A progress bar on a terminal that leaves no thread behind.

    Tqdm's own starts, with the first one, a thread that looks after slow bars and never ends.
    """

    monitor_interval = 0


def in_main_thread() -> bool:
    """Whether Python lets this thread choose who handles a signal."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until all within is done; it is for few lines that wait for nothing."""
    before = signal.getsignal(signal.SIGINT) if in_main_thread() else None
    if not callable(before):  # another thread's, which gets no Ctrl-C, or nobody's
        yield
        return
    calls: list[Any] = []
    signal.signal(signal.SIGINT, lambda *call: calls.append(call))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if calls:
            before(*calls[0])


@contextmanager
def as_it_was() -> Iterator[None]:
    """Take back what is changed within, in the whole process.

    Handlers of signals, filters of warnings, style of figures, threads of PyTorch and of progress
    bars, and how processes start.
    """
    mpl: Any = sys.modules.get("matplotlib")
    torch: Any = sys.modules.get("torch")
    numbers = signal.valid_signals() if in_main_thread() else ()
    handlers = {number: signal.getsignal(number) for number in numbers}
    style = {} if mpl is None else mpl.rcParams.copy()
    n_threads = None if torch is None else torch.get_num_threads()
    start_method = multiprocessing.get_start_method(allow_none=True)
    threads = set(threading.enumerate())
    with warnings.catch_warnings():
        try:
            yield
        finally:
            for number, handler in handlers.items():
                if handler is not None and signal.getsignal(number) is not handler:
                    signal.signal(number, handler)
            # on entries that matplotlib will drop
            with warnings.catch_warnings(action="ignore"):
                for name, value in style.items():
                    if mpl.rcParams[name] != value:
                        mpl.rcParams[name] = value
            if torch is not None and torch.get_num_threads() != n_threads:
                torch.set_num_threads(n_threads)
            # can be chosen once; who only asks for it chooses. With None nobody has chosen
            if multiprocessing.get_start_method(allow_none=True) != start_method:
                multiprocessing.set_start_method(start_method, force=True)
            for thread in set(threading.enumerate()) - threads:
                # a monitor, which never ends
                if type(thread).__module__.startswith("tqdm."):
                    cast("Any", thread).exit()


@contextmanager
def same_random_state() -> Iterator[None]:
    """Take back what libraries draw within of the global random numbers of Python and NumPy."""
    numpy: Any = sys.modules.get("numpy")
    of_python = random.getstate()
    of_numpy = None if numpy is None else numpy.random.get_state()
    try:
        yield
    finally:
        random.setstate(of_python)
        if numpy is not None:
            numpy.random.set_state(of_numpy)


_logs: dict[str, tuple[list[logging.Handler], list[Any], int]] = {}


def to_change(name: str = "") -> logging.Logger:
    """A logger whose handlers, filters and level are to be changed until :func:`same_logs` ends."""
    log = logging.getLogger(name or None)
    _logs.setdefault(name, (log.handlers[:], log.filters[:], log.level))
    return log


@contextmanager
def same_logs() -> Iterator[None]:
    """Take back what is done to loggers of :func:`to_change` within."""
    try:
        yield
    finally:
        for name, (handlers, filters, level) in _logs.items():
            log = logging.getLogger(name or None)
            log.handlers[:], log.filters[:] = handlers, filters
            log.setLevel(level)
        _logs.clear()


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
    decided = any(name in os.environ for name in _CHOICES)
    spins = sorted(_loaded() - _asleep) if small and not decided else []
    if not spins:
        yield
        return
    torch: Any = sys.modules.get("torch")
    threads = None if torch is None else torch.get_num_threads()
    with ExitStack() as stack:
        stack.enter_context(pools().select(filepath=spins).limit(limits=1))
        # its MKL has a number of its own
        if threads not in (None, 1) and torch.get_num_threads() == 1:
            torch.set_num_threads(1)
            stack.callback(torch.set_num_threads, threads)
        yield


def pools() -> ThreadpoolController:
    """Libraries with threads in this process.

    To look for them takes 10 ms, more than the work of many calls, so they are looked for again
    only where modules were imported since.
    """
    return _pools(len(sys.modules))


@lru_cache(maxsize=1)
def _pools(n_modules: int) -> ThreadpoolController:
    return ThreadpoolController()


def _loaded() -> set[str]:
    """Libraries of OpenMP in this process, by path."""
    return {library.filepath for library in pools().select(user_api="openmp").lib_controllers}
