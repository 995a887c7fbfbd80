"""Sharing models: what is published, what is read, and what the card says. Hugging Face is a folder
here.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from huggingface_hub import ModelCard, errors
from huggingface_hub.utils import filter_repo_objects
from scvi.hub import HubModel

from scbert_cll import pp, tl
from scbert_cll.estimators import ScBERTEstimator
from scbert_cll.model import ScBERT, ScBERTClassifier
from scbert_cll.model.exchange import folder as exchange_folder

PAGE = Path(__file__).parents[3] / "docs" / "sharing.md"
MODEL = {"config.json", "vocab.txt", "history.csv", "weights.safetensors"}
CLASSIFIER = MODEL | {"labels.json", "linear.safetensors"}
BESIDE = {"README.md", "_scvi_required_metadata.json"}
REPO = "our-lab/cll-cd49d"


class Hub:
    """Repositories as folders, with the answers of huggingface_hub."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.private: dict[str, bool] = {}
        self.calls: list[tuple[str, Any]] = []
        self.status: int | None = None  # what every request is answered with

    def repo(self, repo_id: str, revision: str | None = None) -> Path:
        return self.place / "hub" / repo_id / (revision or "main")

    def _answer(self, repo_id: str, revision: str | None = None) -> None:
        response: Any = SimpleNamespace(status_code=self.status or 404, headers={}, request=None)
        if self.status is not None:
            raise errors.HfHubHTTPError("refused", response=response)
        if repo_id not in self.private:
            raise errors.RepositoryNotFoundError("no such repository", response=response)
        if not self.repo(repo_id, revision).is_dir():
            raise errors.RevisionNotFoundError("no such revision", response=response)

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        if self.status is None and exist_ok:
            self.private.setdefault(repo_id, private)
            self.repo(repo_id).mkdir(parents=True, exist_ok=True)
        self._answer(repo_id)

    def model_info(self, repo_id: str) -> SimpleNamespace:
        return SimpleNamespace(private=self.private[repo_id])

    def create_branch(self, repo_id: str, *, branch: str, exist_ok: bool) -> None:
        self.repo(repo_id, branch).mkdir(exist_ok=exist_ok)

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, revision: str | None, **kw: Any
    ) -> SimpleNamespace:
        self._answer(repo_id, revision)
        there, new = self.repo(repo_id, revision), [f.name for f in folder_path.iterdir()]
        new = list(filter_repo_objects(new, allow_patterns=kw["allow_patterns"]))
        for name in filter_repo_objects(
            [f.name for f in there.iterdir()], allow_patterns=kw["delete_patterns"]
        ):
            (there / name).unlink()
        for name in new:
            shutil.copy(folder_path / name, there / name)
        self.calls.append(("upload", kw["commit_message"]))
        return SimpleNamespace(commit_url=f"hub/{repo_id}/commit/{len(self.calls)}")

    def list_repo_files(
        self, repo_id: str, *, revision: str | None, token: str | None
    ) -> list[str]:
        return sorted(file.name for file in self.repo(repo_id, revision).iterdir())

    def snapshot_download(
        self,
        repo_id: str,
        *,
        allow_patterns: Any = None,
        revision: str | None = None,
        token: str | None = None,
    ) -> str:
        self._answer(repo_id, revision)
        self.calls.append(("download", token))
        cache = self.place / "cache" / repo_id / (revision or "main")
        shutil.rmtree(cache, ignore_errors=True)
        for file in filter_repo_objects(
            list(self.repo(repo_id, revision).iterdir()),
            allow_patterns=allow_patterns,
            key=lambda f: f.name,
        ):
            cache.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, cache)
        return str(cache)

    def downloaded(self, repo_id: str) -> set[str]:
        return {file.name for file in (self.place / "cache" / repo_id / "main").iterdir()}


