"""The parser of the command line: options out of signatures, help out of docstrings, refusals in one sentence."""

from __future__ import annotations

import inspect
import re
from argparse import SUPPRESS, Action
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Final, Literal, NoReturn, get_args, get_origin

from docstring_parser import DocstringStyle
from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser, DefaultHelpFormatter

from scbert_cll._cli import commands as cli_commands
from scbert_cll._cli.words import flag
from scbert_cll._cli.yaml_options import PLAIN_YAML
from scbert_cll._version import __version__

_PROG: Final = "python -m scbert_cll"
_LESSON: Final = """\
CD49d status and gene signatures from single-cell RNA of chronic lymphocytic leukaemia, with scBERT.

From many files to a model: corpus, pretrain, finetune, predict. From labelled cells to genes: signature. Each command has its own
--help. Options can stand in a file, too: --config run.yaml, which --print_config writes; the command line wins over the file."""
_CODES: Final = """\
exit codes:

  0    done
  1    something unforeseen; Python says where
  2    bad input or usage, in one sentence (--traceback shows where)
  3    another run is writing to the same folder
  4    all results are written, but a figure could not be drawn
  130  interrupted by Ctrl-C
  143  stopped by the system (SIGTERM); with --checkpoint-dir a checkpoint is whole"""
_REFUSED: Final = re.compile(
    r'Parser key "(?P<key>[^"]+)": '
    r"(?:.*Subtypes: \[(?P<several>.*?)\] Errors: .*Given value: |Expected an? (?P<one>.*?)\. "
    r"Got value: )(?P<found>.*)"
)
_Described = tuple[inspect.Parameter, str]


def options_of(command: str) -> dict[str, tuple[str, ...]]:
    """Options of a command, each with the words it may be, if it may not be anything."""
    kinds = {
        name: parameter.annotation
        for name, (parameter, _) in described_of(cli_commands.COMMANDS[command]).items()
    }
    return {
        name: get_args(kind) if get_origin(kind) is Literal else () for name, kind in kinds.items()
    }


def group_of(parameter: inspect.Parameter) -> Callable[..., Any] | None:
    """The dataclass that a parameter is to be, where it is one."""
    kind = parameter.annotation
    return kind if isinstance(kind, type) and is_dataclass(kind) else None


def described_of(function: Callable[..., Any]) -> dict[str, _Described]:
    """Parameters of a command with their help; those of its group of options stand among them."""
    texts: dict[str, str] = {}
    for kind in reversed(
        function.__mro__ if isinstance(function, type) else [function]
    ):  # a group may build on another
        sections = parse_docstring(kind.__doc__ or "", style=DocstringStyle.NUMPYDOC).params
        texts |= {
            name: section.description or ""
            for section in sections
            for name in section.arg_name.split(", ")
        }
    found: dict[str, _Described] = {}
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        group = group_of(parameter)
        found |= (
            {name: (parameter, " ".join(texts[name].split()))}
            if group is None
            else described_of(group)
        )
    return found


def whole_parser() -> _Parser:
    parser = _Parser(prog=_PROG, usage=f"{_PROG} COMMAND ...", description=_LESSON)
    parser.add_argument(
        "--version",
        action="version",
        version=f"scbert_cll {__version__}",
        help="say which version this is",
    )
    commands = parser.add_subcommands(required=True, dest="command", metavar="COMMAND")
    for name, function in cli_commands.COMMANDS.items():
        own = command_parser(name, function)
        commands.add_subcommand(name, own, help=str(own.description).partition("\n")[0])
    return parser


def command_parser(name: str, function: Callable[..., Any]) -> _Parser:
    """The parser of a command."""
    lesson, _, _ = (inspect.getdoc(function) or "").partition("\n\nParameters\n")
    described = described_of(function)
    own = _Parser(usage=_usage(name, described), description=lesson)
    own.add_argument("--config", action="config", metavar="FILE", help="options in YAML")
    for parameter, text in described.values():
        _add(own, parameter, text)
    own.add_argument("--traceback", action="store_true", help="on an error, show where it happened")
    return own


def _usage(name: str, described: dict[str, _Described]) -> str:
    """What must be given."""
    words = [_PROG, name]
    for parameter, _ in described.values():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            several = get_origin(parameter.annotation) is Sequence
            words.append(parameter.name.upper() + " ..." * several)
        elif parameter.default is parameter.empty:
            words.append(f"{flag(parameter.name)} {parameter.name.upper()}")
    return " ".join([*words, "[options]"])


