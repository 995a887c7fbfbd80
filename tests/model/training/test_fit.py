"""What each step of a training draws, what decays, and that a prediction draws nothing."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as L
import numpy as np
import pytest
import torch

from scbert_cll.model import ScBERT, ScBERTClassifier
from scbert_cll.model.training import plans
from scbert_cll.model.training.options import Pretraining
from scbert_cll.model.training.plans import PretrainPlan

HOW: dict[str, Any] = {
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "batch_size": 16,
    "split_key": "split",
}
NETWORK: dict[str, Any] = {"n_hidden": 16, "n_heads": 2, "gene_embedding": "learned"}


class Notes(L.Callback):
    """The seed that PyTorch's random numbers had in each step, and which cells were in it."""

    def __init__(self, stop_behind: int | None = None) -> None:
        self.seeds: list[int] = []
        self.cells: list[list[int]] = []
        self.stop_behind = stop_behind

    def on_train_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seeds.append(torch.initial_seed())
        self.cells.append(sorted(batch["rows"].tolist()))
        if self.stop_behind == len(self.cells):
            raise InterruptedError("stopped by the test")


def trained(adata: Any, *callbacks: Any, network: Any = None, **how: Any) -> ScBERT:
    ScBERT.setup_anndata(adata)
    model = ScBERT(adata, **NETWORK | (network or {}))
    model.train(**HOW | {"max_epochs": 2, "callbacks": list(callbacks)} | how)
    return model


@pytest.mark.parametrize(
    "how", [{}, {"accumulate_grad_batches": 3}], ids=["a batch a step", "three batches a step"]
)
def test_each_batch_has_random_numbers_of_its_own(adata, how):
    """Of dropout: also where several batches make one step of the optimiser."""
    notes, again = Notes(), Notes()
    trained(adata, notes, **how)
    trained(adata.copy(), again, **how)
    assert len(notes.seeds) == 10
    assert len(set(notes.seeds)) == 10
    assert again.seeds == notes.seeds


def test_each_process_has_random_numbers_of_its_own(scbert):
    seeds: list[int] = []
    plan = PretrainPlan(scbert.module, Pretraining(), seed=7)

    class Trainer:
        global_rank = 0

        class fit_loop:  # noqa: N801
            total_batch_idx = 0

    with torch.random.fork_rng():
        for rank in range(3):
            for step in range(50):
                Trainer.global_rank, Trainer.fit_loop.total_batch_idx = rank, step
                plan.trainer = Trainer
                plan.on_train_batch_start(None, 0)
                seeds.append(torch.initial_seed())
    assert len(set(seeds)) == 150


def test_other_genes_are_hidden_in_each_step(adata, monkeypatch):
    """And the same ones in each validation."""
    seen: dict[str, list[int]] = {"train": [], "validation": []}
    step = PretrainPlan._step

    def noting(self, batch, stage, seed):
        seen[stage].append(seed)
        return step(self, batch, stage, seed)

    monkeypatch.setattr(PretrainPlan, "_step", noting)
    trained(adata, accumulate_grad_batches=2)
    assert len(set(seen["train"])) == len(seen["train"]) == 10
    half = len(seen["validation"]) // 2
    assert seen["validation"][:half] == seen["validation"][half:]


def test_each_epoch_has_its_own_order_and_a_resumed_one_sees_no_cell_twice(adata, tmp_path):
    whole, first, rest = Notes(), Notes(stop_behind=8), Notes()
    trained(adata, whole)
    with pytest.raises(InterruptedError):
        trained(adata.copy(), first, checkpoint_dir=tmp_path, checkpoint_steps=7)
    trained(adata.copy(), rest, checkpoint_dir=tmp_path)
    assert whole.cells[:5] != whole.cells[5:]
    assert [first.cells[:7], rest.cells] == [whole.cells[:7], whole.cells[7:]]
    second = np.concatenate(whole.cells[5:7] + rest.cells)
    assert sorted(second) == sorted(np.concatenate(whole.cells[:5]))


