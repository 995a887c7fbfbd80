"""The options of training on the command line are those of the package, whose help is elsewhere."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any, get_args, get_type_hints

import pytest

import scbert_cll as sc_cll
from scbert_cll._cli.commands import COMMANDS
from scbert_cll._cli.train import Training
from scbert_cll._cli.words import described_of
from scbert_cll.model.linear.regression import Combine
from scbert_cll.model.training.options import Finetuning, Fit, Freeze, Pretraining
from scbert_cll.nn import Config

KINDS: dict[str, type[Fit]] = {"pretrain": Pretraining, "finetune": Finetuning}


def words(command: str, option: str) -> set[str]:
    """What an option may be."""
    return set(get_args(described_of(COMMANDS[command])[option][0].annotation))


@pytest.mark.parametrize("command", KINDS)
def test_every_training_option_is_one_of_the_package(command: str) -> None:
    verb = inspect.signature(getattr(sc_cll.tl, command)).parameters
    names = {field.name for field in fields(Training)} - {"seed", "more"} | {"rng"}
    assert names <= set(verb) | set(KINDS[command].names())
    assert {field.name for field in fields(Training)} <= set(described_of(COMMANDS[command]))


@pytest.mark.parametrize("command", KINDS)
def test_options_that_are_not_given_are_left_to_the_package(command: str) -> None:
    given: dict[str, Any] = Training().arguments()
    verb = inspect.signature(getattr(sc_cll.tl, command)).parameters
    assert given.pop("accelerator") == verb["accelerator"].default == "auto"
    for name in ("rng", "balance", "num_workers"):
        assert given.pop(name) == verb[name].default
    assert given == {}
    assert Training(seed=3, more={"lr": 0.1, "rng": 4}).arguments()["rng"] == 4


def test_words_are_those_of_the_package() -> None:
    assert words("finetune", "combine") == set(get_args(Combine))
    assert words("finetune", "freeze") == set(get_args(Freeze))
    vectors = set(get_args(get_type_hints(Config)["gene_embedding"]))
    assert words("pretrain", "gene_embedding") == vectors | {"auto"}
