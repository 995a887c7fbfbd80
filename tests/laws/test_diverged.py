"""A training that diverges is not a training: it says where, keeps the best epoch before, and
nothing non-finite is used, saved or loaded.
"""

from __future__ import annotations

import inspect
import json
import re
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from safetensors.torch import load_file, save_file
from sklearn.base import BaseEstimator, ClassifierMixin

import scbert_cll as sc_cll
from scbert_cll import pp, tl
from scbert_cll._disk.formats import sealed, sha256
from scbert_cll.estimators import ScBERTEstimator
from scbert_cll.model import CorpusData, ScBERT, ScBERTClassifier
from scbert_cll.model.training.callbacks import StopWhereNotFinite
from scbert_cll.model.training.checkpoints import WholeCheckpoints
from scbert_cll.model.training.options import Fit
from scbert_cll.model.training.plans import Plan
from tests import _make

NETWORK: dict[str, Any] = {"n_hidden": 8, "n_layers": 1, "n_heads": 2}
QUIET: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False}
FAST: dict[str, Any] = {"max_epochs": 2, "batch_size": 64, "network": NETWORK} | QUIET
NOT_FINITE = (np.nan, np.inf, -np.inf)
EPOCHS = 4


def simulated() -> AnnData:
    """160 cells of eight donors; ten genes tell the class."""
    adata = _make.cells(160, 40, n_donors=8, planted=10, fold=3, binned=True)
    tl.gene2vec(adata, n_dims=8)
    return adata


@pytest.fixture(scope="module")
def world() -> AnnData:
    """The cells; not to be changed."""
    return simulated()


@pytest.fixture
def adata(world: AnnData) -> AnnData:
    """Cells of one's own."""
    return world.copy()


