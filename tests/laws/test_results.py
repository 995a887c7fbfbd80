"""Every verb writes what files can hold, owns its entry, records how it was called, and leaves
nothing half done.

One small data set whose donors, classes, groups, proteins and genes have names as laboratories give
them goes through all verbs.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import matplotlib.pyplot as plt
import mudata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scbert_cll as sc_cll
from scbert_cll import _names, _record, get, pl, pp, tl

DONORS = ("2021/17", "a|b", "P.1", 'D"x"', "D'y'", "Pat 1", "7", "Jürgen Ø", "d" * 200)
CLASSES = (("T/NK", "ü" * 200), (".", " 1|2"))
PROTEINS = ("CD49d", "CD19", "CD5", "CD66a/c/e", "TCR α/β", "..", "p" * 200, "CD 3.1 (UCHT'1)")
GENES = tuple(f"G{i}" if i % 10 else f"HLA/{i}|x" for i in range(30))
FAST: dict[str, Any] = {
    "max_epochs": 1,
    "batch_size": 128,
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "network": {"n_hidden": 8, "n_layers": 1, "n_heads": 2},
}
SLOTS = ("obs", "var", "obsm", "varm", "layers", "uns")
ENDS = ("h5ad", "zarr")


class Step(NamedTuple):
    """A call, and where its record is."""

    call: Callable[[AnnData, Any], Any]
    entry: str
    needs: str = "numpy"


def cite_of_classes(classes: tuple[str, str]) -> mudata.MuData:
    """40 cells of each donor; the first genes and CD49d go with the class."""
    rng = np.random.default_rng(0)
    n = 40 * len(DONORS)
    second = rng.random(n) < 0.5
    mean = np.tile(rng.gamma(1, 2, len(GENES)) + 0.5, (n, 1))
    mean[np.ix_(second, np.arange(6))] *= 4
    obs = pd.DataFrame(
        {"donor": np.repeat(DONORS, 40), "lab": np.where(second, classes[1], classes[0])}
    )
    obs["batch"] = np.where(np.arange(n) % 2, "1/2", "b|c")
    obs.index = [f"cell{i}" for i in range(n)]
    level = rng.poisson(8.0, (n, len(PROTEINS))).astype(np.float32)
    level[:, 0] += np.where(second, rng.poisson(80, n), 0)
    rna = AnnData(
        sparse.csr_matrix(rng.poisson(mean).astype(np.float32)),
        obs=obs,
        var=pd.DataFrame(index=list(GENES)),
    )
    protein = AnnData(sparse.csr_matrix(level), obs=obs[[]], var=pd.DataFrame(index=list(PROTEINS)))
    return mudata.MuData({"rna": rna, "prot": protein})


def trained(adata: AnnData, pretrained: Any) -> Any:
    asked = (
        FAST
        if pretrained is None
        else {name: value for name, value in FAST.items() if name != "network"}
    )
    return tl.finetune(adata, pretrained, labels_key="lab", **asked)


BEFORE = {
    "pp.label_cd49d": Step(
        lambda mdata, _: pp.label_cd49d(mdata, donor_key="donor", batch_key="batch"), "cd49d"
    ),
    "pp.split_donors": Step(
        lambda mdata, _: pp.split_donors(mdata["rna"], "donor", labels_key="lab"), "split"
    ),
    "pp.bin_expression": Step(lambda mdata, _: pp.bin_expression(mdata["rna"]), "binned"),
    "pp.balance": Step(lambda mdata, _: pp.balance(mdata["rna"], ["lab", "donor"]), "balance"),
    "tl.gene2vec": Step(lambda mdata, _: tl.gene2vec(mdata["rna"], n_dims=8), "gene2vec"),
}
AFTER = {
    "tl.predict": Step(
        lambda a, model: tl.predict(a, model, unassigned_below=0.5), "scbert_predict"
    ),
    "tl.signature": Step(lambda a, _: tl.signature(a, groupby="lab", min_cells=5), "signature"),
    "tl.cross_validate": Step(
        lambda a, _: tl.cross_validate(
            a,
            labels_key="lab",
            models={"a . 'b'": "majority", "g": "gene_only"},
            gene="G1",
            n_repeats=1,
            n_bootstrap=5,
        ),
        "cv",
    ),
    "tl.gene_attention": Step(
        lambda a, model: tl.gene_attention(a, model, groupby="donor", per_cell=True),
        "gene_attention",
    ),
    "tl.gene_attribution": Step(
        lambda a, model: tl.gene_attribution(
            a, model, method="attention", groupby="lab", donor_key="donor", per_layer=True
        ),
        "gene_attribution",
    ),
    "tl.gene_interactions": Step(
        lambda a, model: tl.gene_interactions(a, model, list(GENES[:3]), groupby="lab", n_cells=6),
        "gene_interactions",
    ),
    "tl.perturb": Step(
        lambda a, model: tl.perturb(a, model, list(GENES[:3]), groupby="donor"), "perturb"
    ),
    "tl.score_signature": Step(
        lambda a, _: tl.score_signature(a, dict.fromkeys(GENES[:6], 1.0), method="waggr"),
        "signature_score",
        "decoupler",
    ),
    "tl.programmes": Step(
        lambda a, _: tl.programmes(
            a,
            groupby="lab",
            ranks=(2, 3),
            min_cells=20,
            min_cells_per_class=5,
            n_permutations=19,
        ),
        "programmes",
    ),
    "tl.signature_report": Step(
        lambda a, _: tl.signature_report(a, n_random=19, n_permutations=19), "signature_report"
    ),
    "tl.leakage_audit": Step(
        lambda a, _: tl.leakage_audit(a, labels_key="lab", gap=False), "leakage_audit"
    ),
    "tl.survival": Step(
        lambda a, _: tl.survival(a, "lab", time_key="years", event_key="event", strata=["batch"]),
        "survival",
    ),
}


class World(NamedTuple):
    """The data after all verbs, what each left behind, and the model."""

    adata: AnnData
    model: Any
    after: dict[str, dict[tuple[str, str], Any]]
    classes: tuple[str, str]


def held(adata: AnnData) -> dict[tuple[str, str], Any]:
    """Everything in the object, by slot and key."""
    values = {
        (slot, key): getattr(adata, slot)[key]
        for slot in SLOTS
        for key in getattr(adata, slot)
        if key is not None
    }
    return {
        place: value.copy() if hasattr(value, "copy") else value for place, value in values.items()
    }


@pytest.fixture(scope="module", params=CLASSES, ids=lambda classes: classes[0])
def world(request: pytest.FixtureRequest) -> World:
    return after_all(request.param)


@cache
def after_all(classes: tuple[str, str]) -> World:
    mdata = cite_of_classes(classes)
    adata, after = mdata["rna"], {}
    for name, step in BEFORE.items():
        step.call(mdata, None)
        after[name] = held(adata)
    pretrained = tl.pretrain(adata, **FAST)
    after["tl.pretrain"] = held(adata)
    model = trained(adata, pretrained)
    after["tl.finetune"] = held(adata)
    rng = np.random.default_rng(1)
    adata.obs["years"], adata.obs["event"] = (
        rng.uniform(1, 9, adata.n_obs),
        rng.integers(0, 2, adata.n_obs),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a network that has learned nothing
        for name, step in AFTER.items():
            if find_spec(step.needs):
                step.call(adata, model)
                after[name] = held(adata)
    return World(adata, model, after, classes)


def same(a: Any, b: Any) -> bool:
    """Equal, however a file spells it."""
    if isinstance(a, Mapping):
        return (
            isinstance(b, Mapping) and set(a) == set(b) and all(same(a[key], b[key]) for key in a)
        )
    if isinstance(a, pd.DataFrame):
        if (
            not isinstance(b, pd.DataFrame)
            or list(a.columns) != list(b.columns)
            or list(a.index) != list(b.index)
        ):
            return False
        return all(same(a.iloc[:, i], b.iloc[:, i]) for i in range(a.shape[1]))
    if sparse.issparse(a):
        return sparse.issparse(b) and a.shape == b.shape and same(a.toarray(), b.toarray())
    one, other = np.asarray(a), np.asarray(b)
    if one.shape != other.shape:
        return False
    if one.dtype.kind in "biuf" and other.dtype.kind in "biuf":
        return bool(np.array_equal(one, other, equal_nan=True))
    missing = pd.isna(one.astype(object)).tolist()
    texts = [[str(value) for value in values.astype(object).ravel()] for values in (one, other)]
    return missing == pd.isna(other.astype(object)).tolist() and texts[0] == texts[1]


ZARR = pytest.param("zarr", marks=pytest.mark.slow)  # some 1,600 files take ten seconds


@pytest.fixture(scope="module", params=["h5ad", ZARR])
def read(
    world: World, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AnnData:
    """The object, from a file."""
    path = tmp_path_factory.mktemp("file") / f"a.{request.param}"
    getattr(world.adata, f"write_{request.param}")(path)
    found: AnnData = getattr(ad, f"read_{request.param}")(path)
    return found


def test_whatever_was_written_survives_a_file(world: World, read: AnnData) -> None:
    back = held(read)
    now = {
        place: value
        for place, value in held(world.adata).items()
        if not place[1].startswith("_scvi")
    }
    assert not (set(now) ^ {place for place in back if not place[1].startswith("_scvi")})
    assert [place for place, value in now.items() if not same(value, back[place])] == []


def test_the_users_own_names_come_out_of_a_file(world: World, read: AnnData) -> None:
    adata, classes = read, set(world.classes)
    assert {f"proba_{name}" for name in classes} <= set(get.predictions(adata).columns)
    assert {f"proba_{name}" for name in classes} <= set(get.out_of_fold(adata).columns)
    assert set(get.out_of_fold(adata)["label"]) == classes
    assert set(get.out_of_fold(adata)["model"]) == {"a . 'b'", "g"}
    assert set(get.gene_attention(adata)["group"]) == set(DONORS)
    assert set(get.gene_attention(adata, group=DONORS[0])["gene"]) == set(GENES)
    assert set(get.donor_table(adata).index) == set(DONORS)
    assert set(get.signature(adata, selected=False)["gene"]) <= set(GENES)
    assert len(get.signature(adata)) > 0


def test_names_that_go_together_are_told_apart(world: World, read: AnnData) -> None:
    adata = read
    found = {
        name: {_names.parts(key, adata.uns) for key in adata.varm[name]}
        for name in ("gene_attribution_donors", "perturb")
    }
    assert found["gene_attribution_donors"] == {
        (donor, name) for donor in DONORS for name in world.classes
    }
    assert found["perturb"] == {(donor, donor) for donor in DONORS}
    expression = {_names.parts(key, adata.uns) for key in adata.uns["signature"]["expression"]}
    assert expression == {(donor, name) for donor in DONORS for name in world.classes}
    assert {_names.own(key, adata.uns) for key in adata.uns["signature"]["differences"]} == set(
        DONORS
    )
    assert set(_names.own_keys(adata.uns["gene_attention"]["n_cells"], adata.uns)) == set(DONORS)
    assert set(world.classes) <= {
        _names.own(key, adata.uns).removeprefix("n_") for key in adata.uns["split"]["donors"]
    }


def drawn(adata: AnnData, model: Any) -> dict[str, Any]:
    """Figures in which names of the user's are."""
    figures = {
        "gene_attention": pl.gene_attention(adata, show=False, return_fig=True),
        "attention_layers": pl.attention_layers(adata, show=False, return_fig=True),
        "confusion": pl.confusion(adata, labels_key="lab", show=False, return_fig=True),
        "confusion of folds": pl.confusion(adata, model="g", show=False, return_fig=True),
        "signature": pl.signature(adata, show=False, return_fig=True),
        "signature_heatmap": pl.signature_heatmap(
            adata, order_by="donor", show=False, return_fig=True
        ),
        "perturb": pl.perturb(adata, show=False, return_fig=True),
        "reliability": pl.reliability(adata, show=False, return_fig=True),
        "evaluation": pl.evaluation(adata, show=False, return_fig=True),
    }
    if "survival" in adata.uns:
        figures["survival"] = pl.survival(adata, show=False, return_fig=True)
    return figures


