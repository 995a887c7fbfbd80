"""What is said before a training, the batch that fits, and the sentence when memory runs out."""

from __future__ import annotations

import re

import lightning.pytorch as L
import numpy as np
import pytest
import torch

from scbert_cll.model import ScBERT
from scbert_cll.model._inference import token_rows
from scbert_cll.model.training import devices, fit
from scbert_cll.model.training.batches import TokenRows
from scbert_cll.model.training.devices import Rehearsal, Step, enough_memory
from scbert_cll.model.training.options import Finetuning, Pretraining
from scbert_cll.model.training.plans import ClassifyPlan, PretrainPlan
from scbert_cll.nn import Config

CPU = torch.device("cpu")


@pytest.fixture
def said(monkeypatch):
    """What a user reads before a training."""
    sentences = []
    monkeypatch.setattr(fit, "rank_zero_info", sentences.append)
    return sentences


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


@pytest.mark.parametrize("name", ["scbert", "classifier", "published"])
def test_a_rehearsal_leaves_the_network_and_random_numbers_as_they_were(name, request, adata):
    model = request.getfixturevalue(name)
    data = token_rows(
        model, adata, labels=np.zeros(120, np.int64), weights=np.ones(120, np.float32)
    )
    plan = PretrainPlan(model.module, Pretraining(), 0)
    if name != "scbert":
        plan = ClassifyPlan(model.module, Finetuning(), 0)
    before, numbers = state(model), torch.get_rng_state()
    step = Rehearsal(plan, data, np.arange(120), CPU).step(5)
    assert step.n_cells == 5
    # the longest cells: the worst case
    assert step.n_tokens == np.sort(data.n_tokens())[-5:].sum()
    assert step.seconds > 0
    assert all(torch.equal(tensor, before[key]) for key, tensor in state(model).items())
    assert torch.equal(torch.get_rng_state(), numbers)
    assert not model.module.training
    assert all(p.grad is None for p in model.module.parameters())


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"status": "VmHWM:\t  200 kB\nVmRSS:\t  100 kB\n"},
        {"status": "Name:\tpython\nVmRSS:\t  100 kB\n", "clear_refs": ""},
    ],
)
def test_a_system_that_does_not_tell_how_much_memory_is_used(
    files, scbert, adata, tmp_path, monkeypatch
):
    """Other systems have no such files, and some containers no peak, or none that begins anew."""
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(devices, "_STATUS", tmp_path / "status")
    plan = PretrainPlan(scbert.module, Pretraining(), 0)
    step = Rehearsal(plan, token_rows(scbert, adata), np.arange(100), CPU).step()
    assert (step.n_cells, step.n_bytes) == (4, None)


def rehearsal(seconds: float, n_bytes: int | None = 2_000_000_000) -> Step:
    return Step(n_cells=2, n_tokens=2 * 10_000, seconds=seconds, n_bytes=n_bytes)


def tokens(mode: str, **choices) -> TokenRows:
    """100 cells with 1,000 of 10,000 genes each."""
    from scipy import sparse

    csr = sparse.csr_matrix(np.tile(np.arange(10_000) < 1000, (100, 1)).astype(np.uint8))
    return TokenRows(csr, Config(n_genes=10_000, tokens=mode, **choices))


def announce(data: TokenRows, step: Step, max_epochs: int = 10) -> str | None:
    return Rehearsal(None, data, np.arange(100), CPU).announcement(
        step, n_cells=100, batch_size=16, max_epochs=max_epochs
    )


def test_a_long_training_is_announced_with_time_memory_and_cheaper_tokens():
    assert announce(tokens("all"), rehearsal(72)) == (
        "One epoch of 100 cells will take about 60 minutes, 10 epochs at most about 10 hours, "
        "and a step of 16 cells about "
        '16.0 GB. Of these tokens tokens="background" 15% and tokens="expressed" 10% would attend.'
    )
    assert announce(tokens("background"), rehearsal(72, None)) == (
        "One epoch of 100 cells will take about 9 minutes, 10 epochs at most about 2 hours. "
        'Of these tokens tokens="expressed" 67% would attend.'
    )
    assert announce(tokens("expressed"), rehearsal(720)).endswith(
        "and a step of 16 cells about 16.0 GB."
    )
    assert announce(tokens("all", head="scbert", n_classes=2), rehearsal(72)).endswith(
        '(they need head="pool").'
    )