@pytest.fixture(scope="module")
def corpus(world: AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same cells on disk."""
    folder = tmp_path_factory.mktemp("corpus")
    paths = []
    for number, donors in enumerate((("P0", "P1", "P2", "P3"), ("P4", "P5", "P6", "P7"))):
        part = AnnData(world.X.copy(), obs=world.obs.copy(), var=world.var.copy())
        part = part[part.obs["donor"].isin(donors)].copy()
        paths.append(folder / f"{number}.h5ad")
        part.write_h5ad(paths[-1])
    out = folder / "corpus.zarr"
    pp.build_corpus(
        paths,
        out,
        vocab=list(world.var_names),
        obs_columns=["cd49d"],
        val_fraction=0.25,
        memory="1MB",
    )
    return out


def untrained(kind: str, adata: AnnData, **network: Any) -> Any:
    """A model of the cells."""
    if kind == "ScBERT":
        ScBERT.setup_anndata(adata)
        return ScBERT(adata, **NETWORK | network)
    ScBERTClassifier.setup_anndata(adata, labels_key="cd49d")
    return ScBERTClassifier(adata, **NETWORK | network)


def weights_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def is_finite(model: Any) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in weights_of(model).values())


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def slots(adata: AnnData) -> dict[str, list[str]]:
    return {
        slot: sorted(map(str, getattr(adata, slot)))
        for slot in ("obs", "obsm", "var", "varm", "layers", "uns", "obsp")
    }


class Poison(L.Callback):
    """One weight is no number from the first (or behind the last) step of an epoch on, the first
    epoch being 1.
    """

    def __init__(
        self, epoch: int, weight: str = "token_embedding.weight", *, last: bool = False
    ) -> None:
        self.epoch, self.weight, self.last = epoch, weight, last

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Before a step."""
        if not self.last and trainer.current_epoch + 1 == self.epoch and batch_idx == 0:
            self._spoil(pl_module)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Behind the last step, whose loss is fine."""
        if (
            self.last
            and trainer.current_epoch + 1 == self.epoch
            and batch_idx + 1 == trainer.num_training_batches
        ):
            self._spoil(pl_module)

    def _spoil(self, plan: Any) -> None:
        with torch.no_grad():
            plan.module.get_parameter(self.weight).view(-1)[:] = torch.nan


# ---- what is not finite is named before anything runs

GENE_VECTORS: dict[str, Callable[[AnnData], Any]] = {
    "tl.finetune": lambda a: tl.finetune(a, **FAST),
    "tl.pretrain": lambda a: tl.pretrain(a, **FAST),
    "ScBERT": lambda a: untrained("ScBERT", a),
    "ScBERTClassifier": lambda a: untrained("ScBERTClassifier", a),
}


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("name", GENE_VECTORS)
def test_gene_vectors_that_are_not_finite_are_refused_by_name(adata, name, value):
    """And the remedy, as it is printed, works."""
    adata.varm["gene2vec"] = np.array(adata.varm["gene2vec"])
    adata.varm["gene2vec"][5, 3] = value
    before = slots(adata)
    with pytest.raises(
        ValueError, match=r"adata\.varm\['gene2vec'\].*no finite numbers for 1 genes: 'G5'"
    ) as told:
        GENE_VECTORS[name](adata)
    assert slots(adata)["obsm"] == before["obsm"]
    remedy = re.search(r"adata\.varm\['gene2vec'\] = .*\)(?=\.$)", str(told.value))
    assert remedy is not None
    exec(remedy[0], {"adata": adata, "np": np})  # noqa: S102
    GENE_VECTORS[name](adata)


def test_gene_vectors_of_a_gene_that_is_not_seen_do_not_matter(adata):
    """A gene that is left out has no vector in the network."""
    adata.varm["gene2vec"] = np.array(adata.varm["gene2vec"])
    adata.varm["gene2vec"][5, 3] = np.nan
    ScBERT.setup_anndata(adata, exclude_genes=["G5"])
    assert is_finite(ScBERT(adata, **NETWORK))


@pytest.mark.parametrize("value", NOT_FINITE)
def test_gene_vectors_for_a_corpus_are_refused_by_name(corpus, world, value):
    vectors = pd.DataFrame(np.array(world.varm["gene2vec"]), index=world.var_names)
    vectors.iloc[7, 0] = value
    with pytest.raises(
        ValueError, match=r"gene_vectors .*no finite numbers for 1 genes: 'G7'"
    ) as told:
        tl.pretrain(corpus, gene_vectors=vectors, **FAST)
    remedy = re.search(r"(?<=gene_vectors = ).*\)(?=\.$)", str(told.value))
    assert remedy is not None
    mended = eval(remedy[0], {"gene_vectors": vectors, "np": np})  # noqa: S307
    assert is_finite(tl.pretrain(corpus, gene_vectors=mended, **FAST))


TRAININGS: dict[str, Callable[[AnnData, dict[str, Any]], Any]] = {
    "tl.finetune": lambda a, asked: tl.finetune(a, **FAST | asked),
    "tl.pretrain": lambda a, asked: tl.pretrain(a, **FAST | asked),
    "ScBERT": lambda a, asked: untrained("ScBERT", a).train(2, **QUIET | asked),
    "ScBERTClassifier": lambda a, asked: untrained("ScBERTClassifier", a).train(2, **QUIET | asked),
    "estimator": lambda _, asked: ScBERTEstimator(train=asked).check(),
}


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
@pytest.mark.parametrize("name", ["lr", "weight_decay", "gradient_clip_val"])
@pytest.mark.parametrize("verb", TRAININGS)
def test_numbers_that_cannot_train_are_refused_by_name(adata, verb, name, value):
    if name == "gradient_clip_val" and value == np.inf:
        pytest.skip("clips nothing, as PyTorch has it")
    with pytest.raises(ValueError, match=rf"{name} must be a number from 0 to .*found"):
        TRAININGS[verb](adata, {name: value})


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_of_cells_are_refused_by_name(adata, value):
    adata.obs["weight"] = 1.0
    adata.obs.loc["cell0", "weight"] = value
    with pytest.raises(ValueError, match=r"adata\.obs\['weight'\] must hold finite weights"):
        tl.finetune(adata, weight_key="weight", **FAST)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_proteins_that_are_not_finite_are_left_out_by_name(adata, value):
    level = np.random.default_rng(0).poisson(5.0, (adata.n_obs, 3)).astype(float)
    level[4, 1] = value
    adata.obsm["protein"] = pd.DataFrame(
        level, index=adata.obs_names, columns=["CD5", "CD19", "CD20"]
    )
    with pytest.warns(UserWarning, match="CD19"):
        model = tl.finetune(adata, protein_key="protein", **FAST)
    assert is_finite(model)


@pytest.mark.parametrize("kind", ["ScBERT", "ScBERTClassifier"])
def test_a_network_that_is_not_finite_is_not_trained_on(adata, kind):
    model = untrained(kind, adata)
    with torch.no_grad():
        model.module.token_embedding.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"no finite numbers in 'token_embedding\.weight'"):
        model.train(2, **QUIET)
    assert not model.is_trained_


# ---- where it happens is said, and what was good is kept

KINDS = ["ScBERT", "ScBERTClassifier", "average", "residual"]


def train(kind: str, adata: AnnData, max_epochs: int = EPOCHS, **more: Any) -> tuple[Any, Any]:
    """A model and the error of its training, or None."""
    network = more.pop("network", {})
    model = untrained("ScBERT" if kind == "ScBERT" else "ScBERTClassifier", adata, **network)
    if kind in ("average", "residual"):
        more["combine"] = kind
    try:
        model.train(
            max_epochs, **{"split_key": "split", "batch_size": 32, "lr": 1e-3} | QUIET | more
        )
    except ValueError as error:
        return model, error
    return model, None


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_best_epoch_before_is_kept(adata, kind, early_stopping, last, tmp_path):
    """With its weights to the bit, though the weights went wrong behind the last step of all, or in
    the midst.
    """
    at = EPOCHS if last else 3
    how = {"early_stopping": early_stopping, "callbacks": [Poison(at, last=last)]}
    model, error = train(kind, adata, **how)
    assert isinstance(error, ValueError)
    assert re.search(rf"diverged .*in epoch {at}\b", str(error))
    assert error.model is model
    assert is_finite(model)
    assert model.is_trained_
    assert 0 <= model.kept_epoch_ < at
    assert max(int(frame.index.max()) for frame in model.history.values()) == at - 1
    losses = model.history["validation_loss"]["validation_loss"]
    if model.kept_epoch_:
        assert f"epoch {model.kept_epoch_}," in str(error)
        assert losses.idxmin() == model.kept_epoch_
    if model.kept_epoch_ and kind != "residual":  # residual ends with the best, too
        assert same(weights_of(model), stopped_behind(kind, model.kept_epoch_))
    model.save(tmp_path / "model")
    assert same(
        weights_of(model), weights_of(type(model).load(tmp_path / "model", accelerator="cpu"))
    )


@cache
def stopped_behind(kind: str, epoch: int) -> dict[str, torch.Tensor]:
    """Weights of a training that was ended after an epoch."""
    how = {"callbacks": [StopBehind(epoch)], "early_stopping": False}
    model, none = train(kind, simulated(), **how)
    assert none is None
    return weights_of(model)


class StopBehind(L.Callback):
    """End by Lightning's own means after an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop."""
        trainer.should_stop = trainer.current_epoch + 1 >= self.epoch


@pytest.mark.parametrize("kind", ["ScBERT", "ScBERTClassifier", "average"])
@pytest.mark.parametrize("lr", [1e3, 1e9, 1e30])
def test_a_learning_rate_that_is_too_large(adata, kind, lr):
    """Either the weights are finite, or the sentence says step, epoch, learning rate and remedy."""
    model, error = train(kind, adata, lr=lr, early_stopping=False)
    assert is_finite(model)
    if error is None:
        assert lr < 1e9
        return
    assert re.search(
        rf"at step \d+, in epoch \d+.*lr={re.escape(f'{lr:g}')}\).*smaller lr=.*gradient_clip_val=",
        str(error),
    )


def test_without_a_good_epoch_the_model_is_as_it_was(adata):
    """Untrained if it was untrained; the weights are those before, and nothing is predicted."""
    model = untrained("ScBERTClassifier", adata)
    before = weights_of(model)
    with pytest.raises(ValueError, match=r"at step 1, in epoch 1\b.*no good epoch before it"):
        model.train(3, split_key="split", combine="average", callbacks=[Poison(1)], **QUIET)
    assert same(before, weights_of(model))
    assert not model.is_trained_
    assert not model.history
    assert model.kept_epoch_ is None
    assert model.linear_ is None
    with pytest.raises(RuntimeError, match="not been trained"):
        model.predict()


@pytest.mark.parametrize("kind", ["ScBERT", "average"])
def test_a_trained_model_that_diverges_at_once_stays_as_it_was(adata, kind):
    """The logistic regression beside it, the history and the epoch that is kept among it."""
    model, _ = train(kind, adata, 2)
    before, kept, history = weights_of(model), model.kept_epoch_, len(model.history["train_loss"])
    answer = model.get_latent_representation()
    linear = getattr(model, "linear_", None)
    with pytest.raises(ValueError, match=rf"in epoch {history + 1}\b"):
        model.train(2, split_key="split", callbacks=[Poison(1)], **QUIET)
    assert same(before, weights_of(model))
    assert model.is_trained_
    assert (model.kept_epoch_, len(model.history["train_loss"])) == (kept, history)
    assert getattr(model, "linear_", None) is linear
    np.testing.assert_array_equal(model.get_latent_representation(), answer)


def test_a_weight_that_the_loss_does_not_read(adata):
    """A classifier's loss is fine when what guesses bins is not."""
    model, error = train("ScBERTClassifier", adata, callbacks=[Poison(2, "to_bins.bias")])
    assert "in epoch 2" in str(error)
    assert is_finite(model)
    assert model.kept_epoch_ == 1


@pytest.mark.parametrize("how", [{}, {"limit_val_batches": 0}, {"check_val_every_n_epoch": EPOCHS}])
@pytest.mark.parametrize("kind", ["ScBERT", "ScBERTClassifier"])
def test_without_validation_the_last_good_epoch_is_kept(adata, kind, how):
    """Whether no cell validates, or none did so far."""
    if not how:
        adata.obs["split"] = "train"
    model, error = train(kind, adata, callbacks=[Poison(3)], early_stopping=False, **how)
    assert "in epoch 3" in str(error)
    assert is_finite(model)
    assert model.is_trained_
    assert model.kept_epoch_ == 2


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("value", NOT_FINITE)
def test_a_validation_loss_that_is_not_finite(adata, monkeypatch, value, early_stopping):
    """Early stopping would end without a word, and minus infinity would be the best of all."""
    report = Plan.report

    def spoiled(self: Any, stage: str, n: int, *, loss: torch.Tensor, **metrics: Any) -> None:
        wrong = stage == "validation" and self.trainer.current_epoch == 1
        report(self, stage, n, loss=loss + value if wrong else loss, **metrics)

    monkeypatch.setattr(Plan, "report", spoiled)
    model, error = train("ScBERTClassifier", adata, early_stopping=early_stopping)
    assert re.search(r"in epoch 2\b.*validation loss", str(error))
    assert model.kept_epoch_ == 1
    assert list(model.history["validation_loss"].index) == [1]


@pytest.mark.parametrize(
    "how", [{"precision": "bf16-mixed"}, {"accumulate_grad_batches": 2}, {"max_steps": 9}]
)
def test_ways_to_train(adata, how):
    model, error = train("ScBERTClassifier", adata, callbacks=[Poison(2)], **how)
    assert "in epoch 2" in str(error)
    assert is_finite(model)


def test_a_loss_that_is_read_later_is_named_by_its_step(adata, monkeypatch, tmp_path):
    """As on a GPU, where reading a loss means to wait: the epoch goes on, and no checkpoint is
    written in it.
    """
    run = {"checkpoint_dir": tmp_path / "run", "checkpoint_steps": 1}
    _, error = train("ScBERTClassifier", adata, callbacks=[Poison(2)], batch_size=16)
    monkeypatch.setattr(StopWhereNotFinite, "_is_at_hand", lambda *_: False)
    model, later = train("ScBERTClassifier", adata, callbacks=[Poison(2)], batch_size=16)
    assert str(later) == str(error)
    _, later = train("ScBERTClassifier", adata, callbacks=[Poison(2)], batch_size=16, **run)
    assert later.step == error.step
    assert is_finite(model)


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_half_precision_on_a_cpu(adata, precision):
    """Where it is too little the sentence names it; the network has its own precision again."""
    model, error = train("average", adata, precision=precision)
    assert is_finite(model)
    if error is not None:
        assert "precision=None" in str(error)
        assert {
            tensor.dtype for tensor in weights_of(model).values() if tensor.is_floating_point()
        } == {torch.float32}


@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_on_a_corpus(corpus, kind):
    verb = getattr(tl, kind)
    network = {"network": NETWORK | ({"gene_embedding": "learned"} if kind == "finetune" else {})}
    more = {"labels_key": "cd49d"} if kind == "finetune" else {}
    with pytest.raises(ValueError, match=r"diverged at step \d+, in epoch 2\b") as told:
        verb(CorpusData(corpus), callbacks=[Poison(2)], **FAST | network | more)
    assert is_finite(told.value.model)
    assert told.value.model.kept_epoch_ == 1


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("verb", ["pretrain", "finetune"])
def test_verbs_leave_the_cells_as_they_were(adata, verb, epoch):
    before = slots(adata)
    with pytest.raises(ValueError, match="diverged") as told:
        getattr(tl, verb)(adata, callbacks=[Poison(epoch)], **FAST)
    assert slots(adata) == before
    assert is_finite(told.value.model)
    assert told.value.model.is_trained_ == (epoch == 2)


def test_cross_validation_says_which_model_and_fold(adata, tmp_path):
    """And no probabilities of such a fold are kept to be taken over."""
    raw = AnnData(adata.X, obs=adata.obs[["donor", "cd49d"]], var=adata.var[[]])
    arm = ScBERTEstimator(max_epochs=1, network=NETWORK, train={"lr": 1e30}, accelerator="cpu")
    before = slots(raw)
    with pytest.raises(ValueError, match="diverged") as told:
        tl.cross_validate(
            raw, models={"arm": arm}, n_splits=2, n_repeats=1, checkpoint=tmp_path / "folds"
        )
    assert "While cross-validating 'arm'" in told.value.__notes__[0]
    assert slots(raw) == before
    assert not list((tmp_path / "folds").rglob("*.np*"))


class NotANumber(ClassifierMixin, BaseEstimator):
    """Says NaN of every cell."""

    def fit(self, X: Any, y: Any) -> NotANumber:
        """Learn nothing."""
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Say so."""
        return np.full((X.shape[0], len(self.classes_)), np.nan)


def test_probabilities_of_any_model_are_finite(adata):
    raw = AnnData(adata.X, obs=adata.obs[["donor", "cd49d"]], var=adata.var[[]])
    before = slots(raw)
    with pytest.raises(ValueError, match=r"not finite for \d+ of \d+ test cells"):
        tl.cross_validate(raw, models={"arm": NotANumber()}, n_splits=2, n_repeats=1)
    assert slots(raw) == before


# ---- checkpoints of a training


def test_no_checkpoint_of_a_diverged_training_is_written(adata, tmp_path):
    run = {"checkpoint_dir": tmp_path / "run", "checkpoint_steps": 1}
    model, error = train("ScBERTClassifier", adata, callbacks=[Poison(2)], **run)
    assert re.search("another checkpoint_dir=", str(error))
    written = list((tmp_path / "run").glob("*.ckpt"))
    assert written
    for path in written:
        state = torch.load(path, weights_only=True)["state_dict"]
        assert all(bool(torch.isfinite(tensor).all()) for tensor in state.values())
    again, error = train(
        "ScBERTClassifier", adata, callbacks=[Poison(2)], **run
    )  # goes on from the newest
    assert "in epoch 2" in str(error)
    assert again.kept_epoch_ == 1
    assert same(weights_of(again), weights_of(model))


def test_a_checkpoint_that_is_not_finite_is_not_gone_on_from(adata, tmp_path):
    run = {"checkpoint_dir": tmp_path / "run", "checkpoint_steps": 2}
    train("ScBERTClassifier", adata, callbacks=[StopBehind(1)], **run)
    for path in (tmp_path / "run").glob("*.ckpt"):
        content = torch.load(path, weights_only=True)
        content["state_dict"]["module.token_embedding.weight"][:] = torch.nan
        WholeCheckpoints().save_checkpoint(content, path)
    model, error = train("ScBERTClassifier", adata, **run)
    assert re.search(
        r"step_\d+\.ckpt holds .*no finite numbers in 'module\.token_embedding\.weight'", str(error)
    )
    assert is_finite(model)
    assert not model.is_trained_


# ---- nothing non-finite is saved, loaded or used


@pytest.fixture(scope="module")
def trained(world: AnnData) -> dict[str, Any]:
    """A model of each kind; not to be changed."""
    return {kind: train(kind, world.copy(), 1)[0] for kind in ("ScBERT", "average")}


@pytest.mark.parametrize("kind", [sc_cll.ScBERT, sc_cll.ScBERTClassifier])
def test_the_default_that_the_sentence_names_is_the_default(kind: Any) -> None:
    assert inspect.signature(kind.train).parameters["lr"].default == Fit.lr


def spoiled(folder: Path, file: str, name: str, value: float) -> None:
    """Write a value into a saved tensor, with the right checksum, as a version before would have
    saved it.
    """
    tensors = load_file(folder / file)
    tensors[name].view(-1)[0] = value
    save_file(tensors, folder / file)
    config = json.loads((folder / "config.json").read_text())
    config["sha256"][file] = sha256(folder / file)
    (folder / "config.json").write_text(json.dumps(sealed(config)))


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize(
    ("kind", "file", "name"),
    [
        ("ScBERT", "weights.safetensors", "token_embedding.weight"),
        ("average", "weights.safetensors", "token_embedding.weight"),
        ("average", "linear.safetensors", "coefficients"),
        ("average", "linear.safetensors", "intercept"),
    ],
)
def test_a_folder_that_is_not_finite_is_not_loaded(trained, tmp_path, kind, file, name, value):
    model = trained[kind]
    model.save(tmp_path / "model")
    spoiled(tmp_path / "model", file, name, value)
    for read in (type(model).load, type(model).from_pretrained):
        with pytest.raises(ValueError, match=rf"{file} holds .*no finite numbers in '{name}'"):
            read(tmp_path / "model", accelerator="cpu")


def poisoned(
    trained: dict[str, Any], kind: str, tmp_path: Path, adata: AnnData, what: str = "network"
) -> Any:
    """A copy of a model that became not finite in memory, by whatever means."""
    trained[kind].save(tmp_path / "fine")
    model = type(trained[kind]).load(tmp_path / "fine", adata, accelerator="cpu")
    if what == "network":
        with torch.no_grad():
            model.module.token_embedding.weight[1:] = torch.nan
    else:
        model.linear_.intercept[:] = np.nan
    return model


@pytest.mark.parametrize(
    ("kind", "what"), [("ScBERT", "network"), ("average", "network"), ("average", "linear")]
)
def test_a_model_that_is_not_finite_is_not_saved(trained, adata, tmp_path, kind, what):
    model = poisoned(trained, kind, tmp_path, adata, what)
    name = "token_embedding.weight" if what == "network" else "intercept"
    with pytest.raises(ValueError, match=f"no finite numbers in '{name}'"):
        model.save(tmp_path / "model")
    with pytest.raises(ValueError, match=f"no finite numbers in '{name}'"):
        model.save(tmp_path / "fine", overwrite=True)
    assert not (tmp_path / "model").exists()
    assert is_finite(type(model).load(tmp_path / "fine", accelerator="cpu"))


def test_no_checkpoint_of_scbert_is_written_of_it(adata, tmp_path):
    model = untrained("ScBERT", adata, end_token=True, tokens="all", stabilizer="cell")
    with torch.no_grad():
        model.module.token_embedding.weight[0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"no finite numbers in 'token_embedding\.weight'"):
        model.to_scbert_checkpoint(tmp_path / "model.pth")
    assert not list(tmp_path.iterdir())


USES: dict[str, Callable[[Any, AnnData], Any]] = {
    "predict": lambda model, _: model.predict(),
    "get_latent_representation": lambda model, _: model.get_latent_representation(),
    "get_cell_attention": lambda model, _: model.get_cell_attention(),
    "get_attention_floor": lambda model, _: model.get_attention_floor(),
    "tl.predict": lambda model, a: tl.predict(a, model),
    "tl.gene_attention": lambda model, a: tl.gene_attention(a, model),
    "tl.gene_attribution": lambda model, a: tl.gene_attribution(a, model, groupby="cd49d"),
    "tl.perturb": lambda model, a: tl.perturb(a, model, ["G1", "G2"]),
    "tl.gene_interactions": lambda model, a: tl.gene_interactions(
        a, model, ["G1", "G2"], groupby="cd49d", n_cells=6
    ),
}


@pytest.mark.parametrize("name", USES)
def test_a_model_that_is_not_finite_says_nothing_about_cells(trained, adata, tmp_path, name):
    model = poisoned(trained, "average", tmp_path, adata)
    before = slots(adata)
    with pytest.raises(ValueError, match=r"no finite numbers in 'token_embedding\.weight'"):
        USES[name](model, adata)
    assert slots(adata) == before


@pytest.mark.parametrize("name", ["predict", "tl.predict", "tl.perturb"])
def test_a_linear_part_that_is_not_finite_says_nothing_about_cells(trained, adata, tmp_path, name):
    model = poisoned(trained, "average", tmp_path, adata, "linear")
    before = slots(adata)
    with pytest.raises(ValueError, match="no finite numbers in 'intercept'"):
        USES[name](model, adata)
    assert slots(adata) == before


def test_numbers_that_overflow_in_between_are_refused_by_the_cell(trained, adata, tmp_path):
    """All weights are finite, and what comes out is not."""
    trained["ScBERT"].save(tmp_path / "fine")
    model = ScBERT.load(tmp_path / "fine", adata, accelerator="cpu")
    with torch.no_grad():
        model.module.norm.weight[:] = torch.finfo(torch.float32).max
        model.module.norm.bias[:] = torch.finfo(torch.float32).max
    with pytest.raises(
        ValueError, match=r"no finite numbers for \d+ of 160 cells, the first of them 'cell\d+'"
    ):
        model.get_latent_representation()


def test_a_model_that_is_not_finite_is_not_started_from(trained, adata, tmp_path):
    model = poisoned(trained, "ScBERT", tmp_path, adata)
    before = slots(adata)
    with pytest.raises(ValueError, match=r"no finite numbers in 'token_embedding\.weight'"):
        tl.finetune(
            adata, model, **{name: value for name, value in FAST.items() if name != "network"}
        )
    assert slots(adata) == before


def test_a_corpus_is_not_predicted_with_it(trained, adata, corpus, tmp_path):
    model = poisoned(trained, "ScBERT", tmp_path, adata)
    with pytest.raises(ValueError, match=r"no finite numbers in 'token_embedding\.weight'"):
        tl.predict_corpus(corpus, model, tmp_path / "out.zarr")
    assert not (tmp_path / "out.zarr").exists()


def test_a_training_that_goes_well_says_nothing(adata):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model, error = train("average", adata)
    assert error is None
    assert is_finite(model)
    assert sc_cll.ScBERTClassifier is type(model)