def test_plots_show_the_users_own_names(world: World) -> None:
    for name, figure in drawn(world.adata, world.model).items():
        figure.draw_without_rendering()
        texts = [text.get_text() for text in figure.findobj(plt.Text)]
        assert not [text for text in texts if re.search(r"%[0-9A-F]{2}|%~", text)], name
        plt.close(figure)
    plt.close("all")


def test_a_verb_leaves_the_entries_of_others_as_they_are(world: World) -> None:
    shared = {
        ("obs", "scbert_pred"),
        ("obs", "scbert_score"),
        ("obsm", "scbert_proba"),
        ("obsm", "linear_proba"),
    }
    shared |= {
        ("obsm", "X_scbert"),
        ("uns", "long_names"),
    }  # predictions; names, of which there are only ever more
    names = list(world.after)
    for before, after in pairwise(names):
        old, new = world.after[before], world.after[after]
        assert set(old) <= set(new), after
        changed = [
            place
            for place, value in old.items()
            if place not in shared and not same(value, new[place])
        ]
        assert [place for place in changed if not place[1].startswith("_scvi")] == [], after


def test_the_order_of_the_readme_keeps_what_finetune_found(world: World) -> None:
    assert len(world.adata.uns["scbert"]["comparison"]) > 0
    assert {"train_loss"} <= set(world.adata.uns["scbert"]["history"])
    assert world.adata.uns["scbert"]["params"]["freeze"] == "none"
    assert world.adata.uns["scbert_pretrain"]["params"]["preset"] == "small"
    assert world.adata.uns["scbert_predict"]["params"]["unassigned_below"] == 0.5


