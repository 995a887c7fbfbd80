"""The house rules: what an import loads, who may import whom, how long a file and a function may
be.
"""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import statistics
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

import scbert_cll
from benchmarks.house import __main__ as house

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "scbert_cll"
FILES = sorted(SRC.rglob("*.py"))
HEAVY = {"torch", "lightning", "scvi"}
Loaded = Callable[[str], set[str]]
MOST_LINES, MOST_CODE = 450, 300  # of a file: all, and those of code


def relative(path: Path) -> str:
    return path.relative_to(SRC).as_posix()


# An interpreter that has what the rooms without a network may load, and forks for every question:
# an import of scanpy takes seconds. What a question prints goes to stderr.
FORKING = """
import json, os, sys, traceback
import mudata, scanpy, sklearn.linear_model
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
def answer(error):
    names = sorted({name.partition(".")[0] for name in sys.modules})
    print(json.dumps([error, names]), file=answers, flush=True)
for line in sys.stdin:
    if child := os.fork():
        if os.waitpid(child, 0)[1]:
            answer("it crashed")
        continue
    try:
        exec(json.loads(line), {})
        answer("")
    except BaseException:
        answer(traceback.format_exc())
    os._exit(0)
"""


@pytest.fixture(scope="module")
def loaded_after() -> Iterator[Loaded]:
    """Top-level modules an interpreter without this package has loaded after `code`."""
    if sys.platform == "darwin":
        pytest.skip("Apple's Accelerate does not work in a process that was forked")
    # warnings are errors in these tests, but an interpreter of its own is asked here what a user's
    # would do
    with subprocess.Popen(
        [sys.executable, "-c", FORKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def ask(code: str) -> set[str]:
            process.stdin.write(json.dumps(code) + "\n")
            process.stdin.flush()
            error, names = json.loads(process.stdout.readline())
            assert not error, error
            return set(names)

        assert not ask("") & (HEAVY | {"gensim", "scbert_cll"})
        yield ask
        process.stdin.close()


def test_import_is_light() -> None:
    code = "import scbert_cll, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "scbert_cll" in loaded
    assert not loaded & (HEAVY | {"scanpy", "matplotlib", "sklearn", "gensim", "imblearn"})


@pytest.mark.parametrize("room", ["pp", "pl", "get", "io", "datasets", "vocab"])
def test_rooms_without_a_network_load_none(room: str, loaded_after: Loaded) -> None:
    assert not loaded_after(f"import scbert_cll.{room}") & HEAVY


def test_rooms_open_on_first_use(loaded_after: Loaded) -> None:
    code = (
        "import scbert_cll as s; assert 'scbert_cll.pp' not in __import__('sys').modules; "
        "s.pp.bin_expression"
    )
    assert not loaded_after(code) & HEAVY


CELLS = "adata = s.datasets.planted_donors(n_cells=60, n_genes=60)"
PATIENTS = "adata = s.datasets.cll_cohort(n_patients=120, n_genes=200)"
TIMES = 'time_key="TTT", event_key="treated"'
WITHOUT_NETWORK = {
    "signature": [CELLS, "s.tl.signature(adata, groupby='label')"],
    "signature_report": [
        CELLS,
        "s.tl.signature(adata, groupby='label')",
        "s.tl.signature_report(adata, n_random=19, n_permutations=19)",
    ],
    "programmes": [CELLS, "s.tl.programmes(adata, groupby='label', ranks=(2, 3))"],
    "signature_score": [CELLS, "s.tl.score_signature(adata, list(adata.var_names[:9]))"],
    "survival": [PATIENTS, f"s.tl.survival(adata, 'IGHV', {TIMES})"],
    "prognosis": [
        PATIENTS,
        f"s.tl.prognosis(adata, ['ITGA4', 'PCNA'], {TIMES}, n_random=20, n_bootstrap=0)",
    ],
}


@pytest.mark.parametrize("slot", WITHOUT_NETWORK)
def test_verbs_without_a_network_run_without_one(slot: str, loaded_after: Loaded) -> None:
    code = ["import scbert_cll as s", *WITHOUT_NETWORK[slot], f"assert adata.uns['{slot}']"]
    assert not loaded_after("\n".join(code)) & (HEAVY | {"gensim"})


def test_looking_at_the_verbs_finds_them_all(loaded_after: Loaded) -> None:
    code = "import scbert_cll as s; assert set(s.tl.__all__) <= set(dir(s.tl))"
    assert not loaded_after(code) & HEAVY
    with pytest.raises(AttributeError, match=r"module 'scbert_cll\.tl' has no attribute 'umap'"):
        _ = scbert_cll.tl.umap


@pytest.mark.parametrize("room", ["datasets", "get", "io", "vocab"])
def test_a_room_opens_whether_or_not_another_did(room: str, loaded_after: Loaded) -> None:
    assert "scbert_cll" in loaded_after(f"import scbert_cll; scbert_cll.{room}.__doc__")


@pytest.mark.parametrize("name", scbert_cll.__all__)
def test_every_listed_name_is_there(name: str) -> None:
    assert getattr(scbert_cll, name) is not None
    assert name in dir(scbert_cll)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'scbert_cll' has no attribute 'umap'"):
        _ = scbert_cll.umap


def test_version_is_said_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["hatch"]["version"]["path"] == "src/scbert_cll/_version.py"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert scbert_cll.__version__ == citation["version"]
    assert importlib.metadata.version("scbert-cll") == scbert_cll.__version__


def test_imports_go_down_only() -> None:
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def imports(tree: ast.AST) -> set[str]:
    """Top-level packages a file imports, wherever in the file."""
    names = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    ]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_file_keeps_the_rules(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    found = imports(tree)
    assert len(text.splitlines()) <= MOST_LINES, "too long: give a part its own file"
    assert house.code_lines(text) <= MOST_CODE, "too long: give a part its own file"
    assert not found & {"pickle", "dill", "joblib"}, "a pickle runs code"
    assert not re.search(r"weights_only\s*=\s*False|allow_pickle\s*=\s*True", text)
    assert "scvi" not in found or relative(path) == "model/_scvi.py", (
        "scvi is imported in model/_scvi.py only"
    )
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree)), (
        "asserts vanish with python -O: raise"
    )


