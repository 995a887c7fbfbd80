"""What the code is like to enter, in numbers: `python -m benchmarks.house`.

Lines of code are those that hold a token, without docstrings, comments and blank lines, after
`ruff format --line-length 88`, so that width hides nothing. Imports are read from the files,
wherever in a file they stand, `TYPE_CHECKING` included. The files that a call enters are seen while
it runs. `--source FOLDER` counts another checkout's `src/scbert_cll` (files only).
"""

from __future__ import annotations

import argparse
import ast
import inspect
import io
import json
import re
import shutil
import statistics
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "scbert_cll"
PACKAGE = "scbert_cll"
WIDTH = 88
NO_MEANING = ["found", "own", "known", "there", "held", "asked", "told", "kept", "more", "said"]
SILENT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
NAMED_TUPLE = {"_asdict", "_fields", "_replace"}  # public, for all their underscore
type Function = ast.FunctionDef | ast.AsyncFunctionDef
type Graph = dict[str, set[str]]


def docstrings(tree: ast.AST) -> Iterator[ast.stmt]:
    """The statements that are docstrings."""
    owners = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(tree):
        if isinstance(node, owners) and ast.get_docstring(node, clean=False) is not None:
            yield node.body[0]


def code_lines(text: str) -> int:
    """Lines with a token, without docstrings."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in SILENT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in docstrings(ast.parse(text)):
        lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def formatted(text: str) -> str:
    """The text as ruff sets it at 88 columns."""
    command = [shutil.which("ruff") or "ruff", "format", "--isolated"]
    command += ["--line-length", str(WIDTH), "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=True).stdout


def functions(tree: ast.AST) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def body_length(function: Function) -> int:
    """Lines from the first statement after the docstring to the last one."""
    body = function.body[ast.get_docstring(function) is not None :]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def module_of(path: Path, source: Path) -> str:
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join([PACKAGE, *(part for part in parts if part != "__init__")])


def imports(tree: ast.AST, modules: set[str]) -> set[str]:
    """Modules of the package that a file imports, anywhere in it."""
    targets: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                targets.add(full if full in modules else node.module)
    return targets & modules


def circles(graph: Graph) -> list[list[str]]:
    """Groups of modules that import each other (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for name in sorted(graph):
        if name not in order:
            visit(name)
    return groups


def private_elsewhere(tree: ast.AST, module: str, modules: set[str]) -> set[str]:
    """Names with an underscore that a file takes from a module of another room."""
    room = module.rpartition(".")[0]
    aliases: dict[str, str] = {}
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in modules:
                    aliases[alias.asname or alias.name] = full
                elif re.match("_[^_]", alias.name) and not str(node.module).startswith(room):
                    names.add(full)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = aliases.get(node.value.id)
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            if owner and private and owner.rpartition(".")[0] != room:
                names.add(f"{owner}.{node.attr}")
    return names


def foreign_attributes(tree: ast.AST) -> int:
    """How often an attribute with an underscore is read of something else than self or cls."""
    count = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
            base = node.value.id if isinstance(node.value, ast.Name) else ""
            count += (
                base not in {"self", "cls", "_checks", "_keys"} and node.attr not in NAMED_TUPLE
            )
    return count


def meaningless(tree: ast.AST) -> int:
    """Values whose name does not say what they hold."""
    names = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and not _is_read(n)]
    names += [n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)]
    return sum(name in NO_MEANING for name in names)


def _is_read(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Load)


def of_files(source: Path) -> dict[str, Any]:
    """What can be counted without running anything."""
    paths = sorted(source.rglob("*.py"))
    texts = {module_of(path, source): path.read_text(encoding="utf-8") for path in paths}
    trees = {name: ast.parse(text) for name, text in texts.items()}
    modules = set(trees)
    graph = {name: imports(tree, modules) - {name, PACKAGE} for name, tree in trees.items()}
    rooms = Counter(path.parent for path in paths if path.name != "__init__.py")
    lengths = [body_length(one) for tree in trees.values() for one in functions(tree)]
    elsewhere = set[str]().union(
        *(private_elsewhere(tree, name, modules) for name, tree in trees.items())
    )
    return {
        "files": len(paths),
        "largest_room": max(rooms.values()),
        "circles": len(circles(graph)),
        "private_names_elsewhere": len(elsewhere),
        "private_attributes_read": sum(map(foreign_attributes, trees.values())),
        "dict_str_any": sum(text.count("dict[str, Any]") for text in texts.values()),
        "names_without_meaning": sum(map(meaningless, trees.values())),
        "functions": len(lengths),
        "median_body": statistics.median(lengths),
        "longest_body": max(lengths),
        "lines_over_100": sum(len(x) > 100 for t in texts.values() for x in t.splitlines()),
        "longest_file": max(code_lines(text) for text in texts.values()),
        "checks_in_the_shared_room": sum(
            len(list(functions(tree))) for name, tree in trees.items() if "._checks" in name
        ),
    }


def code(source: Path) -> dict[str, int]:
    """Lines of code by room, at 88 columns; needs ruff."""
    rooms: Counter[str] = Counter()
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).parts
        rooms[parts[0] if len(parts) > 1 else "."] += code_lines(formatted(path.read_text()))
    return dict(rooms.most_common())


def of_the_classes() -> dict[str, int]:
    """Classes of the package that a model inherits from, itself included."""
    from scbert_cll.model import ScBERT, ScBERTClassifier

    return {
        f"classes_of_{kind.__name__}": sum(c.__module__.startswith(PACKAGE) for c in kind.__mro__)
        for kind in (ScBERT, ScBERTClassifier)
    }


def of_a_walk() -> dict[str, int]:
    """Files that `tl.finetune` enters, from the call to the written slot."""
    import scbert_cll as sc_cll

    mdata = sc_cll.datasets.cll_toy(n_cells=300, n_genes=200, rng=0)
    sc_cll.pp.label_cd49d(mdata, normalize="clr_protein", donor_key="donor")
    adata = mdata["rna"].copy()
    sc_cll.pp.split_donors(adata, "donor", labels_key="cd49d")
    sc_cll.pp.bin_expression(adata)
    sc_cll.tl.gene2vec(adata, n_dims=8)
    walk = inspect.unwrap(sc_cll.tl.finetune)
    entered: set[str] = set()

    watch = sys.monitoring  # sys.setprofile has been seen to report no call at all

    def note(code: CodeType, _: int) -> object:
        if code.co_filename.startswith(str(SOURCE)):
            entered.add(code.co_filename)
        return watch.DISABLE  # once is enough

    watch.use_tool_id(watch.PROFILER_ID, "files entered")
    watch.register_callback(watch.PROFILER_ID, watch.events.PY_START, note)
    watch.set_events(watch.PROFILER_ID, watch.events.PY_START)
    try:
        walk(adata, max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    finally:
        watch.set_events(watch.PROFILER_ID, watch.events.NO_EVENTS)
        watch.free_tool_id(watch.PROFILER_ID)
    return {"files_of_finetune": len(entered)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", type=Path, default=SOURCE)
    source = parser.parse_args().source.resolve()
    counts = of_files(source)
    if shutil.which("ruff"):
        by_room = code(source)
        counts |= {"code_lines": sum(by_room.values()), "code_lines_by_room": by_room}
    if source == SOURCE:
        counts |= of_the_classes() | of_a_walk()
    print(json.dumps(counts, indent=2))


if __name__ == "__main__":
    main()
