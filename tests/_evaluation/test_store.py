"""Finished folds on disk: found again, never mistaken, whole or not there."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scbert_cll._evaluation.store import Done, FoldStore, fingerprint


def test_a_finished_fold_is_found_again(tmp_path) -> None:
    proba = np.random.default_rng(0).random((5, 2)).astype(np.float32)
    FoldStore(tmp_path / "new" / "run").save("my model/1", "ab" * 32, Done(proba, 1.5))
    store = FoldStore(tmp_path / "new" / "run")
    found = store.load("my model/1", "ab" * 32)
    assert found is not None
    assert np.array_equal(found.proba, proba)
    assert found.seconds == 1.5
    assert store.load("my model/1", "cd" * 32) is None
    assert store.load("other", "ab" * 32) is None


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = FoldStore(None)
    store.save("a", "ab" * 32, Done(np.zeros((1, 2)), 0.0))
    assert store.load("a", "ab" * 32) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_damaged_file_counts_as_none(tmp_path, damage) -> None:
    store = FoldStore(tmp_path)
    store.save("a", "ab" * 32, Done(np.zeros((50, 2)), 0.0))
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:40] if damage == "cut" else b"something else")
    assert store.load("a", "ab" * 32) is None


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch) -> None:
    store = FoldStore(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        store.save("a", "ab" * 32, Done(np.zeros((1, 2)), 0.0))
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_folder(tmp_path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        FoldStore(tmp_path / "f")


def test_fingerprints_see_every_part() -> None:
    x = np.arange(6.0)
    first = fingerprint(x, ["a", "b"], 0, LogisticRegression(C=1.0))
    assert first == fingerprint(x.copy(), ["a", "b"], 0, LogisticRegression(C=1.0))
    others = [
        fingerprint(x.astype(np.float32), ["a", "b"], 0, LogisticRegression(C=1.0)),
        fingerprint(x.reshape(2, 3), ["a", "b"], 0, LogisticRegression(C=1.0)),
        fingerprint(x, ["a", "c"], 0, LogisticRegression(C=1.0)),
        fingerprint(x, ["a", "b"], 1, LogisticRegression(C=1.0)),
        fingerprint(x, ["a", "b"], 0, LogisticRegression(C=2.0)),
    ]
    assert len({first, *others}) == 6


def test_fingerprints_look_into_pipelines_and_not_at_addresses() -> None:
    def pipe(c: float):
        return make_pipeline(StandardScaler(), LogisticRegression(C=c))

    assert fingerprint(pipe(1.0)) == fingerprint(pipe(1.0)) != fingerprint(pipe(2.0))
    assert fingerprint({"f": object()}) == fingerprint({"f": object()})


@pytest.mark.parametrize(
    "make",
    [
        lambda x: AnnData(sparse.csr_matrix(x)),
        lambda x: {"extra": sparse.csc_matrix(x)},
        lambda x: [pd.DataFrame(x)],
        lambda x: pd.Series(x[:, 0]),
    ],
)
def test_two_that_print_alike_are_told_apart_by_their_values(make) -> None:
    values = np.arange(40_000, dtype=np.float32).reshape(200, 200)
    other = values.copy()
    other[100, 0] += 1
    assert fingerprint(make(values)) == fingerprint(make(values.copy()))
    assert fingerprint(make(values)) != fingerprint(make(other))


def test_columns_count_by_their_names() -> None:
    table = pd.DataFrame({"a": [1.0], "b": [2.0]})
    assert fingerprint([table]) != fingerprint([table.set_axis(["b", "a"], axis=1)])
