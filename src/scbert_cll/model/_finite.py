"""Checks that numbers are finite: what goes into a training, what comes out of it, and where it went wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np
import pandas as pd

from scbert_cll._checks.words import listed, number_in

_LARGEST: Final = float(np.finfo(np.float32).max)  # what networks compute with
_LR: Final = 2e-3  # the default of every training
_POSITIVE: Final[Mapping[str, float]] = {
    "lr": _LARGEST,
    "weight_decay": _LARGEST,
    "gradient_clip_val": np.inf,
}

Wrong = Literal["loss", "validation loss", "weights"]


class DivergedError(ValueError):
    """A training whose loss or weights are no finite numbers any more.

    `epoch` (of the history) and `step` (of the optimiser, in this training) say where; `kept` is
    the epoch whose weights `model` has, None where it has those from before the training.
    """

    epoch: int
    step: int
    kept: int | None
    model: Any


def diverged(
    what: Wrong,
    *,
    epoch: int,
    step: int,
    lr: float,
    kept: int | None,
    asked: Mapping[str, Any],
    model: Any,
) -> DivergedError:
    """Say where a training went wrong, what is left of it, and what to do.

    `asked` are further arguments of the training.
    """
    verb = "are" if what == "weights" else "is"
    has = {
        None: "There is no good epoch before it, and the model has the weights from before this "
        "training",
        0: "No epoch before it was better than the logistic regression alone, which is what the "
        "model has",
    }.get(kept, f"The model has the weights of epoch {kept}, the best of those before it")
    remedies = [f"a smaller lr= (the default is {_LR:g})" if lr > _LR else "a smaller lr="]
    remedies += [] if asked.get("gradient_clip_val") else ["gradient_clip_val=1.0"]
    remedies += (
        ["precision=None, since half precision ends at 65,504"]
        if str(asked.get("precision"))[:2] == "16"
        else []
    )
    elsewhere = ", and with another checkpoint_dir=, since this run would come to the same end"
    error = DivergedError(
        f"Training diverged at step {step}, in epoch {epoch}: the {what} {verb} not finite "
        f"(lr={lr:g}). {has}. Train anew with "
        f"{' or '.join(remedies)}{elsewhere if asked.get('checkpoint_dir') is not None else ''}."
    )
    error.epoch, error.step, error.kept, error.model = epoch, step, kept, model
    return error


def training_numbers(given: Mapping[str, Any]) -> None:
    """Those numbers among the arguments of a training that make every weight NaN when they are not finite."""
    for name, most in _POSITIVE.items():
        if given.get(name) is not None:
            number_in(given[name], name, 0, most)


def gene_vectors(
    values: np.ndarray, genes: pd.Index, where: str, *, is_table: bool = False
) -> np.ndarray:
    """Vectors (genes × dimensions) of finite numbers."""
    bad = genes[~np.isfinite(values).all(axis=1)]
    if len(bad):
        mended = f"np.nan_to_num({where}, posinf=0.0, neginf=0.0)"
        if is_table:
            mended = f"{where}.replace([np.inf, -np.inf], np.nan).fillna(0)"
        raise ValueError(
            f"{where} holds values that are no finite numbers for {len(bad)} genes: "
            f"{listed(bad)}. Make it anew, or put zeros there, which "
            f"a gene without a vector has: {where} = {mended}."
        )
    return values


def tensors(bad: list[str], what: str, remedy: str) -> None:
    """None that holds a NaN or an infinity; `bad` are the names of those that do."""
    if bad:
        raise ValueError(
            f"{what} holds values that are no finite numbers in {listed(bad)}. {remedy}"
        )


def probabilities(values: np.ndarray, who: str) -> None:
    """Probabilities (…, cells, classes) that a model was asked for, all of them finite."""
    bad = ~np.isfinite(values).all(axis=(0, 2))
    if bad.any():
        raise ValueError(
            f"{who} gives probabilities that are no finite numbers for {bad.sum()} of "
            f"{len(bad)} test cells. Mend the model, or leave it out of models=."
        )


def results(values: np.ndarray, cells: pd.Index) -> None:
    """What a network says of each cell (cells, …), all of it finite."""
    bad = cells[~np.isfinite(values).reshape(len(values), -1).all(axis=1)]
    if len(bad):
        raise ValueError(
            f"The network gives no finite numbers for {len(bad)} of {len(cells)} cells, the "
            f"first of them {str(bad[0])!r}: they overflow on the "
            "way. Its weights are too large; train it anew with a smaller lr=."
        )
