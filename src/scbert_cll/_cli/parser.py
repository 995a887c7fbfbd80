"""The parser: options out of signatures, help out of docstrings, refusals in one sentence."""

from __future__ import annotations

import inspect
import re
import sys
from argparse import SUPPRESS, Action
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Final, Literal, NoReturn, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, get_loader, set_loader
from yaml.events import CollectionEndEvent, CollectionStartEvent

from scbert_cll._cli import commands, words
from scbert_cll._version import __version__

_PLAIN_YAML: Final = "plain_yaml"
_DEEPEST: Final = 20  # nested lists and mappings; options have two
_LESSON: Final = """\
CD49d status and gene signatures from single-cell RNA of chronic lymphocytic leukaemia, with scBERT.

From many files to a model: corpus, pretrain, finetune, predict. From labelled cells to genes:
signature. Each command has its own --help. Options can be read from a file: --config run.yaml,
which --print_config writes; the command line wins over the file."""
_CODES: Final = """\
exit codes:

  0    done
  1    unexpected error, with Python's traceback
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
SCRIPT: Final = "scbert-cll"  # as pyproject.toml calls it


def program() -> str:
    """The command line by the name that it was called by."""
    script = Path(sys.argv[0]).stem
    return script if script == SCRIPT else "python -m scbert_cll"


def whole_parser() -> _Parser:
    """The parser of all commands."""
    prog = program()
    parser = _Parser(prog=prog, usage=f"{prog} COMMAND ...", description=_LESSON)
    version, text = f"scbert_cll {__version__}", "say which version this is"
    parser.add_argument("--version", action="version", version=version, help=text)
    subs = parser.add_subcommands(required=True, dest="command", metavar="COMMAND")
    for name, function in commands.COMMANDS.items():
        sub = command_parser(name, function)
        first_line, _, _ = str(sub.description).partition("\n")
        subs.add_subcommand(name, sub, help=first_line)
    return parser


def command_parser(name: str, function: words.Function) -> _Parser:
    """The parser of a command."""
    lesson, _, _ = (inspect.getdoc(function) or "").partition("\n\nParameters\n")
    described = words.described_of(function)
    parser = _Parser(usage=_usage(name, described), description=lesson)
    text = "options in YAML"
    parser.add_argument("--config", action="config", metavar="FILE", help=text)
    for parameter, text in described.values():
        _add(parser, parameter, text)
    text = "on an error, show where it happened"
    parser.add_argument("--traceback", action="store_true", help=text)
    return parser


def _usage(name: str, described: words.Described) -> str:
    """The command with what must be given."""
    usage = [program(), name]
    for parameter in words.needed_by(described):
        is_option = parameter.kind is parameter.KEYWORD_ONLY
        value = f" {parameter.name.upper()}" * is_option
        several = get_origin(parameter.annotation) is Sequence
        usage.append(words.typed(parameter) + value + " ..." * several)
    return " ".join([*usage, "[options]"])


def _add(parser: ArgumentParser, parameter: inspect.Parameter, text: str) -> None:
    """Add a parameter, one of keywords as an option with dashes (or underscores)."""
    name, kind, default = parameter.name, parameter.annotation, parameter.default
    names = dict.fromkeys([words.flag(name), f"--{name}"])
    if default is False:
        parser.add_argument(*names, help=text, action="store_true")
        return
    how: dict[str, Any] = {"type": kind, "metavar": _metavar(kind), "help": text}
    several = get_origin(kind) is Sequence
    if several:
        how |= {"type": get_args(kind)[0], "nargs": "+"}
    if parameter.kind is not parameter.KEYWORD_ONLY:
        names, how["metavar"] = {name: None}, name.upper()
    elif default is parameter.empty:
        how["required"] = True
    else:
        how["default"] = list(default) if several else default
    parser.add_argument(*names, **how)


def _metavar(kind: Any) -> str:
    """Words of a Literal; else a word for what is expected."""
    kinds = [k for k in get_args(kind) or [kind] if k is not NoneType]
    if get_origin(kind) is Literal or get_origin(kinds[0]) is Literal:
        return "{" + ",".join(get_args(kind if len(kinds) > 1 else kinds[0])) + "}"
    if get_origin(kinds[0]) is dict:
        return ".NAME VALUE"
    names = {Path: "PATH", bool: "{true,false}", int: "N", float: "X"}
    return names.get(kinds[0], "NAME")


class _Help(DefaultHelpFormatter):
    """Sentences instead of types, and paragraphs."""

    def _get_help_string(self, action: Action) -> str:
        text, default = action.help or "", action.default
        silent = default in (None, [], SUPPRESS) or default is False
        is_said = silent or "(default" in text
        return text if is_said else text + " (default: %(default)s)"

    def _format_action_invocation(self, action: Action) -> str:
        names = action.option_strings
        # both are taken, one is taught
        action.option_strings = [name for name in names if "_" not in name] or names
        try:
            return super()._format_action_invocation(action)
        finally:
            action.option_strings = names

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        parts = text.split("\n\n")
        filled = (p if p.startswith(" ") else fill(p, width, indent) for p in parts)
        return "\n\n".join(filled)


class _Parser(ArgumentParser):
    """A parser that says in one sentence what is wrong."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            formatter_class=_Help,
            epilog=_CODES,
            allow_abbrev=False,
            parser_mode=_PLAIN_YAML,
            **options,
        )

    def parse_path(self, cfg_path: Any, *args: Any, **options: Any) -> Any:
        """Read a file of options, which is short text in UTF-8."""
        from scbert_cll._checks.files import MOST_OPTIONS, plain_file

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
        command = re.match(r"[a-z_. -]*", self.usage or "")
        name = command[0].strip() if command else program()
        self.exit(2, f"error: {_sentence(message)}\nOptions: {name} --help\n")


def _sentence(message: str) -> str:
    """A message of jsonargparse in one line, in words of the command line."""
    text = " ".join(message.split())
    refused = _REFUSED.fullmatch(text)
    if refused is None:
        names = "|".join(commands.COMMANDS)
        return re.sub(rf"\b({names})\.", "", text) if "are required" in text else text
    kinds = refused["several"] or refused["one"]
    kinds = re.sub(r"<class '(\w+\.)*(\w+)'>", r"\2", kinds)
    kinds = re.sub(r"typing\.Literal\[(.*?)\]", r"\1", kinds).replace(", NoneType", "")
    return (
        f"{words.flag(refused['key'])} must be {'one of ' * (',' in kinds)}{kinds}; found "
        f"{refused['found']!r}."
    )


def _load_yaml(text: str) -> object:
    """Values of YAML without anchors, aliases or deep nesting, by which short text grows."""
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if getattr(event, "anchor", None) is not None:
            raise yaml.YAMLError(
                "options in YAML have no anchors (&) and aliases (*); write each value where "
                "it belongs."
            )
        depth += isinstance(event, CollectionStartEvent)
        depth -= isinstance(event, CollectionEndEvent)
        if depth > _DEEPEST:
            raise yaml.YAMLError(
                f"options in YAML are nested at most {_DEEPEST} deep; write one line for each "
                f"option."
            )
    return get_loader("yaml")(text)


set_loader(_PLAIN_YAML, _load_yaml, exceptions=(yaml.YAMLError,))