# --- every keyword


def verb(name: str) -> Callable[..., Any]:
    room, own = name.split(".")
    found: Callable[..., Any] = getattr(getattr(sc_cll, room), own)
    return found


def keywords(function: Callable[..., Any]) -> set[str]:
    """Arguments by name, less those that are not recorded for a reason."""
    found = inspect.signature(function).parameters.values()
    return {p.name for p in found if p.kind != p.VAR_KEYWORD} - set(_record.NOT_RECORDED)


def test_every_keyword_of_every_verb_is_recorded(world: World) -> None:
    entries = {name: step.entry for name, step in (BEFORE | AFTER).items() if find_spec(step.needs)}
    entries |= {"tl.pretrain": "scbert_pretrain", "tl.finetune": "scbert"}
    missing = {
        name: keywords(verb(name)) - set(world.adata.uns[entry]["params"])
        for name, entry in entries.items()
    }
    assert {name: absent for name, absent in missing.items() if absent} == {}


def test_verbs_that_make_a_new_object_record_every_keyword() -> None:
    world = after_all(CLASSES[0])
    aligned = pp.align_genes(world.adata, list(GENES[::-1]), aliases={"CD49D": "ITGA4"})
    probes = AnnData(np.ones((2, 2)), var=pd.DataFrame(index=["p/1", "p|2"]))
    collapsed = pp.collapse_probes(probes, {"p/1": "A/B", "p|2": "C"})
    patients = tl.patient_cd49d(world.adata, labels_key="lab")
    human = pp.to_human(world.adata, pd.DataFrame({"a": GENES, "b": GENES}))
    for name, made in {
        "pp.align_genes": aligned,
        "pp.to_human": human,
        "pp.collapse_probes": collapsed,
        "tl.patient_cd49d": patients,
    }.items():
        found = made.uns[name.split(".")[1]]["params"]
        assert keywords(verb(name)) <= set(found), name