def test_biases_and_norms_do_not_decay(classify, adata):
    found: dict[str, list[float]] = {"decays": [], "stays": []}

    class Look(L.Callback):
        def on_train_start(self, trainer: L.Trainer, module: Any) -> None:
            decay = {
                id(p): g["weight_decay"]
                for g in trainer.optimizers[0].param_groups
                for p in g["params"]
            }
            for parameter in module.parameters():
                if parameter.requires_grad:
                    found["decays" if parameter.ndim > 1 else "stays"].append(decay[id(parameter)])

    classify(adata, 1, weight_decay=0.03, callbacks=[Look()])
    assert set(found["decays"]) == {0.03}
    assert set(found["stays"]) == {0.0}
    assert len(found["stays"]) > 5


def test_nothing_is_drawn_in_a_prediction_whatever_mode_the_network_is_in(adata, answers, same):
    ScBERTClassifier.setup_anndata(adata, labels_key="label")
    model = ScBERTClassifier(adata, **NETWORK, dropout=0.5)
    model.train(1, **HOW)
    expected = answers(model)
    model.module.train()
    same(answers(model), expected, atol=0)
    model.module.train()
    assert model.get_attention_floor().shape == (model.config.n_layers,)
    model.module.train()
    one, other = (model.get_gene_attention(adata.obs["label"]) for _ in range(2))
    assert one.equals(other)


@pytest.mark.parametrize("n", [2, 3])
def test_macro_f1_is_that_of_scikit_learn(n):
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(n)
    for size in (1, 4, 60):
        labels, guess = rng.integers(0, n, size), rng.integers(0, n, size)
        calls = torch.bincount(torch.from_numpy(labels * n + guess), minlength=n * n).reshape(n, n)
        expected = f1_score(labels, guess, average="macro", zero_division=0)
        assert plans.macro_f1(calls) == pytest.approx(expected, abs=1e-12)


class Breaks(L.Callback):
    """Fails in a step of the first epoch, or behind it."""

    def __init__(self, at: int, error: type[BaseException]) -> None:
        self.at, self.error = at, error

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.at:
            raise self.error("cut here")


def state(model: Any) -> dict[str, Any]:
    """All that a training changes in a model."""
    weights = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    trains = [one.requires_grad for one in model.module.parameters()]
    history = {name: frame.to_dict() for name, frame in (model.history_ or {}).items()}
    linear = None if model.linear_ is None else model.linear_.coefficients.tolist()
    others = [
        model.is_trained_,
        model.kept_epoch_,
        model.combine,
        linear,
        trains,
        model.module.training,
    ]
    return {"weights": weights, "history": history, "others": others}


def same_state(one: dict[str, Any], other: dict[str, Any]) -> bool:
    equal = [torch.equal(tensor, other["weights"][name]) for name, tensor in one["weights"].items()]
    return all(equal) and one["history"] == other["history"] and one["others"] == other["others"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("trained_before", [True, False])
def test_a_training_that_is_cut_before_an_epoch_has_ended_leaves_the_model_as_it_was(
    classify, adata, trained_before, error
):
    """Weights and linear part, too: a new linear part with an old network would be a model that
    nobody trained.
    """
    if trained_before:
        model = classify(adata, 1, combine="average")
    else:
        ScBERTClassifier.setup_anndata(adata, labels_key="label")
        model = ScBERTClassifier(adata, **NETWORK)
    before = state(model)
    how = HOW | {
        "combine": "residual",
        "freeze": "encoder" if trained_before else "none",
        "token_drop": 0.2,
    }
    kept = (
        not trained_before
    )  # then the linear part alone, from which it starts, is an epoch to choose
    with pytest.raises(error):
        model.train(2, weight_key=None, callbacks=[Breaks(2, error)], rng=5, **how)
    assert same_state(state(model), before) is not kept
    assert model.kept_epoch_ == (0 if kept else 1)


def test_a_training_that_is_cut_later_has_its_best_epoch(classify, adata):
    model = classify(adata, 1)
    with pytest.raises(RuntimeError, match="cut here"):
        model.train(3, callbacks=[Breaks(8, RuntimeError)], rng=5, **HOW)
    assert model.is_trained_
    assert model.kept_epoch_ == 2
    assert len(model.history["train_loss"]) == 2


def test_a_training_that_is_refused_leaves_the_model_as_it_was(classify, adata, tmp_path):
    model = classify(adata, 1, combine="average")
    before = state(model)
    (tmp_path / "run").write_text("of the user")
    with pytest.raises(FileExistsError, match="is a file"):
        model.train(1, combine="none", checkpoint_dir=tmp_path / "run", **HOW)
    assert same_state(state(model), before)
