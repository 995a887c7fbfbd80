"""How far FAVOR+ is from the softmax attention it approximates, on the same weights, by the number
of random features.

    # a smaller network, under a minute, writes nothing
    python -m benchmarks.engine.approximation --quick
    python -m benchmarks.engine.approximation  # some minutes on two cores

Four networks: the published one at its random start with 1,500 genes, twice more with larger query
and key weights, and the `small` preset trained on the toy data. Errors are relative: the norm of
the difference over the norm of the exact result, of

    output      what the attention of a layer says, given the same input (without the constant bias)
    encodings   what leaves the whole network
    received    the attention each gene receives in a layer, given the same input
                (mean over queries, by head)

Beside them stands uniform attention, which knows nothing of queries and keys: an error near its own
is no approximation. The table and the figure (`docs/_static/approximation.png`) show medians over
cells and layers, then over draws of the features.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.lines import Line2D
from torch import Tensor

import scbert_cll as sc_cll
from benchmarks._measure import machine, spread, versions
from benchmarks.engine._figure import log_axes
from benchmarks.engine._tables import grid
from benchmarks.engine._workloads import BINS, PUBLISHED
from scbert_cll.model.training.batches import Rows, TokenRows
from scbert_cll.nn import Config, Performer, favor
from scbert_cll.pl._style import BLUE, GREEN, GREY, ORANGE, SKY, styled

mpl.use("agg")
ROOT = Path(__file__).parents[2]
JSON, FIGURE = (
    ROOT / "benchmarks" / "results" / "approximation.json",
    ROOT / "docs" / "_static" / "approximation.png",
)
STABILIZERS = ("cell", "head")
QUANTITIES = {
    "output": "attention output of a layer",
    "encodings": "encodings",
    "received": "gene attention of a layer",
}
COLOURS = {
    "published": SKY,
    "published, q and k × 2": BLUE,
    "published, q and k × 4": GREEN,
    "small, trained": ORANGE,
}

Found = dict[str, list[Tensor]]  # per quantity, of one cell: a tensor per layer, or one


class Settings(NamedTuple):
    features: tuple[int, ...] = (16, 64, 266, 1024)
    draws: int = 3
    published: Config = Config(n_genes=1_500, **PUBLISHED)
    published_cells: int = 1
    trained_cells: int = 4
    toy: dict[str, int] = {}  # noqa: RUF012
    epochs: tuple[int, int] = (5, 10)  # pretraining, fine-tuning


QUICK = Settings(
    features=(16, 64),
    draws=2,
    published=replace(Settings().published, n_genes=100, n_layers=2),
    trained_cells=2,
    toy={"n_cells": 300, "n_genes": 200},
    epochs=(1, 1),
)


class Case(NamedTuple):
    name: str
    network: Performer
    cells: list[dict[str, Tensor]]


def cases(settings: Settings) -> list[Case]:
    generator, n_genes = torch.Generator().manual_seed(0), settings.published.n_genes
    torch.manual_seed(0)
    network = Performer(settings.published).eval()
    cells = [
        {
            "tokens": 1
            + torch.multinomial(torch.tensor(BINS), n_genes, replacement=True, generator=generator)[
                None
            ]
        }
        for _ in range(settings.published_cells)
    ]
    published = [
        Case(name, sharpened(network, factor), cells)
        for name, factor in zip(COLOURS, (1, 2, 4), strict=False)
    ]
    return [*published, trained(settings)]


def sharpened(network: Performer, factor: float) -> Performer:
    """The network with larger query and key weights; the logits of its attention grow by the
    square.
    """
    network = copy.deepcopy(network)
    for block in network.blocks:
        queries, keys, _ = block.attention.qkv.weight.data.chunk(3)
        queries *= factor
        keys *= factor
    return network


def trained(settings: Settings) -> Case:
    """The small preset after the steps of the quickstart, and held-out cells."""
    mdata = sc_cll.datasets.cll_toy(**settings.toy)
    adata = mdata["rna"]
    sc_cll.pp.label_cd49d(mdata, cells=sc_cll.pp.cll_mask(mdata), donor_key="donor")
    sc_cll.pp.split_donors(adata, "donor", labels_key="cd49d", rng=0)
    sc_cll.pp.bin_expression(adata)
    sc_cll.tl.gene2vec(adata, n_dims=32)
    how = {"accelerator": "cpu", "enable_progress_bar": False}
    pretrained = sc_cll.tl.pretrain(adata, max_epochs=settings.epochs[0], **how)
    model = sc_cll.tl.finetune(
        adata, pretrained, labels_key="cd49d", max_epochs=settings.epochs[1], **how
    )
    rows = np.flatnonzero(adata.obs["split"] == "test")[: settings.trained_cells]
    data = TokenRows(adata.layers["binned"].tocsr(), model.module.config)
    return Case(
        "small, trained", model.module.eval(), [data[Rows([int(i)])]["cells"][0] for i in rows]
    )


# ---- the same weights with another attention


def changed(network: Performer, change: Callable[[Any, int], None]) -> Performer:
    network = copy.deepcopy(network)
    for i, block in enumerate(network.blocks):
        change(block.attention, i)
    return network


def exact(network: Performer) -> Performer:
    def change(attention: Any, layer: int) -> None:
        attention.kind = "exact"

    return changed(network, change)


def uniform(network: Performer) -> Performer:
    """All queries zero: every gene attends to all alike."""

    def change(attention: Any, layer: int) -> None:
        attention.kind = "exact"
        attention.qkv.weight.data.chunk(3)[0].zero_()

    return changed(network, change)


def approximate(network: Performer, n_features: int, stabilizer: str, draw: int) -> Performer:
    def change(attention: Any, layer: int) -> None:
        generator = torch.Generator().manual_seed(100 * draw + layer)
        dim = attention.projection.shape[1]
        attention.projection = favor.orthogonal_features(n_features, dim, generator)
        attention.stabilizer = stabilizer

    return changed(network, change)


# ---- errors


def inputs(network: Performer, cell: dict[str, Tensor]) -> list[Tensor]:
    """What the attention of each layer sees."""
    x, seen = network.embed(cell["tokens"], cell.get("genes")), []
    for block in network.blocks:
        seen.append(block.attention_norm(x))
        x = block(x, cell.get("weight"))
    return seen


def results(network: Performer, cell: dict[str, Tensor], seen: list[Tensor]) -> Found:
    layers = [(block.attention, x) for block, x in zip(network.blocks, seen, strict=True)]
    weight = cell.get("weight")
    share = favor.mean_weight(cell["tokens"], weight)
    return {
        "output": [attention(x, weight) - attention.out.bias for attention, x in layers],
        "encodings": [network.encode(**cell)],
        "received": [attention.received(x, share, weight) for attention, x in layers],
    }


def differences(
    network: Performer, cells: list[dict[str, Tensor]], expected: list[tuple[list[Tensor], Found]]
) -> dict:
    """Per quantity the relative errors of all cells and layers."""
    errors: dict[str, list[float]] = {quantity: [] for quantity in QUANTITIES}
    for cell, (seen, right) in zip(cells, expected, strict=True):
        found = results(network, cell, seen)
        for quantity, values in errors.items():
            pairs = zip(found[quantity], right[quantity], strict=True)
            values += [float((a - b).norm() / b.norm()) for a, b in pairs]
    return errors


@torch.inference_mode()
def measure(case: Case, settings: Settings) -> list[dict[str, Any]]:
    """One row per number of features, stabiliser and quantity: the median, and its spread over the
    draws.
    """
    right = exact(case.network)
    expected = [(seen := inputs(right, cell), results(right, cell, seen)) for cell in case.cells]
    nothing = differences(uniform(case.network), case.cells, expected)
    rows = []
    for n_features in settings.features:
        for stabilizer in STABILIZERS:
            draws = [
                differences(
                    approximate(case.network, n_features, stabilizer, draw), case.cells, expected
                )
                for draw in range(settings.draws)
            ]
            for quantity in QUANTITIES:
                error = spread([float(np.median(draw[quantity])) for draw in draws])
                within = np.percentile([draw[quantity] for draw in draws], [10, 90]).tolist()
                row = {
                    "network": case.name,
                    "features": n_features,
                    "stabilizer": stabilizer,
                    "quantity": quantity,
                }
                uniform_error = float(np.median(nothing[quantity]))
                rows.append(
                    row
                    | {"error": error, "cells_and_layers_10_90": within, "uniform": uniform_error}
                )
    return rows


# ---- what is shown


def table(rows: list[dict[str, Any]]) -> str:
    header = [
        "network",
        "stabiliser",
        "error of",
        *(f"{n:,}" for n in sorted({r["features"] for r in rows})),
        "uniform",
    ]
    lines: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        line = lines.setdefault((row["network"], row["stabilizer"], row["quantity"]), [])
        line.append(f"{row['error']['median']:.2%}")
    uniform_errors = {
        (r["network"], r["stabilizer"], r["quantity"]): f"{r['uniform']:.2%}" for r in rows
    }
    return grid(header, [[*key, *values, uniform_errors[key]] for key, values in lines.items()])


@styled
def draw_figure(rows: list[dict[str, Any]], path: Path) -> None:
    """A row of panels per stabiliser, a column per quantity."""
    fig, axes = plt.subplots(
        len(STABILIZERS),
        len(QUANTITIES),
        figsize=(7, 4.8),
        sharex=True,
        sharey="col",
        layout="constrained",
    )
    for i, stabilizer in enumerate(STABILIZERS):
        for j, (quantity, title) in enumerate(QUANTITIES.items()):
            ax = axes[i, j]
            _panel(
                ax, [r for r in rows if (r["stabilizer"], r["quantity"]) == (stabilizer, quantity)]
            )
            if i == 0:
                ax.set_title(title)
        axes[i, 0].set_ylabel(f"relative error (%)\nmaximum per {stabilizer}")
    fig.supxlabel("random features per head", fontsize=8)
    handles = [
        Line2D([], [], color=c, marker="o", ms=3.5, label=name) for name, c in COLOURS.items()
    ]
    handles.append(Line2D([], [], color=GREY, ls=":", label="uniform attention"))
    fig.legend(
        handles=handles, loc="outside upper center", ncols=5, columnspacing=1.2, handlelength=1.6
    )
    fig.savefig(path, dpi=200)
    plt.close(fig)


def _panel(ax: Any, rows: list[dict[str, Any]]) -> None:
    for name, colour in COLOURS.items():
        own = [row for row in rows if row["network"] == name]
        x, middle, low, high = (
            [row["features"] for row in own],
            *([100 * row["error"][part] for row in own] for part in ("median", "min", "max")),
        )
        ax.plot(x, middle, color=colour, marker="o", ms=3.5, lw=1.2)
        ax.fill_between(x, low, high, color=colour, alpha=0.25, lw=0)
        ax.axhline(100 * own[0]["uniform"], color=colour, lw=1, ls=":")
    log_axes(ax, x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="smaller networks, few features; writes nothing"
    )
    args = parser.parse_args()
    settings = QUICK if args.quick else Settings()
    rows = [row for case in cases(settings) for row in measure(case, settings)]
    print(table(rows))
    if args.quick:
        return
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "versions": versions("scbert-cll", "torch"),
        "settings": {
            "draws": settings.draws,
            "genes": settings.published.n_genes,
            "epochs": settings.epochs,
        },
        "rows": rows,
    }
    JSON.write_text(json.dumps(report, indent=2) + "\n")
    draw_figure(rows, FIGURE)


if __name__ == "__main__":
    main()