def test_no_verb_is_forgotten() -> None:
    made = {
        "pp.align_genes",
        "pp.collapse_probes",
        "pp.to_human",
        "tl.patient_cd49d",
        "tl.prognosis",
    }  # here and in the test below
    on_disk = {"pp.build_corpus", "tl.predict_corpus"}  # write no object
    elsewhere = {"pp.cll_mask", "pp.intersect_obs"}  # write nothing
    known = {*BEFORE, *AFTER, "tl.pretrain", "tl.finetune", *made, *on_disk, *elsewhere}
    public = {f"{room}.{name}" for room in ("pp", "tl") for name in getattr(sc_cll, room).__all__}
    assert {name for name in public if inspect.isfunction(verb(name))} - known == set()


def test_prognosis_records_every_keyword_and_survives(tmp_path: Path) -> None:
    cohort = sc_cll.datasets.cll_cohort(n_patients=120, n_genes=200)
    cohort.obs["IGHV"] = (
        cohort.obs["IGHV"]
        .astype(str)
        .astype("category")
        .cat.rename_categories(lambda name: f"{name}/x|y")
    )
    truth = cohort.uns["truth"]["signature"]
    tl.prognosis(
        cohort,
        truth,
        time_key="TTT",
        event_key="treated",
        covariates=["IGHV"],
        n_random=20,
        n_bootstrap=0,
    )
    tl.survival(cohort, "IGHV", time_key="TTT", event_key="treated")
    assert keywords(tl.prognosis) <= set(cohort.uns["prognosis"]["params"])
    for end in ENDS:
        getattr(cohort, f"write_{end}")(tmp_path / f"a.{end}")
        back = held(getattr(ad, f"read_{end}")(tmp_path / f"a.{end}"))
        assert [
            place for place, value in held(cohort).items() if not same(value, back[place])
        ] == []


