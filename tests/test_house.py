"""The numbers of `docs/design.md` about the code are those that the script counts."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.house import __main__ as house
from benchmarks.house import mutation

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "design.md"
ROWS = {  # the beginning of a row, and what is counted for it
    "classes of the package": "classes_of_ScBERTClassifier",
    "files in the largest": "largest_room",
    "circles of imports": "circles",
    "private names of a room": "private_names_elsewhere",
    "`dict[str, Any]`": "dict_str_any",
    "values called": "names_without_meaning",
    "functions in `_checks`": "checks_in_the_shared_room",
    "lines over 100": "lines_over_100",
    "longest function body": "longest_body",
    "median function body": "median_body",
}


@pytest.fixture(scope="module")
def now() -> dict[str, float]:
    """The column "now" of the table, by the beginning of its rows."""
    part = PAGE.read_text(encoding="utf-8").split("## The house in numbers")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("| ")]
    table = {row[0].strip(): row[2].strip().replace(",", "") for row in rows}
    return {name: float(value) for name, value in table.items() if re.fullmatch(r"[\d.]+", value)}


def _said(now: dict[str, float], beginning: str) -> float:
    (value,) = [value for name, value in now.items() if name.startswith(beginning)]
    return value


def test_what_is_counted_is_what_the_page_says(now: dict[str, float]) -> None:
    counts: dict[str, Any] = house.of_files(house.SOURCE) | house.of_the_classes()
    assert {row: _said(now, row) for row in ROWS} == {row: counts[k] for row, k in ROWS.items()}


@pytest.mark.slow  # formats every file
@pytest.mark.skipif(shutil.which("ruff") is None, reason="needs ruff (extra dev)")
def test_there_is_as_much_code_as_the_page_says(now: dict[str, float]) -> None:
    assert sum(house.code(house.SOURCE).values()) == pytest.approx(
        _said(now, "lines of code"), rel=0.01
    )


@pytest.mark.slow  # a training in a process of its own, where nothing else looks at calls
def test_a_training_enters_as_many_files_as_the_page_says(now: dict[str, float]) -> None:
    code = "from benchmarks.house import __main__ as h; print(h.of_a_walk()['files_of_finetune'])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=house.ROOT, capture_output=True, text=True, check=True)
    n_files = int(done.stdout.split()[-1])
    assert n_files == pytest.approx(_said(now, "files that `tl.finetune` enters"), abs=2)


def test_a_benchmark_imports_its_neighbours_by_their_whole_names() -> None:
    """What is imported in a function is missed only when the function runs."""
    files = [file for folder in ("benchmarks", "tools") for file in (ROOT / folder).rglob("*.py")]
    neighbours = {file.stem for file in files} - {"__init__", "__main__"} - sys.stdlib_module_names
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            assert not neighbours & {name.partition(".")[0] for name in names}, file
            ours = [name for name in names if name.startswith("benchmarks")]
            assert all(find_spec(name) for name in ours), f"{file}: {ours}"


@pytest.mark.parametrize("name", ["tests", "benchmarks"])
def test_another_package_of_the_name_hides_none_of_ours(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    root = str(ROOT)
    code = (
        f"import sys; sys.path[:0] = {[root, str(tmp_path)]}; import {name}; print({name}.__path__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([str(ROOT / name)])


def test_mutants_are_of_files_and_tests_that_exist() -> None:
    for files, tests in mutation.ROOMS.values():
        assert all(list(house.SOURCE.glob(pattern)) for pattern in files), files
        assert all((house.ROOT / test).exists() for test in tests), tests


def test_a_circle_and_a_private_name_would_be_seen() -> None:
    assert house.circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert house.circles({"a": {"b"}, "b": set()}) == []
    tree = house.ast.parse("from scbert_cll._disk.cells import _read")
    assert house.private_elsewhere(tree, "scbert_cll.pp._gate", set())
    assert not house.private_elsewhere(tree, "scbert_cll._disk.formats", set())