def test_a_short_training_is_not_announced():
    assert announce(tokens("all"), rehearsal(0.01)) is None
    assert announce(tokens("all"), rehearsal(0.01), max_epochs=1000) is not None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(70, "70 seconds"), (600, "10 minutes"), (7200, "2 hours"), (12 * 86400, "12 days")],
)
def test_durations_are_words(seconds, words):
    assert devices._duration(seconds) == words


def test_training_says_it_before_it_starts(adata, pretrain, said, monkeypatch):
    pretrain(adata, 1)
    assert said == []  # two steps of a small network
    monkeypatch.setattr(devices, "LONG", 0.0)
    pretrain(adata, 1)
    (sentence,) = said
    assert re.match(
        r"One epoch of 80 cells will take about \d+ seconds, 1 epochs at most about \d+ seconds",
        sentence,
    )


@pytest.mark.parametrize(("free", "expected"), [(10**12, 64), (8_000, 2), (40_000, 16)])
def test_the_batch_that_fits_is_a_power_of_two_within_the_free_memory(
    adata, scbert, monkeypatch, free, expected
):
    monkeypatch.setattr(devices, "_free_memory", lambda device: free)
    monkeypatch.setattr(Rehearsal, "step", lambda *args: Step(4, 100, 1.0, 4 * 2_000))
    plan = PretrainPlan(scbert.module, Pretraining(), 0)
    rehearsal = Rehearsal(plan, token_rows(scbert, adata), np.arange(100), CPU)
    assert rehearsal.fitting_batch_size() == expected


