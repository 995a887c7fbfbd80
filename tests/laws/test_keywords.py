"""A name that no argument has is refused with the nearest one, before anything runs: wherever a
function takes more than it lists.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from anndata import AnnData

import scbert_cll as sc_cll
from scbert_cll.__main__ import main
from scbert_cll.estimators import Resampled, ScBERTEstimator
from scbert_cll.nn import Performer
from tests._make import few_cells

NETWORK = {"n_hidden": 8, "n_heads": 2, "gene_embedding": "learned"}
HABITS = {
    "random_state": "rng",
    "device": "accelerator",
    "learning_rate": "lr",
    "epochs": "max_epochs",
}


def pretrained(adata: AnnData) -> sc_cll.ScBERT:
    sc_cll.ScBERT.setup_anndata(adata)
    return sc_cll.ScBERT(adata, **NETWORK)


def from_scratch(adata: AnnData) -> sc_cll.ScBERTClassifier:
    sc_cll.ScBERTClassifier.setup_anndata(adata, labels_key="cd49d")
    return sc_cll.ScBERTClassifier(adata, **NETWORK)


def checkpoint(kind: Any, folder: Path, **asked: Any) -> Any:
    pretrained(few_cells()).save(folder / "model")
    return kind.from_scbert_checkpoint(folder / "none.pth", vocab=["A"], **asked)


# every public function that takes more than it lists: how it is called, and an argument it has
OPEN: dict[str, tuple[Callable[..., Any], str]] = {
    "tl.pretrain": (
        lambda folder, **asked: sc_cll.tl.pretrain(few_cells(), **asked),
        "weight_decay",
    ),
    "tl.finetune": (lambda folder, **asked: sc_cll.tl.finetune(few_cells(), **asked), "labels_key"),
    "ScBERT": (
        lambda folder, **asked: sc_cll.ScBERT(cells_set_up(sc_cll.ScBERT), **asked),
        "n_layers",
    ),
    "ScBERTClassifier": (
        lambda folder, **asked: sc_cll.ScBERTClassifier(
            cells_set_up(sc_cll.ScBERTClassifier), **asked
        ),
        "n_layers",
    ),
    "ScBERT.train": (
        lambda folder, **asked: pretrained(few_cells()).train(1, **asked),
        "mask_fraction",
    ),
    "ScBERTClassifier.train": (
        lambda folder, **asked: from_scratch(few_cells()).train(1, **asked),
        "token_drop",
    ),
    "ScBERTClassifier.from_pretrained": (
        lambda folder, **asked: sc_cll.ScBERTClassifier.from_pretrained(
            pretrained(few_cells()), labels_key="cd49d", **asked
        ),
        "dropout",
    ),
    "ScBERT.from_scbert_checkpoint": (
        lambda folder, **asked: checkpoint(sc_cll.ScBERT, folder, **asked),
        "dropout",
    ),
    "ScBERTClassifier.from_scbert_checkpoint": (
        lambda folder, **asked: checkpoint(
            sc_cll.ScBERTClassifier, folder, classes=["-", "+"], **asked
        ),
        "dropout",
    ),
    "ScBERT.from_corpus": (
        lambda folder, **asked: sc_cll.ScBERT.from_corpus(Corpus(), **asked),
        "n_layers",
    ),
    "ScBERTClassifier.from_corpus": (
        lambda folder, **asked: sc_cll.ScBERTClassifier.from_corpus(
            Corpus(), labels_key="cd49d", **asked
        ),
        "n_layers",
    ),
}


def cells_set_up(kind: Any) -> AnnData:
    adata = few_cells()
    kind.setup_anndata(
        adata, **({"labels_key": "cd49d"} if kind is sc_cll.ScBERTClassifier else {})
    )
    return adata


class Corpus:
    """As much of a corpus as a model asks of it before its network is made."""

    genes = pd.Index([f"{i}" for i in range(10)])
    without_cells = AnnData(var=pd.DataFrame(index=genes))
    binning = property(lambda self: few_cells().uns["binned"])

    def classes(self, labels_key: str) -> list[str]:
        return ["-", "+"]


def public() -> Iterator[tuple[str, Any]]:
    """Functions, classes and their own methods, by the name under which they are public."""
    for room in ("datasets", "estimators", "get", "io", "model", "pl", "pp", "tl", "vocab"):
        held = getattr(sc_cll, room)
        for name in getattr(held, "__all__", [n for n in dir(held) if not n.startswith("_")]):
            thing = getattr(held, name)
            if not str(getattr(thing, "__module__", "")).startswith("scbert_cll"):
                continue
            yield (name if inspect.isclass(thing) else f"{room}.{name}"), thing
            if inspect.isclass(thing):
                for method, found in inspect.getmembers(thing, callable):
                    own = str(getattr(found, "__module__", "")).startswith("scbert_cll")
                    if own and not method.startswith("_"):
                        yield f"{name}.{method}", found


def test_all_that_take_more_than_they_list_are_here() -> None:
    found = set()
    for name, thing in public():
        try:
            parameters = inspect.signature(thing).parameters.values()
        except (TypeError, ValueError):
            continue
        if any(p.kind == p.VAR_KEYWORD for p in parameters):
            found.add(name)
    assert found == set(OPEN)


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a training began")

    monkeypatch.setattr("scbert_cll.model.training.fit.Rehearsal.forecast", fails)


@pytest.mark.parametrize("name", list(OPEN))
@pytest.mark.usefixtures("nothing_runs")
def test_a_letter_too_many_is_refused_with_the_nearest_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, argument = OPEN[name]
    with pytest.raises(TypeError, match=rf"'{argument}s'.*[dD]id you mean '{argument}'"):
        call(tmp_path, **{f"{argument}s": 1})


@pytest.mark.parametrize("habit", list(HABITS))
@pytest.mark.parametrize(
    "name", ["tl.pretrain", "tl.finetune", "ScBERT.train", "ScBERTClassifier.train"]
)
@pytest.mark.usefixtures("nothing_runs")
def test_words_of_other_packages_are_understood(name: str, habit: str, tmp_path: Path) -> None:
    with pytest.raises(
        TypeError, match=rf"has no argument '{habit}' .did you mean '{HABITS[habit]}'"
    ):
        OPEN[name][0](tmp_path, **{habit: 1})


@pytest.mark.parametrize("verb", [sc_cll.tl.pretrain, sc_cll.tl.finetune])
@pytest.mark.usefixtures("nothing_runs")
def test_a_choice_of_the_network_too_and_the_object_stays(verb: Callable[..., Any]) -> None:
    adata = few_cells()
    before = adata.copy()
    with pytest.raises(
        TypeError, match=r"The network has no argument 'n_layer' .did you mean 'n_layers'"
    ):
        verb(adata, network={"n_layer": 2})
    with pytest.raises(TypeError, match="'early_stopping_patience'"):
        verb(adata, patience=3)
    assert set(adata.uns) == set(before.uns)
    assert adata.obs.equals(before.obs)


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ({"network": {"n_layer": 2}}, "n_layers"),
        ({"train": {"learning_rate": 0.1}}, "lr"),
        ({"train": {"token_drops": 0}}, "token_drop"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.usefixtures("nothing_runs")
def test_estimators_too_before_the_first_fold(
    asked: dict[str, Any], nearest: str, wrapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = ScBERTEstimator(**asked)
    adata = few_cells()
    with pytest.raises(TypeError, match=f"did you mean '{nearest}'"):
        model.fit(adata, adata.obs["cd49d"])
    monkeypatch.setattr(
        sc_cll.estimators.OnMatrix, "fit", None
    )  # the first of the models is not begun
    with pytest.raises(TypeError, match=f"did you mean '{nearest}'"):
        sc_cll.tl.cross_validate(
            adata, models={"first": "logistic_l2", "own": Resampled(model) if wrapped else model}
        )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--more.max_epoch", "3"],
            "--more has no argument 'max_epoch' (did you mean 'max_epochs'?)",
        ),
        (["--more.learning_rate", "0.1"], "'learning_rate' (did you mean 'lr'?)"),
        (
            ["--network.n_layer", "2"],
            "The network has no argument 'n_layer' (did you mean 'n_layers'?)",
        ),
        (["--network.n_genes", "2"], "The network has no argument 'n_genes'"),
    ],
)
@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_the_command_line_before_it_reads_a_cell(
    command: str, options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file does not exist: what is said first is the name."""
    code = main([command, str(tmp_path / "none.h5ad"), "--out", str(tmp_path / "model"), *options])
    assert code == 2
    assert said in capsys.readouterr().err


def test_what_exists_is_taken() -> None:
    adata = few_cells()
    quiet = {"accelerator": "cpu", "enable_progress_bar": False, "batch_size": 8}
    model = sc_cll.tl.pretrain(
        adata, network=NETWORK, max_epochs=1, gradient_clip_val=1.0, weight_decay=0.1, **quiet
    )
    assert isinstance(model.module, Performer)