def _add(parser: ArgumentParser, parameter: inspect.Parameter, text: str) -> None:
    """Add a parameter: a positional one as it is, one of keywords as an option with dashes (or underscores)."""
    kind = parameter.annotation
    how: dict[str, Any] = {"help": text, "type": kind, "metavar": _metavar(kind)}
    several = get_origin(kind) is Sequence
    if several:
        how |= {"type": get_args(kind)[0], "nargs": "+"}
    if parameter.kind is not parameter.KEYWORD_ONLY:
        parser.add_argument(parameter.name, **how | {"metavar": parameter.name.upper()})
        return
    if parameter.default is False:
        how = {"help": text, "action": "store_true"}
    elif parameter.default is parameter.empty:
        how["required"] = True
    else:
        how["default"] = list(parameter.default) if several else parameter.default
    parser.add_argument(*dict.fromkeys([flag(parameter.name), f"--{parameter.name}"]), **how)


def _metavar(kind: Any) -> str:
    """Words of a Literal; else a word for what is expected."""
    kinds = [k for k in get_args(kind) or [kind] if k is not NoneType]
    if get_origin(kind) is Literal or get_origin(kinds[0]) is Literal:
        return "{" + ",".join(get_args(kind if len(kinds) > 1 else kinds[0])) + "}"
    words = {Path: "PATH", bool: "{true,false}", int: "N", float: "X"}
    return words.get(kinds[0], ".NAME VALUE" if get_origin(kinds[0]) is dict else "NAME")


class _Help(DefaultHelpFormatter):
    """Sentences instead of types, and paragraphs."""

    def _get_help_string(self, action: Action) -> str:
        plain = (
            any(action.default is value for value in (None, False, SUPPRESS))
            or action.default == []
        )
        plain = plain or "(default" in (action.help or "")
        return (action.help or "") + ("" if plain else " (default: %(default)s)")

    def _format_action_invocation(self, action: Action) -> str:
        names = action.option_strings
        action.option_strings = [
            name for name in names if "_" not in name
        ] or names  # both are taken, one is taught
        try:
            return super()._format_action_invocation(action)
        finally:
            action.option_strings = names

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(
            p if p.startswith(" ") else fill(p, width, indent) for p in text.split("\n\n")
        )


class _Parser(ArgumentParser):
    """A parser that says in one sentence what is wrong."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            formatter_class=_Help,
            epilog=_CODES,
            allow_abbrev=False,
            parser_mode=PLAIN_YAML,
            **options,
        )

    def parse_path(self, cfg_path: Any, *args: Any, **options: Any) -> Any:
        """Read a file of options, which is short text in UTF-8."""
        from scbert_cll._checks.paths import MOST_OPTIONS, plain_file

        try:
            plain_file(str(cfg_path), most=MOST_OPTIONS)
        except (OSError, ValueError) as error:
            self.error(f"--config: {error}")
        try:
            return super().parse_path(cfg_path, *args, **options)
        except UnicodeDecodeError:
            self.error(f"--config {cfg_path} is not text in UTF-8; save it as UTF-8.")

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say it, and where to read on; exit code 2."""
        command = re.match(r"[a-z_. -]*", self.usage or _PROG)
        self.exit(
            2,
            f"error: {_sentence(message)}\nOptions: "
            f"{command[0].strip() if command else _PROG} --help\n",
        )


def _sentence(message: str) -> str:
    """What jsonargparse says, in one line and in words of the command line."""
    text = " ".join(message.split())
    found = _REFUSED.fullmatch(text)
    if found is None:
        commands = "|".join(cli_commands.COMMANDS)
        return re.sub(rf"\b({commands})\.", "", text) if "are required" in text else text
    kinds = re.sub(r"<class '(\w+\.)*(\w+)'>", r"\2", found["several"] or found["one"])
    kinds = re.sub(r"typing\.Literal\[(.*?)\]", r"\1", kinds).replace(", NoneType", "")
    return (
        f"--{found['key'].replace('_', '-')} must be {'one of ' * (',' in kinds)}{kinds}; found "
        f"{found['found']!r}."
    )
