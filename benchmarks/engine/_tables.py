"""From the measurements of `engine.py` to rows with targets, and from those to markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks._measure import Run, spread
from benchmarks.engine._workloads import N_GENES, N_HEADS, N_LAYERS, Settings

Runs = dict[str, dict[int, list[Run]]]  # by task and tokens
Row = dict[str, Any]
FULL = N_GENES + 1


class Comparison(NamedTuple):
    what: str
    beside: str
    ours: str
    faster: float | None = None  # targets: times faster, times less memory
    smaller: float | None = None
    at: int = FULL  # tokens where the targets hold


PEER = [
    Comparison("forward, float32", "peer forward", "forward", 2.5, 8),
    Comparison("forward, ours in bfloat16", "peer forward", "forward bf16", 4.5),
    Comparison("forward, both in bfloat16", "peer forward bf16", "forward bf16"),
    Comparison("training step, float32", "peer step", "step", 2.3, 5),
    Comparison("training step, ours recomputing", "peer step", "step recomputed", None, 12),
    Comparison("forward, its allocator keeping memory", "peer forward kept", "forward"),
    Comparison("training step, its allocator keeping memory", "peer step kept", "step"),
]
ATTENTION = [Comparison("one layer", "dense attention", "attention", 15, at=4_000)]
SHORTCUTS = [
    Comparison("training step, last block for hidden genes only", "step whole", "step at"),
    Comparison(
        "first block of several cells, sums over zeros shared", "first block apart", "first block"
    ),
    Comparison("no gene vectors: each level once", "levels apart", "levels"),
]
FASTER_THAN_ALL = {"background 500": 7.0, "expressed": 9.0}
MOST_ERROR = {"background 500": 0.015}
MOST_MEMORY = 150e6  # gene attention of one cell at full length

MEANT = {
    "time": "Seconds per cell",
    "memory": "Peak memory above what the process held before, MB",
    "attention time": "Gene attention, seconds per cell",
    "attention memory": "Gene attention, peak memory above what the process held before, MB",
    "modes": "Which genes attend: encoding, seconds per cell",
    "shortcuts": "Exact shortcuts, seconds per cell",
}
BESIDE = {
    "time": "performer-pytorch",
    "memory": "performer-pytorch",
    "attention time": "dense",
    "attention memory": "dense",
    "modes": "all",
    "shortcuts": "the long way",
}


def rows(runs: Runs, settings: Settings, errors: dict[str, dict[str, float]]) -> list[Row]:
    modes = [
        Comparison(mode, "encode all", f"encode {mode}", FASTER_THAN_ALL.get(mode))
        for mode in (*settings.modes, BF16)
    ]
    return [
        *_compared("time", PEER, runs, "seconds"),
        *_compared("memory", PEER, runs, "peak_bytes"),
        *_compared("attention time", ATTENTION, runs, "seconds"),
        *_alone("attention time", f"{N_LAYERS} layers", runs["gene attention"], "seconds"),
        *_compared("attention memory", ATTENTION, runs, "peak_bytes"),
        *_alone(
            "attention memory",
            f"{N_LAYERS} layers",
            runs["gene attention"],
            "peak_bytes",
            MOST_MEMORY,
        ),
        *(
            row | _inexact(row["what"], settings, errors)
            for row in _compared("modes", modes, runs, "seconds")
        ),
        *_compared("shortcuts", SHORTCUTS, runs, "seconds"),
    ]


BF16 = "expressed bf16"


def _compared(
    table: str, comparisons: list[Comparison], runs: Runs, quantity: str
) -> Iterator[Row]:
    for c in comparisons:
        for tokens, ours in runs.get(c.ours, {}).items():
            beside = runs.get(c.beside, {}).get(tokens)
            if beside is None:
                continue
            ratio = spread([a[quantity] / b[quantity] for a, b in zip(beside, ours, strict=True)])
            target = (c.faster if quantity == "seconds" else c.smaller) if tokens == c.at else None
            yield {
                "table": table,
                "what": c.what,
                "tokens": tokens,
                "beside": spread([run[quantity] for run in beside]),
                "ours": spread([run[quantity] for run in ours]),
                "ratio": ratio,
                "target": target,
                "met": None if target is None else ratio["median"] >= target,
            }


def _alone(
    table: str, what: str, runs: dict[int, list[Run]], quantity: str, most: float | None = None
) -> Iterator[Row]:
    for tokens, found in runs.items():
        ours, most_here = spread([run[quantity] for run in found]), most if tokens == FULL else None
        met = None if most_here is None else ours["median"] < most_here
        yield {
            "table": table,
            "what": what,
            "tokens": tokens,
            "ours": ours,
            "most": most_here,
            "met": met,
        }


def _inexact(mode: str, settings: Settings, errors: dict[str, dict[str, float]]) -> Row:
    """How many tokens attend, and the error against all."""
    name, n, whole = mode.removesuffix(" bf16"), settings.n_expressed, settings.n_genes == N_GENES
    changes = settings.modes[name]
    attending = {"all": settings.n_genes + 1, "expressed": n}.get(
        name, n + changes.get("n_background", 0) + 1
    )
    most = MOST_ERROR.get(mode) if whole else None
    met = None if most is None else errors[mode]["median"] <= most
    return {"tokens": attending, "error": errors.get(mode), "most_error": most, "met_error": met}


# ---- markdown


def markdown(report: dict[str, Any]) -> str:
    parts = [_summary(report)]
    for table, caption in MEANT.items():
        found = [row for row in report["rows"] if row["table"] == table]
        parts += [f"**{caption}.**", (_modes if table == "modes" else _table)(table, found)]
    return "\n\n".join([*parts, _dense_needs(), *_gpu(report), _where(report)]) + "\n"


def _summary(report: dict[str, Any]) -> str:
    targets = [
        met
        for row in report["rows"]
        for met in (row["met"], row.get("met_error"))
        if met is not None
    ]
    missed = [
        _named(row)
        for row in report["rows"]
        if row["met"] is False or row.get("met_error") is False
    ]
    said = f"{sum(targets)} of {len(targets)} targets are met" + (
        f"; missed: {', '.join(missed)}." if missed else "."
    )
    return (
        said
        if report["complete"]
        else f"**Not a full run**: figures to test the program with. {said}"
    )


def _named(row: Row) -> str:
    return f"{row['table']} of {row['what']}"


def _table(table: str, found: list[Row]) -> str:
    unit = 1e6 if "memory" in table else 1
    header = ["what", "tokens", BESIDE[table], "scbert_cll", "ratio (range)", "target", "met"]
    lines = [
        [
            row["what"],
            f"{row['tokens']:,}",
            _number(row["beside"]["median"] / unit) if "beside" in row else "",
            _number(row["ours"]["median"] / unit) if "ratio" in row else _ratio(row["ours"], unit),
            _ratio(row["ratio"]) if "ratio" in row else "",
            _target(row, unit),
            _yes(row["met"]),
        ]
        for row in found
    ]
    return grid(header, lines)


def _modes(table: str, found: list[Row]) -> str:
    header = [
        "genes that attend",
        "tokens",
        "scbert_cll",
        "faster than all (range)",
        "target",
        "met",
    ]
    header += ["error (range)", "target", "met"]
    lines = [
        [
            row["what"],
            f"{row['tokens']:,}",
            _number(row["ours"]["median"]),
            _ratio(row["ratio"]),
            _target(row, 1),
            _yes(row["met"]),
            _percent(row["error"]),
            f"≤ {row['most_error']:.1%}" if row["most_error"] else "",
            _yes(row["met_error"]),
        ]
        for row in found
    ]
    return grid(header, lines)


def grid(header: list[str], lines: list[list[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *lines))


def _number(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.01 else f"{value:.4f}"


def _ratio(ratio: dict[str, float], unit: float = 1) -> str:
    middle, low, high = (_number(ratio[name] / unit) for name in ("median", "min", "max"))
    return f"{middle} ({low}–{high})"


def _percent(error: dict[str, float] | None) -> str:
    return (
        "0" if error is None else f"{error['median']:.1%} ({error['min']:.1%}–{error['max']:.1%})"
    )


def _target(row: Row, unit: float) -> str:
    if row.get("most"):
        return f"< {_number(row['most'] / unit)}"
    return f"≥ {row['target']:g}" if row.get("target") else ""


def _yes(met: bool | None) -> str:
    return {None: "", True: "yes", False: "**no**"}[met]


def _dense_needs() -> str:
    head = 4 * FULL**2 / 1e9
    return (
        f"The dense way at {FULL:,} tokens is left out: one head's matrix has {head:.1f} GB, "
        f"a layer's {N_HEADS} heads "
        f"{N_HEADS * head:.1f} GB, all {N_LAYERS} layers {N_LAYERS * N_HEADS * head:.0f} GB. "
        f"Above, it holds one head at a time."
    )


def _gpu(report: dict[str, Any]) -> list[str]:
    found = report.get("gpu")
    if not found:
        return []
    header = [
        "bfloat16, optimiser included",
        "cells at a time (largest that fits)",
        "cells per second",
        "TFLOP/s",
        "of peak",
    ]
    lines = [
        [
            name,
            str(r["batch"]),
            _number(r["cells_per_second"]),
            _number(r["tflops"]),
            f"{r['tflops'] / found['peak']:.0%}",
        ]
        for name, r in found["throughput"].items()
    ]
    caption = (
        f"**GPU.** A bfloat16 product of 8,192 × 8,192 matrices reaches {found['peak']:.0f} "
        f"TFLOP/s here."
    )
    return [caption, grid(header, lines)]


def _where(report: dict[str, Any]) -> str:
    m, device = report["machine"], report.get("gpu", {}).get("name")
    where = (
        f"{m['cpu']}, {report['threads']} threads on {m['cores']} cores, {m['memory_gib']} GiB, "
        f"{m['system']}"
    )
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    repeats = report["settings"]["repeats"]
    return (
        f"{report['date']}. {f'{device}; ' if device else ''}{where}. {versions}. Medians of "
        f"{repeats} "
        f"{'run' if repeats == 1 else 'runs'}, ratios of neighbouring runs; random weights, "
        f"{report['settings']['expressed']:,} "
        "genes expressed."
    )