# --- all or nothing


MIDWAY = [
    (name, KeyboardInterrupt) for name in [*AFTER, "tl.finetune"] if name != "tl.signature_report"
]  # takes long


@pytest.mark.parametrize(
    ("name", "error"), [*MIDWAY, ("tl.predict", OSError), ("tl.finetune", OSError)]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_error_midway_leaves_the_object_as_it_was(
    name: str, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in AFTER and not find_spec(AFTER[name].needs):
        pytest.skip(f"{AFTER[name].needs} is not installed")
    world = after_all(CLASSES[0])
    adata = world.adata.copy()
    for slot, key in set(world.after[name]) - set(world.after["tl.gene2vec"]):
        if slot in ("uns", "varm") and key != "signature" and not key.startswith("_scvi"):
            getattr(adata, slot).pop(key, None)  # some slots are new, others are replaced
    before, setitem, n = held(adata), _record.setitem, 0

    def fails(slot: Any, key: str, value: Any) -> None:
        nonlocal n
        n += 1
        setitem(slot, key, value)
        if isinstance(slot, dict):  # uns
            raise error("in between")

    monkeypatch.setattr(_record, "setitem", fails)
    with pytest.raises(error, match="in between"):
        AFTER[name].call(adata, world.model) if name in AFTER else trained(adata, None)
    assert n > 0
    after = held(adata)
    assert set(after) == set(before)
    assert [place for place, value in before.items() if not same(value, after[place])] == []


# --- names and places are tried before anything runs


def refused(world: World, call: Callable[[AnnData], Any], sentence: str) -> None:
    """Nothing was trained or written when it was refused."""
    adata = world.adata.copy()
    before = held(adata)
    with pytest.raises((ValueError, OSError), match=sentence):
        call(adata)
    after = held(adata)
    assert set(after) == set(before)
    assert [place for place, value in before.items() if not same(value, after[place])] == []


VERBS = (
    "signature",
    "cross_validate",
    "leakage_audit",
    "signature_report",
    "programmes",
    "score_signature",
    "gene2vec",
)


@pytest.mark.parametrize("name", VERBS)
def test_a_key_that_no_file_holds_is_refused_first(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata = after_all(CLASSES[0]).adata
    monkeypatch.setattr("scbert_cll._checks.counts.counts", None)  # nothing is computed before
    for key in ("my/key", "", "..", "k" * 300, 3):
        with pytest.raises(
            ValueError, match=r"cannot be a name in a file.*Choose another, e.g. key_added='"
        ):
            getattr(tl, name)(adata, key_added=key)


def test_a_key_that_is_read_is_refused() -> None:
    world = after_all(CLASSES[0])
    refused(
        world,
        lambda a: pp.split_donors(a, "donor", key_added="donor"),
        "would replace 'donor', which is read here",
    )
    asked = {"labels_key": "scbert_pred", **FAST}
    refused(
        world,
        lambda a: tl.finetune(a, **asked),
        "labels_key='scbert_pred' is where the result goes",
    )
    asked = {"labels_key": "lab", "protein_key": "X_scbert", **FAST}
    refused(
        world, lambda a: tl.finetune(a, **asked), "protein_key='X_scbert' is where the result goes"
    )


def test_the_place_of_a_training_is_tried_first(tmp_path: Path) -> None:
    world = after_all(CLASSES[0])
    (tmp_path / "file").touch()
    asked = {"labels_key": "lab", "checkpoint_dir": tmp_path / "file", **FAST}
    refused(world, lambda a: tl.finetune(a, **asked), "file")
    refused(
        world,
        lambda a: tl.cross_validate(a, labels_key="lab", checkpoint=tmp_path / "file"),
        "is a file",
    )


# --- the door itself


def test_names_that_were_cut_are_found_again(tmp_path: Path) -> None:
    adata = AnnData(np.ones((2, 1), np.float32))
    long, other = "é" * 300, "é" * 299 + "e"
    table = pd.DataFrame({long: [1.0, 2.0], other: [3.0, 4.0]}, adata.obs_names)
    _record.write(
        adata, obsm={"table": table}, uns={"entry": {"n": {long: 1, other: 2}, "nothing": None}}
    )
    assert max(len(key.encode()) for key in adata.obsm["table"]) <= 255
    adata.write_zarr(tmp_path / "a.zarr")
    back = ad.read_zarr(tmp_path / "a.zarr")
    assert same(_names.own_columns(back.obsm["table"], back.uns), table)
    assert _names.own_keys(back.uns["entry"]["n"], back.uns) == {long: 1, other: 2}
    assert back.uns["entry"]["nothing"] == _record.NOTHING


def test_tables_of_loose_objects_become_of_one_type(tmp_path: Path) -> None:
    adata = AnnData(np.ones((2, 1), np.float32))
    columns = {"text": ["a", None], "mixed": ["a", 1], "flag": [True, None], "none": [None, None]}
    entry = {
        "table": pd.DataFrame(columns, index=[3, 4]),
        "pair": (1, 2),
        "set": {"a"},
        "mixed": ["a", 1],
    }
    _record.write(
        adata, uns={"entry": entry | {"path": tmp_path, "big": 2**80, "deep": {"x": {"y/z": None}}}}
    )
    for end in ENDS:
        getattr(adata, f"write_{end}")(tmp_path / f"a.{end}")
        assert same(
            adata.uns["entry"], getattr(ad, f"read_{end}")(tmp_path / f"a.{end}").uns["entry"]
        )
    assert adata.uns["entry"]["table"]["mixed"].tolist() == ["a", "1"]
    assert adata.uns["entry"]["table"]["flag"].isna().tolist() == [False, True]


def test_no_path_of_this_machine_is_recorded() -> None:
    given = {
        "vectors": "/home/a/b.npy",
        "vocab": Path("/home/c.txt"),
        "layer": None,
        "train": {"lr": 0.1},
    }
    assert _record.params(given) == {"vectors": "b.npy", "vocab": "c.txt", "layer": "X", "lr": 0.1}