def test_auto_finds_a_batch_and_trains_with_it(adata, pretrain, said):
    class Sizes(L.Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.seen.append(len(batch["rows"]))

    sizes = Sizes()
    pretrain(adata, 1, batch_size="auto", callbacks=[sizes])
    assert said == ["batch_size=64 fits."]  # 80 training cells
    assert sizes.seen == [64, 16]
    with pytest.raises(ValueError, match="batch_size must be a whole number"):
        pretrain(adata, 1, batch_size="automatic")


# ---- memory runs out


def no_memory() -> None:
    """What PyTorch says itself when a CPU has too little."""
    torch.empty(2**60)


class RunsOut(L.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.current_epoch == 1:
            no_memory()


def test_a_training_that_runs_out_of_memory_says_what_to_change(adata, pretrain):
    with pytest.raises(MemoryError) as caught:
        pretrain(adata, 3, network={"tokens": "all"}, callbacks=[RunsOut()])
    assert str(caught.value) == (
        'Memory ran out in a training step of batch_size=32 cells with tokens="all". Try a '
        "smaller batch_size (with "
        'accumulate_grad_batches to make up for it), recompute=True, precision="bf16-mixed".'
    )  # 60 genes are too few for the other tokens to be much cheaper
    assert "can't allocate memory" in str(caught.value.__cause__)


def test_a_rehearsal_finds_out_before_the_training(adata, monkeypatch):
    ScBERT.setup_anndata(adata)
    model = ScBERT(adata, gene_embedding="learned")
    monkeypatch.setattr(type(model.module), "encode", lambda *args, **cells: no_memory())
    with pytest.raises(
        MemoryError, match=r"Memory ran out in a training step of batch_size=8 cells"
    ):
        model.train(1, batch_size=8, accelerator="cpu")
    assert not model.is_trained_


def test_an_answer_that_runs_out_of_memory_says_what_to_change(scbert, new_cells, monkeypatch):
    monkeypatch.setattr(type(scbert.module), "encode", lambda *args, **cells: no_memory())
    with pytest.raises(
        MemoryError, match=r"in a batch of batch_size=25 cells .* Try a smaller batch_size\.$"
    ):
        scbert.get_latent_representation(new_cells, batch_size=25)


@pytest.mark.parametrize(
    ("config", "end"),
    [
        (
            Config(n_genes=10_000, tokens="all"),
            'tokens="background" or tokens="expressed" costs a fraction.',
        ),
        (Config(n_genes=10_000, tokens="background"), 'tokens="expressed" costs a fraction.'),
        (Config(n_genes=10_000), 'precision="bf16-mixed".'),
    ],
)
def test_cheaper_tokens_are_named_where_there_are_any(config, end):
    with pytest.raises(MemoryError) as caught, enough_memory(config, 4, training=True):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert str(caught.value).endswith(end)


def test_other_errors_pass():
    with (
        pytest.raises(RuntimeError, match="shapes cannot be multiplied"),
        enough_memory(Config(n_genes=5), 4, training=True),
    ):
        torch.ones(2, 3) @ torch.ones(2, 3)


@pytest.mark.parametrize("network", [{}, {"tokens": "all", "n_layers": 2}], ids=str)
def test_recompute_learns_the_same(adata, pretrain, network):
    plain, recomputed = (
        pretrain(adata.copy(), network=network, recompute=choice) for choice in (False, True)
    )
    for name, tensor in plain.module.state_dict().items():
        torch.testing.assert_close(
            recomputed.module.state_dict()[name], tensor, atol=1e-5, rtol=1e-4
        )


def test_features_are_redrawn_while_pretraining_and_kept_otherwise(adata, pretrain, classify):
    def features(model):
        return model.module.blocks[0].attention.projection.clone()

    ScBERT.setup_anndata(adata)
    fresh = ScBERT(adata, n_hidden=16, n_heads=2, gene_embedding="learned")
    kept = pretrain(adata.copy(), 2)
    redrawn, again = (
        pretrain(adata.copy(), 2, feature_redraw_interval=2, early_stopping=False) for _ in range(2)
    )
    assert torch.equal(features(kept), features(fresh))
    assert not torch.equal(features(redrawn), features(fresh))
    assert torch.equal(features(redrawn), features(again))
    before = features(redrawn)
    redrawn.get_latent_representation()
    assert torch.equal(features(redrawn), before)
    with pytest.raises(ValueError, match="feature_redraw_interval must be a whole number"):
        pretrain(adata, 1, feature_redraw_interval=0)


@pytest.mark.parametrize("mode", ["all", "background"])
def test_other_tokens_train_and_predict(adata, new_cells, classify, mode):
    model = classify(adata, 15, lr=1e-2, network={"tokens": mode, "n_background": 15})
    assert (model.predict(adata) == adata.obs["label"]).mean() > 0.8
    alone = model.predict(new_cells[:1].copy(), soft=True)
    np.testing.assert_allclose(alone, model.predict(new_cells, soft=True).iloc[:1], atol=1e-6)


def test_exact_attention_trains_predicts_and_shows_its_attention(adata, new_cells, classify):
    model = classify(adata, 15, lr=1e-2, network={"attention": "exact"})
    assert (model.predict(adata) == adata.obs["label"]).mean() > 0.8
    cells = model.get_cell_attention(new_cells)
    np.testing.assert_allclose(cells.sum(1), 1, rtol=1e-5)


def test_mixed_precision_accumulation_and_clipping(adata, classify):
    """What Lightning offers works with the attention's own gradients."""
    choices = {"precision": "bf16-mixed", "accumulate_grad_batches": 2, "gradient_clip_val": 0.5}
    model = classify(adata, 20, lr=1e-2, batch_size=16, **choices)
    assert (model.predict(adata) == adata.obs["label"]).mean() > 0.8
    assert all(
        tensor.dtype == torch.float32
        for tensor in model.module.state_dict().values()
        if tensor.is_floating_point()
    )
