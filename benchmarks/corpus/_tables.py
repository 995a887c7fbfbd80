"""Markdown of what the corpus' benchmark measured."""

from __future__ import annotations

from typing import Any

Report = dict[str, Any]


def markdown(part: str, report: Report) -> str:
    """Tables of a part, with when and where."""
    lines = TABLES[part](report)
    if "machine" in report:
        where, about = (
            report["machine"],
            ", ".join(f"{k} {v}" for k, v in report["versions"].items()),
        )
        lines += [
            "",
            (
                f"{report['date']}. {where['cpu']}, {where['cores']} cores, {where['memory_gib']} "
                f"GiB. {about}."
            ),
        ]
    return "\n".join(lines) + "\n"


def _table(titles: list[str], rows: list[list[str]]) -> list[str]:
    head = ["| " + " | ".join(titles) + " |", "| --- " + "| ---: " * (len(titles) - 1) + "|"]
    return head + ["| " + " | ".join(row) + " |" for row in rows]


def _simulate(report: Report) -> list[str]:
    cells = [
        f"{report['cells']:,}",
        str(report["files"]),
        _gb(report["bytes"]),
        _time(report["seconds"]),
    ]
    return _table(["simulated cells", "files", "on disk", "time"], [cells])


def _loading(report: Report) -> list[str]:
    sizes = [key.split(", ")[1] for key in report["rows"][0]["ours_over_it"]]
    titles = ["loader"] + [
        f"batches of {n}: {what}" for n in sizes for what in ("as delivered", "as tokens")
    ]
    titles += [f"CorpusData is faster by, {n}" for n in sizes] + ["memory", "cells checked"]
    rows = []
    for row in report["rows"]:
        rates, ratios = row["cells_per_second"], row["ours_over_it"]
        cells = [_range(rates[f"{what}, {n}"]) for n in sizes for what in ("delivered", "tokens")]
        cells += [_range(ratios[f"tokens, {n}"], ".2f") for n in sizes]
        rows.append([row["loader"], *cells, _gb(row["peak_bytes"]), f"{row['checked']:,}"])
    return ["**Cells per second.**", "", *_table(titles, rows)]


def _memory(report: Report) -> list[str]:
    what = list(report["bytes_per_cell"])
    rows = [[f"{row['cells']:,}", *(_gb(row[w]) for w in what)] for row in report["rows"]]
    rows.append(["a further cell", *(f"{report['bytes_per_cell'][w]:.1f} bytes" for w in what)])
    return ["**Peak memory of a process.**", "", *_table(["cells", *what], rows)]


def _share(report: Report) -> list[str]:
    titles = [
        "training",
        "workers",
        "cells per step",
        "cells/s",
        "waiting for cells",
        "making tokens",
    ]
    titles += ["data alone, cells/s"]
    rows = []
    for row in report["rows"]:
        cells = [
            row["what"],
            str(row["workers"]),
            str(row["batch_size"]),
            _rate(row["cells_per_second"]),
        ]
        cells += [
            f"{row['waiting']:.2%}",
            f"{row['tokens']:.2%}",
            f"{row['loader_cells_per_second']:,.0f}",
        ]
        rows.append(cells)
    return ["**Share of the training time that goes into data.**", "", *_table(titles, rows)]


def _scaling(report: Report) -> list[str]:
    rows = [
        [
            row["way"],
            _range(row["cells_per_second"]),
            _range(row["efficiency"], ".0%"),
            "" if row["of_apart"] is None else _range(row["of_apart"], ".0%"),
            _range(row["busy_before"], ".0%"),
        ]
        for row in report["rows"]
    ]
    titles = [
        "training",
        "cells/s",
        "of one core's, per core",
        "of two trainings apart",
        "cores in use before",
    ]
    return _table(titles, rows)


def _plan(report: Report) -> list[str]:
    titles = ["network", "cells", "machine", "cells/s", "time", "cost", "what it is"]
    rows = []
    for row in report["rows"]:
        machine = f"{row['gpus']} GPU{'s' * (row['gpus'] > 1)}" if row["gpus"] else "2 cores"
        cost = "" if row["cost"] is None else f"${row['cost']:,.0f}"
        rows.append(
            [
                row["network"],
                f"{row['cells']:,}",
                machine,
                _rate(row["rate"]),
                _time(3600 * row["hours"]),
            ]
        )
        rows[-1] += [cost, row["kind"]]
    assumed = ", ".join(f"{n}: {share:.0%}" for n, share in report["efficiency"].items())
    note = (
        f"{report['epochs']} epochs. Times on cores are extrapolated from measured training "
        f"steps. Nothing was measured on a GPU: those are arithmetic, "
        f"operations over 35 % of a card's bfloat16 peak of 790 TFLOP/s. Assumed: "
        f"${report['price_per_gpu_hour']:g} per GPU and hour; "
        f"share of the speed that is left on several GPUs ({assumed})."
    )
    return [*_table(titles, rows), "", note]


def _million(report: Report) -> list[str]:
    names = {
        "simulate": "simulated",
        "build": "corpus built",
        "train": f"trained for {report['steps']} steps on two processes",
        "killed": f"the same, killed (SIGKILL) after step {report['killed_after_step']}",
        "resumed": "and resumed to the end",
        "predict": "every cell embedded, two processes",
    }
    rows = []
    for stage, found in report["stages"].items():
        peaks = " / ".join(_gb(peak) for peak in report["peak_bytes"].get(stage, []))
        rows.append([names[stage], _time(found.get("whole_seconds", found.get("seconds"))), peaks])
    same, check = (
        "bit for bit those" if report["same_weights"] else "not those",
        report["stages"]["predict"]["check"],
    )
    said = (
        f"The weights after resuming are {same} of the run that was not interrupted. "
        f"Embeddings of {check['compared']} cells drawn at random are "
        f"those of the model in memory ({check['largest_difference']:.1g} apart at most)."
    )
    return [
        *_table([f"{report['cells']:,} cells", "time", "peak memory of each process"], rows),
        "",
        said,
    ]


TABLES = {
    "simulate": _simulate,
    "loading": _loading,
    "memory": _memory,
    "loader-share": _share,
    "scaling": _scaling,
    "plan": _plan,
    "million": _million,
}


def _range(found: dict[str, float], form: str = ",.0f") -> str:
    low, middle, high = (format(found[key], form) for key in ("min", "median", "max"))
    return middle if low == high else f"{middle} ({low}–{high})"


def _gb(n: float) -> str:
    return f"{n / 1e9:.2f} GB" if n >= 1e8 else f"{n / 1e6:.1f} MB"


def _rate(n: float) -> str:
    return f"{n:,.0f}" if n >= 100 else f"{n:.2g}"


def _time(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.0f} s"
