"""Options of a training: declared once, the defaults of every door, refused by name."""

from __future__ import annotations

import inspect
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from scbert_cll import tl
from scbert_cll.model import ScBERT, ScBERTClassifier
from scbert_cll.model.training.options import Finetuning, Pretraining

DOORS = {
    "ScBERT.train": (ScBERT.train, Pretraining),
    "ScBERTClassifier.train": (ScBERTClassifier.train, Finetuning),
    "tl.pretrain": (tl.pretrain, Pretraining),
    "tl.finetune": (tl.finetune, Finetuning),
}
# what a verb of a whole analysis chooses otherwise than the method of a model
OTHERWISE = {
    "tl.pretrain": {"split_key": "split"},
    "tl.finetune": {
        "split_key": "split",
        "weight_key": "balance_weight",
        "combine": "average",
    },
}


@pytest.mark.parametrize("name", list(DOORS))
def test_every_door_has_the_defaults_that_are_declared(name: str) -> None:
    call, options = DOORS[name]
    declared = {f.name: f.default for f in fields(options) if f.name != "trainer"}
    declared |= OTHERWISE.get(name, {})
    given = {n: p.default for n, p in inspect.signature(call).parameters.items() if n in declared}
    assert given == {n: declared[n] for n in given}
    assert {"max_epochs", "batch_size", "early_stopping", "rng"} <= set(given)


@pytest.mark.parametrize("options", [Pretraining, Finetuning])
@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("lr", float("nan"), "lr"),
        ("max_epochs", 0, "max_epochs"),
        ("batch_size", 1, "batch_size"),
        ("checkpoint_minutes", -1, "checkpoint_minutes"),
        ("checkpoint_steps", 0, "checkpoint_steps"),
        ("gradient_clip_val", -1.0, "gradient_clip_val"),
        ("learning_rate", 0.1, "did you mean 'lr'"),
        ("devises", 2, "did you mean 'devices'"),
    ],
)
def test_what_training_cannot_use_is_refused_by_name(
    options: Any, name: str, value: Any, match: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        options.of("train", {}, {name: value})


def test_options_are_taken_from_both_kinds_of_arguments_and_do_not_change() -> None:
    named = {"max_epochs": 3, "adata": object(), "train": {}}
    options = Finetuning.of("train", named, {"lr": 0.1, "max_steps": 5})
    assert (options.max_epochs, options.lr, options.trainer) == (3, 0.1, {"max_steps": 5})
    with pytest.raises(FrozenInstanceError):
        options.lr = 0.2  # type: ignore[misc]
