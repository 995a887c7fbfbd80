"""Files of pandas 3 are read, worked on and written with pandas 2, and those of pandas 2 with
pandas 3.

Needs a second interpreter with the other pandas: SCBERT_CLL_OTHER_PYTHON=path/to/python.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scbert_cll as sc_cll
from scbert_cll._disk.cells import write_cells

OTHER = os.environ.get("SCBERT_CLL_OTHER_PYTHON")
SOURCE = Path(sc_cll.__file__).parent
SCRIPT = Path(__file__).with_name("crossing.py")


def run(python: str, *words: str) -> None:
    done = subprocess.run([python, SCRIPT, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


def pandas_of(python: str) -> str:
    done = subprocess.run(
        [python, "-c", "import pandas; print(pandas.__version__[0])"],
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.mark.slow  # every verb and command in two interpreters
@pytest.mark.skipif(
    not OTHER, reason="needs SCBERT_CLL_OTHER_PYTHON, an interpreter with the other pandas"
)
@pytest.mark.parametrize("ours_first", [True, False], ids=["ours first", "the other first"])
def test_what_one_writes_the_other_writes_again(tmp_path: Path, ours_first: bool) -> None:
    assert {pandas_of(sys.executable), pandas_of(str(OTHER))} == {"2", "3"}
    order = [sys.executable, str(OTHER)] if ours_first else [str(OTHER), sys.executable]
    run(order[0], "first", str(tmp_path))
    run(order[1], "again", str(tmp_path))
    run(order[0], "again", str(tmp_path))  # and back


def of_pandas_3() -> AnnData:
    """As a file of pandas 3 is read with pandas 2: text is of a type of its own."""
    text = pd.StringDtype(na_value=np.nan)
    obs = pd.DataFrame(
        {"donor": pd.array(["A", "B"] * 6, dtype=text)},
        index=pd.Index([f"c{i}" for i in range(12)], dtype=text),
    )
    obs["with gaps"] = pd.array([None, *"abcdefghijk"], dtype=text)
    adata = AnnData(
        np.ones((12, 3), np.float32), obs, pd.DataFrame(index=pd.Index(list("xyz"), dtype=text))
    )
    adata.obsm["table"] = pd.DataFrame({"x": pd.array(["u"] * 12, dtype=text)}, index=obs.index)
    adata.uns["old"] = {
        "table": pd.DataFrame(
            {"x": pd.array(["u", None], dtype=text)}, index=pd.Index(["a", "b"], dtype=text)
        )
    }
    return adata


def test_such_an_object_can_be_written_after_any_verb(tmp_path: Path) -> None:
    adata = of_pandas_3()
    sc_cll.pp.bin_expression(adata)
    adata.write_h5ad(tmp_path / "a.h5ad")
    found = ad.read_h5ad(tmp_path / "a.h5ad")
    assert found.obs["donor"].tolist() == ["A", "B"] * 6
    assert found.obs["with gaps"].isna().sum() == 1
    copied = sc_cll.pp.bin_expression(of_pandas_3(), copy=True)
    copied.write_h5ad(tmp_path / "b.h5ad")


def test_what_a_command_writes_is_plain_and_the_setting_stays(tmp_path: Path) -> None:
    before = ad.settings.allow_write_nullable_strings
    adata = of_pandas_3()
    del adata.uns["old"]
    write_cells(tmp_path / "a.h5ad", adata)
    assert ad.settings.allow_write_nullable_strings == before
    found = ad.read_h5ad(tmp_path / "a.h5ad")
    found.write_h5ad(tmp_path / "again.h5ad")
    write_cells(tmp_path / "gaps.h5ad", of_pandas_3())
    assert ad.read_h5ad(tmp_path / "gaps.h5ad").uns["old"]["table"]["x"].isna().tolist() == [
        False,
        True,
    ]


def changed_in_place(function: ast.FunctionDef) -> list[str]:
    """Names that hold what `to_numpy()` handed out, a view that pandas 3 makes read-only, and are
    changed in place later.
    """
    handed, found = set(), []
    for node in sorted(
        (n for n in ast.walk(function) if hasattr(n, "lineno")),
        key=lambda n: (n.lineno, n.col_offset),
    ):
        if (
            isinstance(node, ast.Assign)
            and len(node.targets) == 1
            and isinstance(node.targets[0], ast.Name)
        ):
            value, name = node.value, node.targets[0].id
            is_view = (
                isinstance(value, ast.Call)
                and isinstance(value.func, ast.Attribute)
                and value.func.attr == "to_numpy"
            )
            copied = is_view and any(keyword.arg == "copy" for keyword in value.keywords)
            (handed.add if is_view and not copied else handed.discard)(name)
        targets = (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target]
            if isinstance(node, ast.AugAssign)
            else []
        )
        for target in targets:
            is_part = isinstance(target, ast.Subscript)
            held: ast.expr = target.value if isinstance(target, ast.Subscript) else target
            if (
                isinstance(held, ast.Name)
                and held.id in handed
                and (is_part or isinstance(node, ast.AugAssign))
            ):
                found.append(f"{held.id}, line {node.lineno}")
    return found


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.relative_to(SOURCE).as_posix()
)
def test_nothing_is_changed_in_place_that_pandas_3_hands_out_read_only(path: Path) -> None:
    functions = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)
    ]
    assert [said for function in functions for said in changed_in_place(function)] == []