def as_called(real: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    """`ours`, where `real` would take the call."""

    def call(*args: Any, **kwargs: Any) -> Any:
        inspect.signature(real).bind(*args, **kwargs)
        return ours(*args, **kwargs)

    return call


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Hub:
    found = Hub(tmp_path)
    for name in ("create_repo", "model_info", "create_branch", "upload_folder", "list_repo_files"):
        real, ours = getattr(huggingface_hub.HfApi, name), getattr(found, name)
        monkeypatch.setattr(
            huggingface_hub.HfApi,
            name,
            as_called(real, lambda _, *a, ours=ours, **kw: ours(*a, **kw)),
        )
    download = as_called(huggingface_hub.snapshot_download, found.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    return found


@pytest.fixture(scope="module")
def evaluated(simulate) -> dict[str, Any]:
    """What tl.cross_validate writes."""
    adata = simulate()
    small = {
        "pretrain_epochs": 0,
        "max_epochs": 1,
        "accelerator": "cpu",
        "gene_embedding": "learned",
    }
    models = {
        "majority": "majority",
        "scbert": ScBERTEstimator(network={"n_hidden": 8, "n_heads": 2}, **small),
    }
    shape = {"scheme": "group_kfold", "n_splits": 2, "n_repeats": 1, "n_bootstrap": 20}
    tl.cross_validate(
        adata, labels_key="label", models=models, metrics=("macro_f1", "kappa_quadratic"), **shape
    )
    return adata.uns["cv"]


def card_of(model: Any, folder: Path, **choices: Any) -> ModelCard:
    model.save_for_hub(folder, **choices)
    return ModelCard.load(folder / "README.md")


def section(card: ModelCard, title: str) -> str:
    return re.split(r"^## ", card.text.partition(f"## {title}\n")[2], flags=re.MULTILINE)[0]


# ---- there and back


def test_a_published_model_says_the_same(model, hub, new_cells, answers):
    address = model.push_to_hub(REPO)
    assert address == f"hub/{REPO}/commit/1"
    assert hub.private[REPO]
    loaded = type(model).from_pretrained(REPO, new_cells, accelerator="cpu")
    found, expected = answers(loaded), answers(model, new_cells)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_only_the_files_of_a_model_go_and_come(classifier, hub):
    classifier.push_to_hub(REPO)
    there = hub.repo(REPO)
    assert {file.name for file in there.iterdir()} == CLASSIFIER | BESIDE
    for name in ("pytorch_model.bin", "model.pkl", "model.pt", "cells.h5ad"):
        (there / name).write_bytes(b"anything")
    ScBERTClassifier.from_pretrained(REPO, accelerator="cpu")
    assert hub.downloaded(REPO) == CLASSIFIER


def test_what_an_earlier_model_left_is_taken_away(classifier, scbert, hub):
    classifier.push_to_hub(REPO)
    (hub.repo(REPO) / "figure.png").touch()
    scbert.push_to_hub(REPO, commit_message="another")
    assert {file.name for file in hub.repo(REPO).iterdir()} == MODEL | BESIDE | {"figure.png"}
    assert ScBERT.from_pretrained(REPO, accelerator="cpu").genes.equals(scbert.genes)
    assert hub.calls[1] == ("upload", "another")


def test_a_revision_is_a_branch_of_its_own(scbert, classifier, hub):
    scbert.push_to_hub(REPO)
    classifier.push_to_hub(REPO, revision="v2")
    assert isinstance(ScBERT.from_pretrained(REPO), ScBERT)
    assert ScBERTClassifier.from_pretrained(REPO, revision="v2", token="secret").classes == [  # noqa: S106
        "a",
        "b",
    ]
    assert hub.calls[-1] == ("download", "secret")


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_is_loaded_without_network(kind, scbert, classifier, hub, new_cells):
    hub.status = 403
    scbert.save("our-lab/scbert")
    classifier.save("our-lab/classifier")
    assert ScBERT.from_pretrained(kind("our-lab/scbert")).is_trained
    loaded = ScBERTClassifier.from_pretrained(kind("our-lab/classifier"), labels_key="label")
    assert np.array_equal(
        loaded.predict(new_cells, soft=True), classifier.predict(new_cells, soft=True)
    )
    with pytest.raises(FileNotFoundError, match="There is no model folder nowhere"):
        ScBERT.from_pretrained(kind("nowhere"))


def test_a_published_scbert_starts_a_classifier(scbert, hub, adata):
    scbert.push_to_hub(REPO)
    with pytest.raises(TypeError, match="A new classifier needs labels_key="):
        ScBERTClassifier.from_pretrained(REPO, adata)
    started, expected = (
        ScBERTClassifier.from_pretrained(
            start, adata, labels_key="label", accelerator="cpu", head="pool"
        )
        for start in (REPO, scbert)
    )
    assert not started.is_trained
    found = started.module.state_dict()
    assert all(
        np.array_equal(found[name], tensor) for name, tensor in expected.module.state_dict().items()
    )


def test_a_classifier_remembers_which_genes_its_start_has_not_seen(adata, pretrain, tmp_path):
    started = ScBERTClassifier.from_pretrained(
        pretrain(adata, 1, setup={"exclude_genes": ["G3"]}), labels_key="label"
    )
    assert "Left out on purpose: `G3`." in section(card_of(started, tmp_path / "model"), "Genes")
    loaded = ScBERTClassifier.load(tmp_path / "model")
    assert "G3" not in loaded.genes
    assert len(loaded.genes) == 59


# ---- refused


def test_a_repository_of_another_kind_is_refused(scbert, classifier, hub):
    hub.create_repo(REPO, private=False, exist_ok=True)
    (hub.repo(REPO) / "pytorch_model.bin").touch()
    with pytest.raises(
        ValueError,
        match=r"holds no model of scbert_cll: expected a config.json .* holds 'pytorch_model",
    ):
        ScBERT.from_pretrained(REPO)
    (hub.repo(REPO) / "config.json").write_text('{"architectures": ["BertModel"]}')
    for cls in (ScBERT, ScBERTClassifier):
        with pytest.raises(
            ValueError, match=r"says format = 'scbert_cll model'; .* holds 'config.json', 'pytorch_"
        ):
            cls.from_pretrained(REPO)
    classifier.push_to_hub("our-lab/classifier")
    with pytest.raises(
        ValueError,
        match="our-lab/classifier holds a ScBERTClassifier, not a ScBERT; use ScBERTClassifier",
    ):
        ScBERT.from_pretrained("our-lab/classifier")
    with pytest.raises(
        TypeError, match="holds a classifier, whose network is as it is: leave out 'head'"
    ):
        ScBERTClassifier.from_pretrained("our-lab/classifier", head="pool")
    with pytest.raises(ValueError, match="holds a classifier of 'label', found labels_key='cd49d'"):
        ScBERTClassifier.from_pretrained("our-lab/classifier", labels_key="cd49d")


def test_a_newer_or_damaged_model_is_refused(scbert, hub):
    scbert.push_to_hub(REPO)
    (hub.repo(REPO) / "vocab.txt").write_text("G1\n")
    with pytest.raises(ValueError, match=r"vocab.txt is damaged or missing"):
        ScBERT.from_pretrained(REPO)
    config = json.loads((hub.repo(REPO) / "config.json").read_text())
    newer = config | {"format_version": exchange_folder.FORMAT_VERSION + 1}
    (hub.repo(REPO) / "config.json").write_text(json.dumps(newer))
    with pytest.raises(ValueError, match="written by a newer scbert_cll"):
        ScBERT.from_pretrained(REPO)


def test_what_hugging_face_answers_is_explained(scbert, hub, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match=r"does not exist, or is private\. Remedy: .* pass token="
    ):
        ScBERT.from_pretrained(REPO)
    scbert.push_to_hub(REPO)
    with pytest.raises(
        FileNotFoundError, match="has no revision 'v9': expected a branch, tag or commit"
    ):
        ScBERT.from_pretrained(REPO, revision="v9")
    for hub.status in (401, 403):
        with pytest.raises(
            PermissionError, match=rf"refused access to {REPO} \({hub.status}\)\. Remedy: "
        ):
            scbert.push_to_hub(REPO)
    hub.status = 500
    with pytest.raises(errors.HfHubHTTPError, match="refused"):
        scbert.push_to_hub(REPO)

    def unreachable(*_: Any, **__: Any) -> None:
        raise errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(
        ConnectionError,
        match="was not downloaded before, and Hugging Face cannot be reached: no network",
    ):
        ScBERT.from_pretrained(REPO)


def test_nothing_becomes_public_by_mistake(scbert, hub):
    hub.create_repo(REPO, private=False, exist_ok=True)
    with pytest.raises(
        ValueError,
        match=r"is public\. To publish the model there for everybody, pass private=False",
    ):
        scbert.push_to_hub(REPO)
    assert not list(hub.repo(REPO).iterdir())
    scbert.push_to_hub(REPO, private=False)
    assert {file.name for file in hub.repo(REPO).iterdir()} == MODEL | BESIDE


@pytest.mark.parametrize("path", ["/home/me/counts", r"C:\Users\me\counts"])
def test_no_path_of_the_machine_is_published(path, adata, hub):
    adata.layers[path], adata.uns[path] = adata.layers["binned"], adata.uns["binned"]
    ScBERT.setup_anndata(adata, layer=path)
    model = ScBERT(adata, gene_embedding="learned")
    with pytest.raises(
        ValueError, match=r"config.json would publish paths of this machine: 'setup.layer'"
    ):
        model.push_to_hub(REPO)
    assert not hub.private


def test_what_an_evaluation_would_publish_is_named(classifier, evaluated, tmp_path):
    params = evaluated["params"] | {"baselines": ["majority", "/home/me/old"]}
    with pytest.raises(
        ValueError, match=r"card of .* would publish paths of this machine: 'evaluation.baselines'"
    ):
        classifier.save_for_hub(tmp_path / "m", evaluation=evaluated | {"params": params})
    assert not (tmp_path / "m").exists()


def test_without_the_library_it_says_how_to_get_it(scbert, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for ask in (
        lambda: scbert.push_to_hub(REPO),
        lambda: scbert.save_for_hub(tmp_path / "m"),
        lambda: ScBERT.from_pretrained(REPO),
    ):
        with pytest.raises(
            ImportError,
            match=r"huggingface_hub, which is not installed: pip install 'scbert-cll\[hub\]'",
        ):
            ask()


def test_a_card_is_never_replaced(scbert, tmp_path):
    scbert.save_for_hub(tmp_path / "model")
    (tmp_path / "model" / "README.md").write_text("edited")
    with pytest.raises(FileExistsError, match="a card in it may have been edited"):
        scbert.save_for_hub(tmp_path / "model")
    with pytest.raises(FileExistsError, match=r"files that are not a model's"):
        scbert.save(tmp_path / "model", overwrite=True)


# ---- the card


def test_the_card_has_the_scores_and_no_others(classifier, evaluated, tmp_path):
    card = card_of(
        classifier, tmp_path / "model", repo_id=REPO, evaluation=evaluated, license="cc-by-4.0"
    )
    assert (card.data.library_name, card.data.license) == ("scbert_cll", "cc-by-4.0")
    assert {"single-cell", "model_cls_name:ScBERTClassifier"} <= set(card.data.tags)
    summary = evaluated["summary"].set_index(["model", "metric"])
    best = summary.loc["scbert", "macro_f1"]
    assert card.data.model_name == "cll-cd49d"
    assert [(r.metric_type, r.metric_value) for r in card.data.eval_results] == [
        ("macro_f1", round(best["estimate"], 4))
    ]
    text = section(card, "Evaluation")
    assert (
        "Donors were held out (`group_kfold`, 6 donors): no cell was scored by a model that "
        "had seen its donor" in text
    )
    assert "95 % intervals (bootstrap over donors)" in text
    cells = [
        f"{row['estimate']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
        for _, row in summary.loc[(slice(None), "macro_f1"), :].iterrows()
    ]
    assert f"| macro_f1 | {' | '.join(cells)} |" in text
    assert f"| kappa_quadratic | {' | '.join('–' for _ in cells)} |" in text


def test_scores_of_cells_of_known_donors_are_called_so(classifier, evaluated, tmp_path):
    by_cell = evaluated | {"params": evaluated["params"] | {"scheme": "random_cell"}}
    text = section(card_of(classifier, tmp_path / "model", evaluation=by_cell), "Evaluation")
    assert "**Donors were not held out**" in text
    assert "say nothing of other patients" in text


def test_where_two_models_might_be_meant_the_index_has_neither(classifier, evaluated, tmp_path):
    twice = evaluated | {
        "params": evaluated["params"] | {"models": ["majority", "scbert", "scbert_other"]}
    }
    card = card_of(classifier, tmp_path / "model", evaluation=twice)
    assert card.data.eval_results is None
    assert "macro_f1" in section(card, "Evaluation")


def test_without_an_evaluation_the_card_claims_none(model, tmp_path):
    card = card_of(model, tmp_path / "model")
    assert card.data.eval_results is None
    assert card.data.metrics is None
    assert card.data.license is None
    assert "how it does on other donors is not known" in section(card, "Evaluation")
    assert "Not said" in section(card, "Licence")
    assert "**Not for clinical use**" in section(card, "Intended use")


def test_the_card_says_what_the_model_is(scbert, classifier, tmp_path):
    card = card_of(classifier, tmp_path / "classifier")
    assert "by `label`: `a`, `b`." in card.text
    assert "| n_hidden | 16 |" in section(card, "Network")
    assert "| target_sum | 300.0 |" in section(card, "Binning")
    assert "60 genes, all in `vocab.txt`; the first are `G0`, `G1`" in section(card, "Genes")
    assert f"(C = {classifier.linear_.strength:g})" in section(card, "Training")
    assert "cells that are none of them" in section(card, "Limits")
    assert "*ITGA4*, the gene of CD49d, is not among its genes" in section(card, "Limits")
    card = card_of(scbert, tmp_path / "scbert")
    history = section(card, "Training")
    for name in ("masked_accuracy_validation", "majority_accuracy_validation"):
        assert f"| {name} | {scbert.history[name].iloc[-1, 0]:.3f} |" in history
    assert "what is not above it is not learned" in history
    assert "Every cell gets one of its classes" not in card.text


@pytest.mark.parametrize("gene", ["ITGA4", "Itga4", "GRCh38_ITGA4"])
def test_the_card_of_an_untrained_model_says_so(gene, adata, tmp_path):
    adata.var_names = [gene, "A|B", *adata.var_names[2:]]
    ScBERT.setup_anndata(adata)
    card = card_of(ScBERT(adata, gene_embedding="learned"), tmp_path / "model")
    assert "**It has not been trained: its weights are random.**" in card.text
    assert "no training history" in section(card, "Training")
    assert f"*{gene}*, the gene of CD49d, is among its genes" in section(card, "Limits")


def test_learned_edges_are_named(adata, tmp_path):
    pp.bin_expression(adata, method="gene_quantile")
    ScBERT.setup_anndata(adata)
    model = ScBERT(adata, gene_embedding="learned")
    assert "learned gene by gene (`edges.csv`)" in section(
        card_of(model, tmp_path / "model"), "Binning"
    )


def test_an_evaluation_of_something_else_is_refused(scbert, classifier, evaluated, tmp_path):
    folder = tmp_path / "model"
    with pytest.raises(
        TypeError, match=r"evaluation must be what tl.cross_validate wrote, .*; found DataFrame"
    ):
        classifier.save_for_hub(folder, evaluation=evaluated["summary"])
    with pytest.raises(
        ValueError, match="it lacks 'params', 'classes', 'unit', 'n_units', and holds 'summary'"
    ):
        classifier.save_for_hub(folder, evaluation={"summary": evaluated["summary"]})
    with pytest.raises(
        ValueError, match=r"is of the classes 'x', 'y', and the model names 'a', 'b'"
    ):
        classifier.save_for_hub(folder, evaluation=evaluated | {"classes": np.array(["x", "y"])})
    with pytest.raises(
        ValueError, match="A ScBERT names no classes, so evaluation= says nothing about it"
    ):
        scbert.save_for_hub(folder, evaluation=evaluated)
    assert not folder.exists()


@pytest.mark.parametrize("kind", ["scbert", "classifier"])
def test_the_code_of_the_card_runs(kind, request, hub, new_cells):
    model = request.getfixturevalue(kind)
    model.push_to_hub(REPO)
    AnnData(new_cells.X, obs=new_cells.obs, var=new_cells.var[::-1]).write_h5ad("cells.h5ad")
    card = ModelCard.load(hub.repo(REPO) / "README.md")
    names: dict[str, Any] = {}
    exec(re.search(r"```python\n(.*?)```", card.text, re.DOTALL)[1], names)  # noqa: S102
    assert names["adata"].obsm["X_scbert"].shape == (40, 16)
    assert ("scbert_pred" in names["adata"].obs) == (kind == "classifier")


# ---- scvi-tools' hub, and the page


def test_hub_model_of_scvi_tools_loads_it(model, tmp_path, new_cells, answers):
    model.save_for_hub(tmp_path / "model")
    found = HubModel(str(tmp_path / "model"))
    assert found.metadata.model_cls_name == type(model).__name__
    assert found.model_card.data.library_name == "scbert_cll"
    found.load_model(adata=new_cells, accelerator="cpu")
    assert type(found.model) is type(model)
    expected = answers(model, new_cells)
    assert all(
        np.array_equal(value, expected[name]) for name, value in answers(found.model).items()
    )


def test_the_page_runs(classifier, evaluated, adata, new_cells, hub):
    adata.uns["cv"] = evaluated
    counts = AnnData(new_cells.X, obs=new_cells.obs, var=new_cells.var)
    names: dict[str, Any] = {"model": classifier, "adata": adata, "new_counts": counts}
    text = PAGE.read_text()
    for block in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        exec(block, names)  # noqa: S102
    assert "scbert_pred" in names["cells"].obs
    pd.testing.assert_series_equal(
        names["hub_model"].model.predict(), classifier.predict(names["cells"])
    )
    table = set(re.findall(r"^\| `([\w.]+)`", text, re.MULTILINE))
    assert table == CLASSIFIER | BESIDE | {"edges.csv"}
    assert {file.name for file in Path("cll_cd49d").iterdir()} == CLASSIFIER | BESIDE