def body_lengths() -> dict[str, int]:
    """Lines from the first statement after the docstring to the last one, for every function."""
    found = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                found[f"{relative(path)}:{node.lineno} {node.name}"] = lines
    return found


def test_functions_are_short() -> None:
    lengths = body_lengths()
    assert {name: n for name, n in lengths.items() if n > 60} == {}
    assert statistics.median(lengths.values()) <= 10


def test_what_tests_make_has_one_maker() -> None:
    """Cells that are special in a way are made under a name that says how."""
    makers, elsewhere = {"cells", "cohort", "unchanged"}, []
    for path in (ROOT / "tests").rglob("*.py"):
        tree = ast.parse(path.read_text())
        defined = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        assigned = [
            target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets
        ]
        defined += [target.id for target in assigned if isinstance(target, ast.Name)]
        if path.name == "_make.py":
            assert makers <= set(defined)
        else:
            elsewhere += [f"{path.name}: {name}" for name in makers.intersection(defined)]
    assert elsewhere == []


def test_a_slow_test_says_why() -> None:
    lines = {
        f"{path.name}:{n}": line
        for path in (ROOT / "tests").rglob("*.py")
        for n, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\bmark\.slow\b", line)
    }
    assert len(lines) > 40
    assert not [where for where, line in lines.items() if "#" not in line]


def test_readme_says_the_line_that_ci_runs() -> None:
    """The second set-up command of the README is what `.ci/run` runs, verbatim; there are exactly
    two.
    """
    commands = re.findall(
        r"^python3 -m venv .*$", (ROOT / "README.md").read_text(), flags=re.MULTILINE
    )
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert len(commands) == 2
    assert "-m scbert_cll demo" in commands[0]
    assert commands[1] in script
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
