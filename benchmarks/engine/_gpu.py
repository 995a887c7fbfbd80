"""How much of a GPU the network uses: the speed of a matrix product, cells per second, the largest
batch that fits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.engine._workloads import (
    DIM_HEAD,
    N_HEADS,
    N_LAYERS,
    PUBLISHED,
    WIDTH,
    Settings,
    simulate,
)
from scbert_cll.nn import Config, Performer, mask_tokens

MOST_CELLS, SIDE = 1_024, 8_192
Cells = dict[str, Tensor]


def use_of_gpu(settings: Settings) -> dict[str, Any]:
    """Throughput in bfloat16 of embedding, pretraining and fine-tuning, optimiser included."""
    found = {}
    for mode in [m for m in ("all", "background 500", "expressed") if m in settings.modes]:
        changes = settings.modes[mode] | {
            "n_classes": 2,
            "head": "scbert" if mode == "all" else "pool",
        }
        config = Config(n_genes=settings.n_genes, **PUBLISHED | changes)
        cells = _cells(settings, config)
        for what, job in (
            ("encoding", _encode),
            ("pretraining", _pretrain),
            ("fine-tuning", _finetune),
        ):
            torch.manual_seed(0)
            found[f"{what}, {mode}"] = _throughput(job, Performer(config).cuda(), cells)
    return {"name": torch.cuda.get_device_name(), "peak": peak_tflops(), "throughput": found}


def peak_tflops() -> float:
    """What a large bfloat16 product reaches."""
    a = torch.randn(SIDE, SIDE, device="cuda", dtype=torch.bfloat16)
    seconds = min(_seconds(lambda: a @ a) for _ in range(20))
    return 2 * SIDE**3 / seconds / 1e12


def forward_flops(n_tokens: int) -> float:
    """Of one cell, two per multiplication and addition: projections, features, attention,
    feed-forward layers.
    """
    inner, r = N_HEADS * DIM_HEAD, Config(n_genes=1, dim_head=DIM_HEAD).features
    linear = 4 * inner * WIDTH + 8 * WIDTH**2
    features, attention = 2 * inner * r, 2 * N_HEADS * r * (DIM_HEAD + 1)
    return 2.0 * N_LAYERS * n_tokens * (linear + features + attention)


def _throughput(job: Callable[..., None], network: Performer, cells: Cells) -> dict[str, float]:
    """Cells per second at the best of batches of 2, 4, 8 …, up to the largest that fits."""
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6)
    network.set_recompute(True)
    flops = (1 if job is _encode else 3) * forward_flops(
        cells["tokens"].shape[1]
    )  # recomputation does not count
    batch, largest, best = 2, 0, 0.0
    while batch <= MOST_CELLS:
        part = {name: values[:batch].cuda() for name, values in cells.items()}
        try:
            seconds = min(
                _seconds(lambda part=part: job(network, optimizer, part)) for _ in range(3)
            )
        except torch.cuda.OutOfMemoryError:
            break
        largest, best, batch = batch, max(best, batch / seconds), 2 * batch
    torch.cuda.empty_cache()
    return {"batch": largest, "cells_per_second": best, "tflops": best * flops / 1e12}


def _seconds(work: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def _encode(network: Performer, optimizer: torch.optim.Optimizer, cells: Cells) -> None:
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
        network.encode(**cells)


def _pretrain(network: Performer, optimizer: torch.optim.Optimizer, cells: Cells) -> None:
    seen, chosen = mask_tokens(cells["tokens"], network.config.mask_token)
    with torch.autocast("cuda", torch.bfloat16):
        logits = network.to_bins(network.encode(**cells | {"tokens": seen}, at=chosen))
    _learn(optimizer, F.cross_entropy(logits.float(), cells["tokens"][chosen]))


def _finetune(network: Performer, optimizer: torch.optim.Optimizer, cells: Cells) -> None:
    labels = torch.arange(len(cells["tokens"]), device="cuda") % 2
    with torch.autocast("cuda", torch.bfloat16):
        logits = network(**cells)
    _learn(optimizer, F.cross_entropy(logits.float(), labels))


def _learn(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _cells(settings: Settings, config: Config) -> Cells:
    from scbert_cll.model.training.batches import Rows, TokenRows

    csr = simulate(MOST_CELLS, settings.n_genes, settings.n_expressed)
    (cells,) = TokenRows(csr, config)[Rows(list(range(MOST_CELLS)))]["cells"]
    return cells
