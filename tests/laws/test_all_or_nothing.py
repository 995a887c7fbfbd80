"""Results are written to an AnnData all or not at all, wherever a call is cut."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from sys import monitoring
from types import CodeType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import scbert_cll as sc_cll
from scbert_cll import _record
from scbert_cll._process import uninterrupted

SOURCE = str(Path(sc_cll.__file__).parent)
FAILURES = (RuntimeError, KeyboardInterrupt, MemoryError)
_TOOL = 4  # a number that no other tool asks for
SLOTS = ("obs", "var", "obsm", "varm", "layers", "uns")
QUICK: dict[str, Any] = {
    "max_epochs": 1,
    "batch_size": 64,
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "network": {"n_hidden": 8, "n_layers": 1, "n_heads": 2, "gene_embedding": "learned"},
}


# where each line fails for good, a generator cannot be closed, either
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Who handles Ctrl-C, also where each line fails for good."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


class Cut:
    """Raise at the n-th line of this package that is run from here on (`for_good`: at each one from
    then on); without `at` only count.
    """

    def __init__(
        self,
        at: int | None = None,
        kind: type[BaseException] = RuntimeError,
        *,
        for_good: bool = False,
    ) -> None:
        self.at, self.kind, self.n, self.for_good = at, kind, 0, for_good

    def __enter__(self) -> Cut:
        monitoring.use_tool_id(_TOOL, "cut")
        monitoring.register_callback(_TOOL, monitoring.events.LINE, self._line)
        monitoring.set_events(_TOOL, monitoring.events.LINE)
        monitoring.restart_events()
        return self

    def __exit__(self, *_: object) -> None:
        monitoring.set_events(_TOOL, 0)
        monitoring.free_tool_id(_TOOL)

    def _line(self, code: CodeType, line: int) -> Any:
        if not code.co_filename.startswith(SOURCE):
            return monitoring.DISABLE
        self.n += 1
        if self.n == self.at or (self.for_good and self.at is not None and self.n > self.at):
            raise self.kind("cut here")
        return None


def held(adata: AnnData) -> dict[tuple[str, str], Any]:
    """Every entry of every slot, to be compared; and the order of columns."""
    found: dict[tuple[str, str], Any] = {}
    for slot in SLOTS:
        table = getattr(adata, slot)
        found |= {(slot, key): _plain(table[key]) for key in table if key is not None}
    return found | {("columns", "obs"): list(adata.obs), ("columns", "var"): list(adata.var)}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if not str(key).startswith("_scvi")}
    if isinstance(value, pd.DataFrame):
        return {name: _plain(value[name]) for name in value}
    if isinstance(value, pd.Series):
        return [str(value.dtype), value.astype(str).tolist()]
    if sparse.issparse(value):
        return [part.tolist() for part in sparse.find(value)]
    return value.astype(str).tolist() if isinstance(value, np.ndarray) else repr(value)


# ---- the writer itself, at each of its lines


def small() -> AnnData:
    """Five cells with an earlier result: two of its entries are replaced, one goes."""
    adata = AnnData(
        np.ones((5, 3), np.float32),
        obs=pd.DataFrame({"a": list("vwxyz")}, index=[f"c{i}" for i in range(5)]),
    )
    adata.obs["called"] = pd.Categorical(["old"] * 5)
    adata.obsm["table"] = pd.DataFrame({"old": np.zeros(5)}, index=adata.obs_names)
    adata.obsm["gone"] = np.zeros((5, 2))
    adata.uns["entry"] = {"params": {"which": "old"}}
    return adata


def write_small(adata: AnnData) -> None:
    table = pd.DataFrame({"new": np.ones(5)}, index=adata.obs_names)
    _record.write(
        adata,
        obs={"called": pd.Categorical(["new"] * 5), "added": np.arange(5.0)},
        obsm={"table": table, "further": np.ones((5, 2))},
        varm={"genes": np.ones((3, 2))},
        uns={"entry": {"params": {"which": "new"}}},
        replaces=[("obsm", "gone")],
    )


@pytest.mark.parametrize("for_good", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("kind", FAILURES)
def test_the_one_writer_can_be_cut_at_each_of_its_lines(
    kind: type[BaseException], for_good: bool
) -> None:
    adata = small()
    with Cut() as count:
        write_small(adata)
    whole, before, seen = held(adata), held(small()), set()
    for at in range(1, count.n + 1):
        adata = small()
        with Cut(at, kind, for_good=for_good), pytest.raises(kind):
            write_small(adata)
        after = held(adata)
        assert after in (before, whole), f"line {at} of {count.n}"
        seen.add(after == before)
    assert before != whole
    assert True in seen


@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("slot", ["obs", "obsm", "uns"])
def test_a_slot_that_cannot_take_its_result_leaves_the_others_as_they_were(
    slot: str, kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    adata = small()
    before, setitem = {name: type(getattr(adata, name)) for name in SLOTS}, _record.setitem

    def fails(where: Any, key: str, value: Any) -> None:
        if (
            (slot == "obs") == isinstance(where, pd.DataFrame)
            and isinstance(where, before[slot])
            and key != "table"
        ):
            raise kind("no room")
        setitem(where, key, value)

    monkeypatch.setattr(_record, "setitem", fails)
    with pytest.raises(kind):
        write_small(adata)
    assert held(adata) == held(small())


@pytest.mark.parametrize("name", ["new", None])
def test_a_column_of_any_name_is_taken_back(name: str | None) -> None:
    adata = AnnData(np.ones((2, 2), np.float32))
    before = adata.copy()

    @_record.untouched_on_error(adata)
    def fails() -> None:
        for table in (adata.obs, adata.var):
            table[name] = 1
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        fails()
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    pd.testing.assert_frame_equal(adata.var, before.var)
    np.testing.assert_array_equal(adata.X, before.X)


def test_ctrl_c_waits_until_all_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    setitem = _record.setitem

    def pressed(where: Any, key: str, value: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        setitem(where, key, value)

    expected = small()
    write_small(expected)
    monkeypatch.setattr(_record, "setitem", pressed)
    adata, before = small(), signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            write_small(adata)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert held(adata) == held(expected)


def test_what_is_held_back_is_the_key_not_an_error() -> None:
    with pytest.raises(ValueError, match="of ours"), uninterrupted():
        raise ValueError("of ours")


# ---- every verb, at many of its lines


@pytest.fixture(scope="module")
def world() -> dict[str, Any]:
    """Cells and bulk samples with all that the verbs need, and a model; not to be changed."""
    toy = sc_cll.datasets.cll_toy(n_cells=240, n_genes=200, rng=1)
    raw = toy["rna"].copy()
    raw.obsm["protein"] = pd.DataFrame(
        toy["prot"].X, index=raw.obs_names, columns=toy["prot"].var_names.astype(object)
    )
    split = raw.copy()
    sc_cll.pp.label_cd49d(split, donor_key="donor")
    sc_cll.pp.split_donors(split, "donor", labels_key="cd49d", rng=0)
    ready = split.copy()
    sc_cll.pp.bin_expression(ready)
    model = sc_cll.tl.finetune(ready.copy(), **QUICK)
    return {
        "raw": raw,
        "split": split,
        "ready": ready,
        "model": model,
        "patients": sc_cll.datasets.cll_cohort(n_patients=120, n_genes=200),
    }


def _train(adata: AnnData) -> None:
    """A method of a model that was set up by hand."""
    network = QUICK["network"]
    sc_cll.ScBERT.setup_anndata(adata)
    sc_cll.ScBERT(adata, **network).train(
        1, batch_size=64, accelerator="cpu", enable_progress_bar=False
    )


VERBS: dict[str, tuple[str, Callable[[AnnData, Any], Any]]] = {
    "tl.pretrain": ("ready", lambda adata, _: sc_cll.tl.pretrain(adata, **QUICK)),
    "tl.finetune": ("ready", lambda adata, _: sc_cll.tl.finetune(adata, **QUICK)),
    "ScBERT.train": ("ready", lambda adata, _: _train(adata)),
    "tl.predict": ("ready", lambda adata, model: sc_cll.tl.predict(adata, model)),
    "tl.gene_attention": (
        "ready",
        lambda adata, model: sc_cll.tl.gene_attention(adata, model, groupby="cd49d"),
    ),
    "tl.gene_attribution": (
        "ready",
        lambda adata, model: sc_cll.tl.gene_attribution(
            adata, model, method="attention", groupby="cd49d", donor_key="donor", split_key="none"
        ),
    ),
    "tl.perturb": ("ready", lambda adata, model: sc_cll.tl.perturb(adata, model, ["ITGA4"])),
    "tl.signature": ("split", lambda adata, _: sc_cll.tl.signature(adata)),
    "tl.score_signature": (
        "split",
        lambda adata, _: sc_cll.tl.score_signature(adata, ["ITGA4", "ITGB1"]),
    ),
    "tl.prognosis": (
        "patients",
        lambda adata, _: sc_cll.tl.prognosis(
            adata, ["ITGA4", "PCNA"], time_key="TTT", event_key="treated", n_random=5, n_bootstrap=0
        ),
    ),
    "pp.split_donors": (
        "raw",
        lambda adata, _: sc_cll.pp.split_donors(adata, "donor", labels_key="cd49d_true"),
    ),
    "pp.label_cd49d": ("raw", lambda adata, _: sc_cll.pp.label_cd49d(adata, donor_key="donor")),
    "pp.bin_expression": ("raw", lambda adata, _: sc_cll.pp.bin_expression(adata)),
    "pp.balance": ("split", lambda adata, _: sc_cll.pp.balance(adata, "cd49d")),
    "pp.balance, rows": (
        "split",
        lambda adata, _: sc_cll.pp.balance(adata, "cd49d", method="oversample"),
    ),
}
LAST, SPREAD = 16, 4


@pytest.mark.slow  # each verb twenty times
@pytest.mark.parametrize("name", VERBS)
def test_every_verb_can_be_cut_at_its_last_lines_and_before(
    name: str, world: dict[str, Any]
) -> None:
    start, call = VERBS[name]
    adata = world[start].copy()
    before = held(adata)
    with Cut() as count:
        call(adata, world["model"])
    whole, n = held(adata), count.n
    places = {*np.linspace(1, n, SPREAD).astype(int).tolist(), *range(max(1, n - LAST), n + 1)}
    for i, at in enumerate(sorted(places)):
        adata, kind, for_good = world[start].copy(), FAILURES[i % len(FAILURES)], i % 2 > 0
        with _cut_or_whole(at, kind, for_good=for_good):
            call(adata, world["model"])
        after, done = held(adata), whole
        if for_good:  # nothing can take back what scvi-tools notes of its own
            after, done = _results(after), _results(whole)
        assert after == before or after.keys() == done.keys(), (
            f"{name}, line {at} of {n}: {after.keys() ^ before.keys()}"
        )


def _results(found: dict[tuple[str, str], Any]) -> dict[tuple[str, str], Any]:
    return {place: value for place, value in found.items() if not place[1].startswith("_scvi")}


@contextmanager
def _cut_or_whole(at: int, kind: type[BaseException], *, for_good: bool) -> Iterator[None]:
    """Lines that are run may be a few fewer than they were when they were counted (what is cached
    is not made again).
    """
    try:
        with Cut(at, kind, for_good=for_good):
            yield
    except BaseException as error:
        if isinstance(error, kind) or isinstance(error.__cause__, kind):
            return
        raise
