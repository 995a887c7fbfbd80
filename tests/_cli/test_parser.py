"""The parser: help, options and their file, refusals; light, until a command works."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scbert_cll._cli import commands
from tests._cli.called import commands_of_the_page, printed, run

HEAVY = ("torch", "scanpy", "scvi", "lightning", "anndata", "matplotlib")


def test_help_of_every_command_is_light() -> None:
    script = f"""
import sys
from scbert_cll.__main__ import main
for words in [[], *([name] for name in {list(commands.COMMANDS)})]:
    try:
        main([*words, "--help"])
    except SystemExit as stop:
        print(stop.code, file=sys.stderr)
print(*({{name.partition(".")[0] for name in sys.modules}} & set({HEAVY})), "end", file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stderr.split() == ["0"] * (1 + len(commands.COMMANDS)) + ["end"]


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_help_teaches_every_option_and_the_exit_codes(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(command, "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert inspect.getdoc(commands.COMMANDS[command]).partition("\n")[0] in text
    assert "3 another run is writing to the same folder" in text
    assert "130 interrupted" in text
    assert "NoneType" not in text
    for name in inspect.signature(commands.COMMANDS[command]).parameters:
        assert (
            name in ("training", "reading", "options")
            or name.upper() in text
            or f"--{name.replace('_', '-')}" in text
        )


@pytest.mark.parametrize("command", ["demo", "signature", "finetune", "pretrain", "predict"])
def test_help_says_whose_donors_are_taken_by_default(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(command, "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert (
        "none: all cells are of one donor (default: donor for demo, signature and finetune" in text
    )


def test_the_training_options_stand_among_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("pretrain", "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "--checkpoint-dir PATH Folder of checkpoints" in text
    assert "--seed N Of everything random. (default: 0)" in text
    assert "--precision {32-true,bf16-mixed,16-mixed}" in text


def test_options_come_from_a_file_and_the_command_line_wins_wherever_the_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "data: a.h5ad\nout: m\nmax_epochs: 3\nnetwork: {n_hidden: 8}\nexclude_genes: [ITGA4]\n"
    )
    alone = printed(capsys, "pretrain", "--config", file)
    assert (alone["data"], alone["max_epochs"], alone["network"]) == ("a.h5ad", 3, {"n_hidden": 8})
    words = ["b.h5ad", "--max-epochs", 5, "--network.n_layers", 2]
    for mixed in ([*words, "--config", file], [f"--config={file}", *words]):
        found = printed(capsys, "pretrain", *mixed)
        assert (found["data"], found["max_epochs"], found["exclude_genes"]) == (
            "b.h5ad",
            5,
            ["ITGA4"],
        )
        assert found["network"] == {"n_hidden": 8, "n_layers": 2}


@pytest.mark.parametrize("command", commands.COMMANDS)
def test_what_print_config_writes_is_read_back(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    needed = {
        "corpus": ("a.h5ad", "b.h5ad", "--out", "c", "--vocab", "v.txt"),
        "check": ("c",),
        "demo": (),
    }
    first = printed(
        capsys,
        command,
        *needed.get(command, ("a.h5ad", "--out", "o") + ("--model", "m") * (command == "predict")),
    )
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(first))
    assert printed(capsys, command, "--config", tmp_path / "run.yaml") == first


def test_underscores_are_dashes(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "demo", "--donor_key", "x") == printed(capsys, "demo", "--donor-key=x")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train"], "invalid choice: 'train'"),
        (["pretrain", "a.h5ad"], "the following arguments are required: out"),
        (
            ["pretrain", "a.h5ad", "--out", "m", "--max-epochs", "few"],
            "--max-epochs must be int; found 'few'.",
        ),
        (
            ["pretrain", "a.h5ad", "--out", "m", "--preset", "big"],
            "--preset must be one of 'small', 'scbert'; found 'big'.",
        ),
        (
            ["pretrain", "a.h5ad", "--out", "m", "--precision", "8"],
            "'bf16-mixed', '16-mixed'; found '8'.",
        ),
        (["pretrain", "a.h5ad", "--out", "m", "--max-epoch", "1"], "--max-epoch"),
        (["pretrain", "a.h5ad", "--out", "m", "--config", "no.yaml"], "no.yaml"),
        (
            ["demo", "--label", "best"],
            "--label must be one of 'auto', 'gmm', 'quantile'; found 'best'.",
        ),
    ],
)
def test_bad_usage_is_one_sentence_and_code_2(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run(*words)
    assert stop.value.code == 2
    error, where, *more = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert sentence in error
    assert re.fullmatch(r"Options: python -m scbert_cll( pretrain| demo)? --help", where)
    assert not more


def test_unknown_keys_of_the_file_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text("data: a.h5ad\nout: m\nmax_epoch: 3\n")
    with pytest.raises(SystemExit) as stop:
        run("pretrain", "--config", tmp_path / "run.yaml")
    assert stop.value.code == 2
    assert "does not accept option 'max_epoch'" in capsys.readouterr().err


def test_the_page_shows_every_command_and_each_can_be_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("data: corpus.zarr\nout: pretrained\n")
    lines = [shlex.split(line) for line in commands_of_the_page()]
    assert {words[3] for words in lines} == set(commands.COMMANDS)
    for words in lines:
        assert words[:3] == ["python", "-m", "scbert_cll"]
        printed(capsys, *(word for word in words[3:] if word != "--print_config"))
