"""A remedy works: what an error sentence names exists, in this package and in the libraries that
users have with it.

The sentences are read from the source, so that a new one is looked at on its first day. That a
remedy also ends well on the refused object is the business of `tests/laws/test_bad_input.py`, where
each is run.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import lightning as L
import matplotlib.pyplot as plt
import mudata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from anndata import AnnData

import scbert_cll as sc_cll
from scbert_cll.nn import Config

SOURCE = Path(sc_cll.__file__).parent
ROOMS = ("pp", "tl", "pl", "io", "get", "datasets", "vocab", "estimators", "model")
A_MODEL = (sc_cll.ScBERT, sc_cll.ScBERTClassifier)
# What a sentence may begin a dotted name with, and what that may be.
ROOTS: dict[str, tuple[Any, ...]] = {
    **{room: (getattr(sc_cll, room),) for room in ROOMS},
    **dict.fromkeys(("sc_cll", "scbert_cll"), (sc_cll,)),
    **{cls.__name__: (cls,) for cls in A_MODEL},
    "model": (*A_MODEL, sc_cll.model, torch.nn.Module),
    "data": (AnnData, sc_cll.model.CorpusData, np.ndarray),
    **dict.fromkeys(("adata", "sample", "query", "rna"), (AnnData,)),
    "mdata": (mudata.MuData,),
    "ad": (ad,),
    "anndata": (ad,),
    "sc": (sc,),
    "pd": (pd,),
    "np": (np,),
    "plt": (plt,),
    "mudata": (mudata,),
    "torch": (torch,),
}
# Attributes that an instance has and its class has not.
OF_INSTANCES = {"binning", "genes", "layer", "classes", "labels_key", "config"}
# Keywords of no public function: the shape of a value, and `order` of the network's own tokens.
NOTATION = {"token", "order"}
CALL = re.compile(
    r"\b(?!vocab\.(?:txt|csv)\b)(?P<name>(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*)(?P<call>\()?"
)
KEYWORD = re.compile(r"(?<![\w.\"'{])(?P<name>[a-z_]\w*)=(?![=\s])")


class Sentence(NamedTuple):
    """A text of the source with a blank in it, and where it stands."""

    place: str
    text: str


def sentences() -> Iterator[Sentence]:
    """Texts that are no docstrings; what is filled in is left as {}."""
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        skipped: set[int] = set()
        for node in ast.walk(tree):
            if (
                isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
                and ast.get_docstring(node) is not None
            ):
                skipped.add(id(node.body[0].value))
            if isinstance(node, ast.JoinedStr):
                skipped |= {id(value) for value in node.values}
        for node in ast.walk(tree):
            if id(node) not in skipped and " " in (text := _text(node)):
                yield Sentence(f"{path.relative_to(SOURCE)}:{node.lineno}", text)


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(value.value) if isinstance(value, ast.Constant) else "{}" for value in node.values
        )
    return ""


def named(text: str) -> list[tuple[str, bool]]:
    """Dotted names that begin with something we know, and whether they are called."""
    return [
        (m["name"], bool(m["call"]))
        for m in CALL.finditer(text)
        if m["name"].partition(".")[0] in ROOTS
    ]


def missing(name: str) -> bool:
    """Whether none of the things a name may mean has it."""
    root, *path = name.split(".")
    return not any(_has(thing, path) for thing in ROOTS[root])


def _has(thing: Any, path: list[str]) -> bool:
    for name in path:
        if not hasattr(thing, name):
            try:
                thing = importlib.import_module(f"{thing.__name__}.{name}")
            except (AttributeError, ImportError):
                return name in OF_INSTANCES
        else:
            thing = getattr(thing, name)
        if isinstance(thing, property) or inspect.isdatadescriptor(thing):
            return True  # what an instance's attribute has is not known here
    return True


def keywords_of_the_package() -> set[str]:
    """Parameters of everything public, the fields of the network, and what the methods of a table
    take.
    """
    found = (
        _parameters(pd.DataFrame.dropna)
        | _parameters(pd.DataFrame.drop)
        | {field.name for field in fields(Config)}
    )
    for room in (getattr(sc_cll, name) for name in ROOMS):
        for thing in (getattr(room, name) for name in dir(room) if not name.startswith("_")):
            own = (
                [n for n in dir(thing) if not n.startswith("_")] if isinstance(thing, type) else []
            )
            for member in filter(callable, [thing, *(getattr(thing, name) for name in own)]):
                found |= _parameters(member)
    return found


def _parameters(function: Any) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return set()


def test_every_function_a_sentence_names_exists():
    bad = [
        f"{place}: {name}"
        for place, text in sentences()
        for name, _ in named(text)
        if missing(name)
    ]
    assert not bad


def test_the_law_sees_a_function_that_does_not_exist():
    assert missing("mudata.pp.intersect_obs")
    assert missing("pp.filter_donors")
    assert not missing("mudata.read_h5mu")
    assert not missing("adata.obs_names.duplicated")
    assert named("Keep the shared ones: mudata.pp.intersect_obs(mdata).") == [
        ("mudata.pp.intersect_obs", True)
    ]


def test_every_keyword_a_sentence_names_exists():
    """`name=` in a sentence is a parameter of the package, or of the library's function that is
    called in that sentence.
    """
    known, bad = keywords_of_the_package() | NOTATION | _parameters(L.Trainer), []
    for place, text in sentences():
        of_calls = {
            p
            for name, called in named(text)
            if called
            for thing in _things(name)
            for p in _parameters(thing)
        }
        bad += [
            f"{place}: {m['name']}="
            for m in KEYWORD.finditer(text)
            if m["name"] not in known | of_calls
        ]
    assert not bad


def _things(name: str) -> list[Any]:
    root, *path = name.split(".")
    found = []
    for thing in ROOTS[root]:
        for part in path:
            thing = pd.DataFrame if part == "obs" else getattr(thing, part, None)
        found.append(thing)
    return found


@pytest.mark.parametrize("extra", ["corpus", "hub", "prognosis", "score", "tune", "uno"])
def test_every_extra_that_is_told_to_be_installed_exists(extra):
    """And no other is told of: the names are those of the project's table."""
    pyproject = (SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE)
    told = {
        e
        for _, text in sentences()
        for m in re.findall(r"scbert-cll\[([\w,]+)\]", text)
        for e in m.split(",")
    }
    assert told <= {"corpus", "hub", "prognosis", "score", "tune", "uno"}
