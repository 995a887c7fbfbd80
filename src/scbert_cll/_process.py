"""State of the user's process, put back after calls of libraries that change it.

Libraries that this package calls leave things behind in the process: handlers of signals, a style
of figures, filters of warnings, a number of threads. What runs within :func:`as_it_was` leaves none
of it. It is for calls of such libraries, not for every function: what is taken back is everybody's,
another thread's, too.
"""

from __future__ import annotations

import logging
import multiprocessing
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, cast

type PutBack = Callable[[], None]


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
    asked: list[Any] = []
    signal.signal(signal.SIGINT, lambda *found: asked.append(found))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if asked:
            before(*asked[0])


@contextmanager
def as_it_was() -> Iterator[None]:
    """Take back what is changed within, in the whole process.

    Handlers of signals, filters of warnings, style of figures, threads of PyTorch and of progress
    bars, and how processes start.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        for put_back in (_signals(), _figures(), _threads_of_torch(), _start_method(), _monitors()):
            stack.callback(put_back)
        yield


@contextmanager
def same_random_state() -> Iterator[None]:
    """Take back what libraries draw within of the global random numbers of Python and NumPy."""
    numpy: Any = sys.modules.get("numpy")
    of_python, of_numpy = random.getstate(), None if numpy is None else numpy.random.get_state()
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


def _signals() -> PutBack:
    """Another thread than the main one can change none."""
    before = (
        {one: signal.getsignal(one) for one in signal.valid_signals()} if in_main_thread() else {}
    )

    def put_back() -> None:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)

    return put_back


def _figures() -> PutBack:
    """Style of figures, where matplotlib has been loaded."""
    mpl: Any = sys.modules.get("matplotlib")
    before = {} if mpl is None else mpl.rcParams.copy()

    def put_back() -> None:
        if mpl is None:
            return
        with warnings.catch_warnings(
            action="ignore"
        ):  # on entries that matplotlib will not have for long
            mpl.rcParams.update(
                {name: value for name, value in before.items() if mpl.rcParams[name] != value}
            )

    return put_back


def _threads_of_torch() -> PutBack:
    """Libraries that set OpenMP's number of threads for their own sake set PyTorch's."""
    torch: Any = sys.modules.get("torch")
    before = None if torch is None else torch.get_num_threads()

    def put_back() -> None:
        if before is not None and torch.get_num_threads() != before:
            torch.set_num_threads(before)

    return put_back


def _start_method() -> PutBack:
    """How processes start can be chosen once; who only asks for it chooses."""
    before = multiprocessing.get_start_method(allow_none=True)
    return partial(_put_back_start_method, before)


def _put_back_start_method(before: str | None) -> None:
    if multiprocessing.get_start_method(allow_none=True) != before:
        multiprocessing.set_start_method(
            cast("str", before), force=True
        )  # with None nobody has chosen


def _monitors() -> PutBack:
    """A thread that tqdm starts with its first bar, and that never ends."""
    before = set(threading.enumerate())

    def put_back() -> None:
        for thread in set(threading.enumerate()) - before:
            if type(thread).__module__.startswith("tqdm."):
                cast("Any", thread).exit()

    return put_back
