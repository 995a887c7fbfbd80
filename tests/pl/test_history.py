from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from scbert_cll import pl


def recorded(n=20, **columns):
    epochs = pd.RangeIndex(n, name="epoch")
    return {
        name: pd.DataFrame({name: np.asarray(values, float)}, index=epochs)
        for name, values in columns.items()
    }


@pytest.fixture
def pretraining():
    t = np.arange(20)
    return recorded(
        train_loss=np.exp(-t / 6),
        validation_loss=np.exp(-t / 6) + 0.05 * np.abs(t - 12),
        masked_accuracy_train=0.7 - 0.3 * np.exp(-t / 5),
        masked_accuracy_validation=0.68 - 0.3 * np.exp(-t / 5),
        majority_accuracy_train=np.full(20, 0.56),
        majority_accuracy_validation=np.full(20, 0.55),
        learning_rate=np.ones(20),
    )


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_panels(pretraining):
    loss, accuracy = pl.history(pretraining, show=False)
    assert (loss.get_ylabel(), accuracy.get_ylabel()) == ("cross-entropy", "accuracy (hidden)")
    assert loss.get_xlabel() == accuracy.get_xlabel() == "epoch"
    assert set(lines(loss)) == {"train", "validation", "best epoch (12)"}
    assert set(lines(accuracy)) == {
        "train",
        "validation",
        "majority, validation",
        "best epoch (12)",
    }
    np.testing.assert_array_equal(
        lines(loss)["train"].get_ydata(), pretraining["train_loss"]["train_loss"]
    )
    np.testing.assert_array_equal(
        lines(accuracy)["majority, validation"].get_ydata(), np.full(20, 0.55)
    )
    assert set(lines(loss)["best epoch (12)"].get_xdata()) == {12}


def test_a_model_is_as_good_as_its_history(pretraining):
    model = type("Model", (), {"history": pretraining})()
    assert len(pl.history(model, show=False)) == 2


def test_classification():
    history = recorded(
        3, train_loss=[3, 2, 1], accuracy_train=[0.5, 0.6, 0.7], macro_f1_validation=[0.5, 0.7, 0.6]
    )
    axes = pl.history(history, monitor="macro_f1_validation", show=False)
    assert [ax.get_ylabel() for ax in axes] == ["cross-entropy", "accuracy", "macro-F1"]
    assert "best epoch (1)" in lines(axes[2])


def test_nothing_is_best_without_validation():
    ax = pl.history(recorded(3, train_loss=[3, 2, 1]), show=False)
    assert set(lines(ax)) == {"train"}


def test_missing_epochs_are_left_out():
    history = recorded(4, train_loss=[4, 3, 2, 1], validation_loss=[np.nan, 2, np.nan, 3])
    ax = pl.history(history, show=False)
    assert lines(ax)["validation"].get_xdata().tolist() == [1, 3]
    assert "best epoch (1)" in lines(ax)


def test_one_epoch(legible):
    fig = pl.history(recorded(1, train_loss=[1], validation_loss=[2]), return_fig=True)
    assert fig.axes[0].get_xticks().tolist() == [0]
    legible(fig)


@pytest.mark.parametrize("figsize", [None, (3.5, 2.2)])
def test_legible(pretraining, legible, figsize):
    backwards = dict(reversed(pretraining.items()))
    fig = pl.history(backwards, figsize=figsize, return_fig=True)
    order = ["train", "validation", "majority, validation", "best epoch (12)"]
    assert [t.get_text() for t in fig.legends[0].get_texts()] == order
    legible(fig)


def test_users_axes(pretraining):
    ax = plt.figure().add_subplot()
    assert pl.history(pretraining, metrics=["loss"], ax=ax, show=False) is ax
    assert len(ax.get_legend().get_texts()) == 3


def test_errors(pretraining):
    with pytest.raises(
        ValueError, match="ax holds one metric, there are 2; name one with metrics="
    ):
        pl.history(pretraining, ax=plt.figure().add_subplot())
    with pytest.raises(
        KeyError, match="'f1' is not in the history; it has 'loss', 'masked_accuracy'"
    ):
        pl.history(pretraining, metrics=["f1"])
    with pytest.raises(ValueError, match="train the model first"):
        pl.history(type("Model", (), {"history": None})())
    with pytest.raises(ValueError, match="train the model first"):
        pl.history({})
    with pytest.raises(ValueError, match=r"records no metric.*'x'"):
        pl.history({"x": pd.DataFrame({"x": [1]})})
    with pytest.raises(TypeError, match=r"Expected a trained model or its history .*found list"):
        pl.history([1, 2])
