"""Command line: ``python -m scbert_cll demo|corpus|check|pretrain|finetune|predict|signature``."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from scbert_cll._cli import commands
from scbert_cll._cli.parser import command_parser, described_of, group_of, options_of, whole_parser
from scbert_cll._cli.words import flag, in_options
from scbert_cll._disk.formats import FigureError
from scbert_cll._disk.in_place import NotAsWrittenError
from scbert_cll._disk.left_overs import InUseError
from scbert_cll._process import as_it_was, same_logs, same_random_state, to_change
from scbert_cll._threads import passive

_INTERRUPTED: Final = 130
_NO_FIGURE: Final = 4
_REFUSED: Final = 5  # by the system
_BAD_INPUT: Final = (
    FileExistsError,
    FileNotFoundError,
    ImportError,
    KeyError,
    NotAsWrittenError,
    PermissionError,
    ValueError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if (code := _bare(words)) is not None:
        return code
    chosen = whole_parser().parse_args(_files_first(words))
    name, options = chosen.command, dict(vars(chosen[chosen.command]))
    show = options.pop("traceback")
    options.pop("config")
    try:
        with passive(), as_it_was(), same_random_state(), same_logs(), _warnings_in_a_sentence():
            _tell_on_stdout()
            _call(
                commands.COMMANDS[name], options
            )  # processes that it starts inherit how threads wait
    except (*_BAD_INPUT, InUseError) as error:
        if show or (
            isinstance(error, ImportError) and error.name
        ):  # Python's own name a module, ours an extra to install
            raise
        print(f"error: {in_options(_told(error), name, options_of(name))}", file=sys.stderr)
        return 3 if isinstance(error, InUseError) else 2
    except (OSError, FigureError) as error:
        if show:
            raise
        print(f"error: {_told(error)}", file=sys.stderr)
        return _NO_FIGURE if isinstance(error, FigureError) else _REFUSED
    except KeyboardInterrupt:
        print(f"interrupted. {commands.after_interruption(name, options)}", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _bare(words: Sequence[str]) -> int | None:
    """Help where nothing was asked for: alone, as pip does.

    Of a command that needs more, with what it needs.
    """
    if not words:
        whole_parser().print_help()
        return 0
    function = commands.COMMANDS.get(words[0])
    if function is None or len(words) > 1:
        return None
    described = described_of(function)
    needed = [
        parameter.name.upper()
        if parameter.kind is not parameter.KEYWORD_ONLY
        else flag(parameter.name)
        for parameter, _ in described.values()
        if parameter.default is parameter.empty
    ]
    if not needed:
        return None
    command_parser(words[0], function).print_help()
    sys.stdout.flush()
    print(f"error: {words[0]} needs {' and '.join(needed)}.", file=sys.stderr)
    return 2


def _told(error: Exception) -> str:
    """The sentence of an error; a KeyError's own text is quoted, the system's names no place."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)


def _tell_on_stdout() -> None:
    """News of this package as they are.

    Where a program that calls has chosen who tells, it stays with that.
    """
    root = to_change()
    if not root.handlers:
        root.addHandler(logging.StreamHandler(sys.stdout))  # whose sentences stand alone
        root.setLevel(logging.WARNING)
    to_change("scbert_cll").setLevel(logging.INFO)


@contextmanager
def _warnings_in_a_sentence() -> Iterator[None]:
    """A warning is its sentence, once, without the place in the code."""
    said, before = set[str](), warnings.formatwarning

    def sentence(message: Warning | str, *_: Any, **__: Any) -> str:
        text = " ".join(str(message).split())
        new = text not in said
        said.add(text)
        return f"warning: {text}\n" * new

    warnings.formatwarning = sentence
    try:
        yield
    finally:
        warnings.formatwarning = before


def _files_first(words: Sequence[str]) -> list[str]:
    """Put --config behind the command's name: what is read later wins, and that is to be the command line."""
    files: list[str] = []
    others: list[str] = []
    left = iter(words)
    for word in left:
        if word == "--config":
            files += [word, *(name for name in [next(left, None)] if name is not None)]
        else:
            (files if word.startswith("--config=") else others).append(word)
    return [*others[:1], *files, *others[1:]]


def _call(command: Callable[..., None], options: dict[str, Any]) -> None:
    """Call a command.

    Its group of options, which is a dataclass, is made of those with the names of its fields.
    """
    given = {}
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        group = group_of(parameter)
        own = {
            field: _path(options[field])
            for field in ([name] if group is None else described_of(group))
        }
        given[name] = own[name] if group is None else group(**own)
    command(**given)


def _path(value: Any) -> Any:
    """~ is the home folder, also where the shell leaves it (--out=~/run)."""
    if isinstance(value, list):
        return [_path(one) for one in value]
    return value.expanduser() if isinstance(value, Path) else value


if __name__ == "__main__":
    code = main()
    if code in (_INTERRUPTED, _REFUSED):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(
            code
        )  # a read of zarr, or a file of HDF5, that was cut would tell of itself at length while Python ends
    sys.exit(code)
