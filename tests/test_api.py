"""Signatures are law: what every public function looks like, and that it writes the slots its
docstring names, and no others.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from scipy import sparse

import scbert_cll as sc_cll

DOCS = Path(__file__).parents[1] / "docs"
ROOMS = ("pp", "tl", "pl", "get", "io", "datasets")
EXPECTED = {
    "pp": {
        "align_genes",
        "balance",
        "bin_expression",
        "cll_mask",
        "collapse_probes",
        "label_cd49d",
        "split_donors",
        "to_human",
    }
    | {"build_corpus", "intersect_obs"},
    "tl": {
        "cross_validate",
        "finetune",
        "gene2vec",
        "gene_attention",
        "gene_attribution",
        "leakage_audit",
        "perturb",
    }
    | {
        "gene_interactions",
        "patient_cd49d",
        "predict",
        "predict_corpus",
        "pretrain",
        "score_signature",
        "signature",
    }
    | {"prognosis", "programmes", "signature_report", "survival"},
    "pl": {
        "cd49d",
        "confusion",
        "donor_agreement",
        "evaluation",
        "gene_attention",
        "history",
        "perturb",
        "reliability",
    }
    | {
        "attention_layers",
        "faithfulness",
        "signature",
        "signature_heatmap",
        "signature_report",
        "stability",
    }
    | {"forest", "prognosis_null", "programmes", "survival"},
    "get": {
        "donor_table",
        "evaluation",
        "gene_attention",
        "out_of_fold",
        "predictions",
        "prognosis",
        "signature",
    }
    | {"programmes", "survival"},
    "io": {"check_corpus", "read_csv", "read_gmt", "write_csv", "write_gmt"},
    "datasets": {"cll_cohort", "cll_toy", "planted_donors"}
    | {"download_geo_series", "read_cohort", "read_geo_series", "read_mofacll"},
}
CLASSES = {"tl": {"LeakageReport", "Prognosis", "SignatureReport"}}  # that functions return
FIRST = {
    "pp": {"adata", "data", "paths"},
    "tl": {"adata", "corpus"},
    "pl": {"adata", "data", "model"},
    "get": {"adata", "data", "model"},
}
FEW = {"ranks": (2, 3), "min_cells": 20, "n_permutations": 19}  # of tl.programmes, for few cells
SLOTS = ("obs", "var", "obsm", "varm", "obsp", "varp", "layers", "uns")
SLOT = re.compile(rf"adata\.({'|'.join(SLOTS)})\[['\"](.+?)['\"]\]")


def public(*rooms: str) -> list[Any]:
    """Every function a room lists; its classes are in CLASSES."""
    found = []
    for room in rooms:
        if (
            importlib.util.find_spec(f"scbert_cll.{room}") is not None
        ):  # test_nothing_is_missing says so if not
            module = importlib.import_module(f"scbert_cll.{room}")
            found += [
                pytest.param(getattr(module, name), id=f"{room}.{name}")
                for name in module.__all__
                if name not in CLASSES.get(room, ())
            ]
    return found


def room_of(function: Callable[..., Any]) -> str:
    return function.__module__.split(".")[1]


def full_name(function: Callable[..., Any]) -> str:
    return f"{room_of(function)}.{function.__name__}"


def sections(docstring: str) -> dict[str, list[str]]:
    """Sections of a numpydoc docstring: title to lines."""
    found: dict[str, list[str]] = {"": []}
    lines, title = inspect.cleandoc(docstring).splitlines(), ""
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line and following == "-" * len(line):
            title = line
            found[title] = []
        elif set(line) != {"-"}:
            found[title].append(line)
    return found


def documented_slots(function: Callable[..., Any]) -> set[tuple[str, str]]:
    """Slots named in the entries (not the explanations) of the Returns section."""
    entries = [line for line in sections(function.__doc__)["Returns"] if line.startswith("``")]
    return {
        (where, key) for line in entries for where, key in SLOT.findall(line.partition("`` : ")[0])
    }


# -- what a function looks like
# ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", ROOMS)
def test_nothing_is_missing(room: str) -> None:
    module = importlib.import_module(f"scbert_cll.{room}")
    assert set(module.__all__) == EXPECTED[room] | CLASSES.get(room, set())
    assert set(module.__all__) <= {name for name, _ in inspect.getmembers(module)}
    assert module.__doc__


@pytest.mark.parametrize("name", sorted(CLASSES["tl"]))
def test_report(name: str) -> None:
    """A report is a class with documented attributes, which the docs list."""
    report = getattr(sc_cll.tl, name)
    assert inspect.isclass(report)
    assert set(report.__dataclass_fields__) <= {
        line for line in sections(report.__doc__)["Attributes"] if line[:1].strip()
    }
    assert re.search(rf"^   tl\.{name}$", (DOCS / "api" / "tl.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("function", public(*ROOMS))
def test_signature(function: Callable[..., Any]) -> None:
    room, parameters = room_of(function), inspect.signature(function).parameters
    positional = [
        p for p in parameters.values() if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}
    ]
    assert len(positional) <= 3
    if room in FIRST:
        assert positional[0].name in FIRST[room]
        assert positional[0].default is inspect.Parameter.empty
    assert not {"save", "random_state", "inplace", "seed"} & set(parameters)
    assert all(p.annotation is not inspect.Parameter.empty for p in parameters.values())
    assert inspect.signature(function).return_annotation is not inspect.Signature.empty
    if room == "pl":
        assert {"show", "ax", "return_fig"} & set(parameters)
    if documented_slots(function) and "None" in str(inspect.signature(function).return_annotation):
        assert parameters["copy"].default is False
        assert parameters["copy"].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize("function", public(*ROOMS))
def test_docstring(function: Callable[..., Any]) -> None:
    found = sections(function.__doc__)
    first = found[""]
    assert first[0].endswith(".")
    if room_of(function) in {"pp", "tl"}:
        assert len(first) > 2, "one line, then a paragraph on the idea"
        assert first[1] == ""
    assert set(found) >= {"Returns", "Raises"}
    names = [
        n.strip(" *")
        for line in found.get("Parameters", [])
        if line[:1].strip()
        for n in line.split(",")
    ]
    assert sorted(names) == sorted(inspect.signature(function).parameters)


@pytest.mark.parametrize("function", public(*ROOMS))
def test_docs_list_it(function: Callable[..., Any]) -> None:
    name = full_name(function)
    assert re.search(
        rf"^   {re.escape(name)}$",
        (DOCS / "api" / f"{room_of(function)}.md").read_text(),
        re.MULTILINE,
    )
    if documented_slots(function):
        row = next(
            line
            for line in (DOCS / "slots.md").read_text().splitlines()
            if f"scbert_cll.{name}>`" in line
        )
        written = {(where, key) for where, key in re.findall(r'(\w+)\["(\w+)"\]', row)}
        assert written == documented_slots(function) or "the same" in row


@pytest.mark.parametrize("name", ["ScBERT", "ScBERTClassifier"])
def test_model_methods(name: str) -> None:
    own = [
        (attribute, getattr(getattr(sc_cll.model, name), attribute))
        for attribute in dir(getattr(sc_cll.model, name))
        if not attribute.startswith("_")
    ]
    methods = [m for _, m in own if callable(m) and (m.__module__ or "").startswith("scbert_cll.")]
    assert len(methods) >= 6
    for method in methods:
        parameters = inspect.signature(method).parameters
        positional = [
            p
            for p in parameters.values()
            if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in ("self", "model")
        ]
        assert len(positional) <= 3, method
        assert not {"random_state", "seed"} & set(parameters), method
        assert method.__doc__, method


# -- what a function does
# ---------------------------------------------------------------------------------------------


def key_sets(adata: AnnData) -> set[tuple[str, str]]:
    """Every slot of an AnnData but the identifiers scvi-tools leaves there and X, which is
    `layers[None]`.
    """
    return {
        (slot, key)
        for slot in SLOTS
        for key in getattr(adata, slot)
        if not str(key).startswith(("_scvi", "None"))
    }


def snapshot(adata: AnnData) -> dict[tuple[str, str], Any]:
    """Names, X and every slot, in comparable copies."""
    held = {("names", axis): list(getattr(adata, axis)) for axis in ("obs_names", "var_names")}
    held["X", ""] = comparable(adata.X)
    return held | {
        (slot, key): comparable(getattr(adata, slot)[key]) for slot, key in key_sets(adata)
    }


def comparable(value: Any) -> Any:
    """Plain values that `==` compares, NaN equal to itself."""
    if isinstance(value, dict):
        return {
            str(k): comparable(v) for k, v in value.items() if k != "seconds"
        }  # no two runs take the same
    if isinstance(value, pd.DataFrame):
        return {str(c): comparable(value[c]) for c in value}
    if isinstance(value, pd.Series):
        return [list(value.index), str(value.dtype), repr(value.tolist())]
    if sparse.issparse(value):
        return [value.shape, *(part.tobytes() for part in sparse.find(value))]
    if isinstance(value, np.ndarray):
        plain = value.dtype.kind in "biuf"
        return [value.shape, str(value.dtype), value.tobytes() if plain else repr(value.tolist())]
    return repr(value)


@pytest.fixture(scope="session")
def toy() -> MuData:
    return sc_cll.datasets.cll_toy(n_cells=400, n_genes=200, rng=1)


@pytest.fixture(scope="session")
def raw(toy: MuData) -> AnnData:
    """RNA counts with the protein in `obsm`."""
    adata = toy["rna"].copy()
    adata.obsm["protein"] = pd.DataFrame(
        toy["prot"].X, index=adata.obs_names, columns=toy["prot"].var_names.astype(object)
    )
    return adata


@pytest.fixture(scope="session")
def patients() -> AnnData:
    """Bulk samples with outcome."""
    return sc_cll.datasets.cll_cohort(n_patients=120, n_genes=200)


@pytest.fixture(scope="session")
def split(raw: AnnData) -> AnnData:
    """Labels and held-out donors."""
    adata = raw.copy()
    sc_cll.pp.label_cd49d(adata, donor_key="donor")
    sc_cll.pp.split_donors(adata, "donor", labels_key="cd49d", rng=0)
    return adata


@pytest.fixture(scope="session")
def ready(split: AnnData) -> AnnData:
    """Everything a model needs."""
    adata = split.copy()
    sc_cll.pp.bin_expression(adata)
    sc_cll.tl.gene2vec(adata, n_dims=4, epochs=1)
    return adata


@pytest.fixture(scope="session")
def model(ready: AnnData) -> Any:
    adata = ready.copy()
    return sc_cll.tl.finetune(adata, labels_key="cd49d", max_epochs=1)


@pytest.fixture(scope="session")
def found(split: AnnData) -> AnnData:
    """A signature, or why there is none."""
    adata = split.copy()
    sc_cll.tl.signature(adata, min_cells=5)
    return adata


@pytest.fixture(scope="session")
def done(ready: AnnData, model: Any, patients: AnnData) -> AnnData:
    """Everything a plot needs."""
    adata = ready.copy()
    sc_cll.tl.predict(adata, model)
    sc_cll.tl.gene_attention(adata, model, groupby="cd49d")
    sc_cll.tl.gene_attribution(adata, model, method="attention", per_layer=True, split_key="none")
    sc_cll.tl.signature(adata, min_cells=5)
    sc_cll.tl.signature_report(adata, n_random=19, n_permutations=19)
    sc_cll.tl.signature(adata)
    sc_cll.tl.programmes(adata, **FEW)
    sc_cll.tl.perturb(adata, model, ["ITGA4", "CD44"])
    sc_cll.tl.cross_validate(adata, models=["majority", "gene_only"], n_repeats=1, n_bootstrap=20)
    adata.obs["years"] = np.random.default_rng(0).uniform(1, 9, adata.n_obs)
    adata.obs["event"] = 1
    sc_cll.tl.survival(adata, "cd49d", time_key="years", event_key="event")
    cohort, truth = patients.copy(), patients.uns["truth"]["signature"]
    sc_cll.tl.prognosis(
        cohort, truth, time_key="TTT", event_key="treated", n_random=20, n_bootstrap=0
    )
    adata.uns["prognosis"] = cohort.uns["prognosis"]
    return adata


def build_corpus(function: Any, adata: AnnData) -> None:
    """Through a file, in a folder of its own."""
    folder = Path(tempfile.mkdtemp())
    adata.copy().write_h5ad(folder / "a.h5ad")
    function([folder / "a.h5ad"], folder / "corpus.zarr", vocab=adata)


def predict_corpus(function: Any, adata: AnnData, model: Any) -> None:
    """What it writes lies in a file."""
    folder = Path(tempfile.mkdtemp())
    adata.copy().write_h5ad(folder / "a.h5ad")
    sc_cll.pp.build_corpus([folder / "a.h5ad"], folder / "corpus.zarr", vocab=adata)
    function(folder / "corpus.zarr", model, folder / "cells.zarr")


# Function: the fixture it starts from, and calls that together write all its slots
CALLS: dict[str, tuple[str, list[Callable[[Any, AnnData, Any], Any]]]] = {
    "pp.align_genes": ("raw", [lambda f, adata, _: f(adata, adata.var_names[::-1].tolist())]),
    "pp.to_human": (
        "raw",
        [lambda f, adata, _: f(adata, pd.DataFrame({"a": adata.var_names, "b": adata.var_names}))],
    ),
    "pp.label_cd49d": ("raw", [lambda f, adata, _, **kw: f(adata, donor_key="donor", **kw)]),
    "pp.split_donors": (
        "raw",
        [lambda f, adata, _, **kw: f(adata, "donor", labels_key="cd49d_true", **kw)],
    ),
    "pp.bin_expression": ("raw", [lambda f, adata, _, **kw: f(adata, **kw)]),
    "pp.balance": (
        "split",
        [
            lambda f, adata, _, **kw: f(adata, "cd49d", **kw),
            lambda f, adata, _, **kw: f(adata, "cd49d", method="oversample", **kw),
        ],
    ),
    "pp.build_corpus": ("raw", [lambda f, adata, _: build_corpus(f, adata)]),
    "pp.collapse_probes": (
        "raw",
        [lambda f, adata, _: f(adata, {g: g[:3] for g in adata.var_names})],
    ),
    "pp.intersect_obs": (
        "raw",
        [
            lambda f, adata, _: f(
                MuData({"rna": adata.copy(), "prot": AnnData(adata.obsm["protein"][9:])})
            )
        ],
    ),
    "pp.cll_mask": ("raw", [lambda f, adata, _: f(adata)]),
    "tl.gene2vec": ("split", [lambda f, adata, _, **kw: f(adata, n_dims=4, epochs=1, **kw)]),
    "tl.pretrain": ("ready", [lambda f, adata, _: f(adata, max_epochs=1)]),
    "tl.finetune": ("ready", [lambda f, adata, _: f(adata, labels_key="cd49d", max_epochs=1)]),
    "tl.predict": ("ready", [lambda f, adata, model, **kw: f(adata, model, **kw)]),
    "tl.predict_corpus": ("ready", [lambda f, adata, model: predict_corpus(f, adata, model)]),
    "tl.cross_validate": (
        "split",
        [
            lambda f, adata, _, **kw: f(
                adata, models=["majority", "gene_only"], n_repeats=1, n_bootstrap=20, **kw
            )
        ],
    ),
    "tl.gene_attribution": (
        "ready",
        [
            lambda f, adata, model, **kw: f(
                adata, model, groupby="cd49d", donor_key="donor", split_key="none", **kw
            ),
            lambda f, adata, model: f(
                adata, model, method="attention", per_layer=True, groupby="cd49d", split_key="none"
            ),
            lambda f, adata, model: f(
                adata,
                model,
                method="group_occlusion",
                gene_sets={"one": ["ITGA4"]},
                groupby="cd49d",
                split_key="none",
            ),
        ],
    ),
    "tl.gene_interactions": (
        "ready",
        [lambda f, adata, model, **kw: f(adata, model, ["CD74", "B2M"], **kw)],
    ),
    "tl.perturb": ("ready", [lambda f, adata, model, **kw: f(adata, model, ["ITGA4"], **kw)]),
    "tl.programmes": ("split", [lambda f, adata, _, **kw: f(adata, **FEW, **kw)]),
    "tl.score_signature": ("split", [lambda f, adata, _, **kw: f(adata, ["ITGA4", "ITGB1"], **kw)]),
    "tl.signature": ("split", [lambda f, adata, _, **kw: f(adata, **kw)]),
    "tl.signature_report": (
        "found",
        [lambda f, adata, _: f(adata, n_random=19, n_permutations=19)],
    ),
    "tl.survival": (
        "patients",
        [
            lambda f, adata, _, **kw: f(
                adata, "IGHV", time_key="TTT", event_key="treated", covariates=["TP53"], **kw
            )
        ],
    ),
    "tl.prognosis": (
        "patients",
        [
            lambda f, adata, _: f(
                adata,
                ["ITGA4", "PCNA"],
                time_key="TTT",
                event_key="treated",
                n_random=20,
                n_bootstrap=0,
            )
        ],
    ),
    "tl.patient_cd49d": ("done", [lambda f, adata, _: f(adata, model="gene_only")]),
    "tl.leakage_audit": ("split", [lambda f, adata, _: f(adata, n_repeats=1)]),
    "tl.gene_attention": (
        "ready",
        [
            lambda f, adata, model, **kw: f(adata, model, groupby="cd49d", **kw),
            lambda f, adata, model, **kw: f(adata, model, groupby="cd49d", per_cell=True, **kw),
        ],
    ),
}


def test_every_function_has_a_call() -> None:
    names = {full_name(p.values[0]) for p in public("pp", "tl")}
    assert names - set(CALLS) == set()


def writers(*, with_copy: bool = False) -> list[Any]:
    """Functions that may write; only those with a `copy` argument if asked."""
    found = [p for p in public("pp", "tl") if full_name(p.values[0]) in CALLS]
    return [
        p for p in found if not with_copy or "copy" in inspect.signature(p.values[0]).parameters
    ]


@pytest.mark.parametrize("function", writers())
def test_slots_written_are_the_slots_documented(
    function: Callable[..., Any], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    start, calls = CALLS[full_name(function)]
    documented, written = documented_slots(function), set()
    for call in calls:
        adata = request.getfixturevalue(start).copy()
        before = snapshot(adata)
        needed = "model" in inspect.signature(call).parameters
        out = call(function, adata, request.getfixturevalue("model") if needed else None)
        out = out if isinstance(out, AnnData) else adata
        new = key_sets(out) - set(before)
        assert new <= documented
        if out is adata and out.n_obs == len(before["names", "obs_names"]):
            after = snapshot(adata)
            assert {key for key in before if before[key] != after[key]} == set(), (
                "what was there is as it was"
            )
        out.write_h5ad(tmp_path / "a.h5ad")
        assert key_sets(ad.read_h5ad(tmp_path / "a.h5ad")) >= new, "all of it survives a file"
        written |= new
    assert written == documented


@pytest.mark.parametrize("function", writers(with_copy=True))
def test_copy_returns_a_new_object_with_the_same_result(
    function: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    start, calls = CALLS[full_name(function)]
    original = request.getfixturevalue(start)
    model = (
        request.getfixturevalue("model")
        if "model" in inspect.signature(calls[0]).parameters
        else None
    )
    adata, before = original.copy(), snapshot(original)
    out = calls[0](function, adata, model, copy=True)
    assert isinstance(out, AnnData)
    assert snapshot(adata) == before
    assert calls[0](function, adata, model) is None
    assert snapshot(adata) == snapshot(out)


@pytest.mark.parametrize("function", writers(with_copy=True))
def test_a_view_is_refused_in_place(
    function: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    start, calls = CALLS[full_name(function)]
    model = (
        request.getfixturevalue("model")
        if "model" in inspect.signature(calls[0]).parameters
        else None
    )
    view = request.getfixturevalue(start)[::-1]
    with pytest.raises(ValueError, match="view of another AnnData"):
        calls[0](function, view, model)
    assert calls[0](function, view, model, copy=True).n_obs == view.n_obs


@pytest.mark.parametrize("function", public("get", "pl"))
def test_readers_write_nothing(
    function: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    """Tables and plots leave the object alone; a plot returns Axes when it is not shown."""
    done, toy = request.getfixturevalue("done"), request.getfixturevalue("toy")
    first = next(iter(inspect.signature(function).parameters))
    mdata = MuData({"rna": done.copy(), "prot": toy["prot"].copy()}) if first == "data" else None
    what = {"model": request.getfixturevalue("model"), "adata": done, "data": mdata}[first]
    before = snapshot(done)
    out = function(what, show=False) if room_of(function) == "pl" else function(what)
    plt.close("all")
    assert out is not None
    assert snapshot(done) == before
    if mdata is not None:
        assert key_sets(mdata["rna"]) == key_sets(done)
