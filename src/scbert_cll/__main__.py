"""Command line: ``scbert-cll`` or ``python -m scbert_cll``, and the name of a command."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from scbert_cll import _process
from scbert_cll._cli import commands, words
from scbert_cll._cli.parser import command_parser, whole_parser
from scbert_cll._disk.formats import FigureError
from scbert_cll._disk.in_place import NotAsWrittenError
from scbert_cll._disk.left_overs import InUseError
from scbert_cll._process import as_it_was, passive, same_logs, same_random_state

# exit codes; _REFUSED: by the system, as on a full disk
_BAD, _IN_USE, _NO_FIGURE, _REFUSED, _INTERRUPTED = 2, 3, 4, 5, 130
_FILES: Final = (FileExistsError, FileNotFoundError, NotAsWrittenError, PermissionError)
_BAD_INPUT: Final = (*_FILES, ImportError, KeyError, ValueError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if (code := _bare(argv)) is not None:
        return code
    chosen = whole_parser().parse_args(_files_first(argv))
    name, options = chosen.command, dict(vars(chosen[chosen.command]))
    show = options.pop("traceback")
    options.pop("config")
    possible = words.options_of(commands.COMMANDS[name])
    try:  # processes that the command starts inherit how threads wait
        with passive(), as_it_was(), same_random_state(), same_logs(), _warnings_once(possible):
            _print_news()
            _call(commands.COMMANDS[name], options)
    except (*_BAD_INPUT, InUseError) as error:
        # an error of Python's own names a module, ours an extra to install
        if show or (isinstance(error, ImportError) and error.name):
            raise
        print(f"error: {words.in_options(_text(error), possible)}", file=sys.stderr)
        return _IN_USE if isinstance(error, InUseError) else _BAD
    except (OSError, FigureError) as error:
        if show:
            raise
        print(f"error: {_text(error)}", file=sys.stderr)
        return _NO_FIGURE if isinstance(error, FigureError) else _REFUSED
    except KeyboardInterrupt:
        advice = commands.after_interruption(name, options)
        print(f"interrupted. {advice}", file=sys.stderr)
        return _INTERRUPTED
    return 0


def script() -> None:
    """Run the command that was typed, and end the process with its exit code."""
    code = main()
    if code in (_INTERRUPTED, _REFUSED):
        # a read of zarr or HDF5 that was cut would report itself at length as Python ends
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _bare(argv: Sequence[str]) -> int | None:
    """Help where no command was typed, or one alone that needs more; None where there is work."""
    if not argv:
        whole_parser().print_help()
        return 0
    function = commands.COMMANDS.get(argv[0])
    if function is None or len(argv) > 1:
        return None
    described = words.described_of(function)
    if not (needed := [words.typed(name) for name in words.needed_by(described)]):
        return None
    command_parser(argv[0], function).print_help()
    sys.stdout.flush()
    print(f"error: {argv[0]} needs {' and '.join(needed)}.", file=sys.stderr)
    return _BAD


def _text(error: Exception) -> str:
    """The sentence of an error; a KeyError's own text is quoted, the system's names no place."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}."
    return str(error.args[0] if isinstance(error, KeyError) and error.args else error)


def _print_news() -> None:
    """Print this package's news as they are, unless the calling program handles logs itself."""
    root = _process.to_change()
    if not root.handlers:
        # whose sentences stand alone
        root.addHandler(logging.StreamHandler(sys.stdout))
        root.setLevel(logging.WARNING)
    _process.to_change("scbert_cll").setLevel(logging.INFO)


@contextmanager
def _warnings_once(possible: Mapping[str, Collection[str]]) -> Iterator[None]:
    """A warning is its sentence in a command's options, once, without the place in the code."""
    printed, before = set[str](), warnings.formatwarning

    def sentence(message: Warning | str, *_: Any, **__: Any) -> str:
        text = words.in_options(" ".join(str(message).split()), possible)
        new = text not in printed
        printed.add(text)
        return f"warning: {text}\n" * new

    warnings.formatwarning = sentence
    try:
        yield
    finally:
        warnings.formatwarning = before


def _files_first(argv: Sequence[str]) -> list[str]:
    """Put --config behind the command's name: what is read later, the command line, wins."""
    files, others = list[str](), list(argv)
    for i in reversed(range(len(others))):
        if others[i] == "--config" or others[i].startswith("--config="):
            stop = i + 1 + (others[i] == "--config")
            files = others[i:stop] + files
            del others[i:stop]
    return [*others[:1], *files, *others[1:]]


def _call(command: words.Function, options: Mapping[str, object]) -> None:
    """Call a command; a group of options is made of those with the names of its fields."""
    given = {}
    for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
        group = words.group_of(parameter)
        fields = [name] if group is None else words.described_of(group)
        values = {field: _path(options[field]) for field in fields}
        given[name] = values[name] if group is None else group(**values)
    command(**given)


def _path(value: Any) -> Any:
    """~ is the home folder, also where the shell leaves it (--out=~/run)."""
    if isinstance(value, list):
        return [_path(one) for one in value]
    return value.expanduser() if isinstance(value, Path) else value


if __name__ == "__main__":
    script()
