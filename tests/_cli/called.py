"""The command line as tests call it, and the commands of its page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from scbert_cll.__main__ import main

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
QUICK = ("--max-epochs", "1", "--accelerator", "cpu", "--gene-embedding", "none")


def run(*words: object) -> int:
    return main([str(word) for word in words])


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, object]:
    """The options as --print_config writes them."""
    with pytest.raises(SystemExit) as stop:
        run(*words, "--print_config")
    assert stop.value.code == 0
    options: dict[str, object] = yaml.safe_load(capsys.readouterr().out)
    return options


def commands_of_the_page() -> list[str]:
    text = PAGE.read_text()
    found = re.findall(r"^```bash\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [line.partition(" > ")[0] for block in found for line in block.splitlines()]
