"""Time and peak memory of the network beside performer-pytorch, of gene attention beside the dense
way, and of our own modes.

    python -m benchmarks.engine --quick  # 256 tokens, well under a minute, writes nothing
    python -m benchmarks.engine  # 1,000, 4,000 and 16,907 tokens, about 25 minutes on two cores
    python -m benchmarks.engine --device cuda  # the same on a GPU, and how much of the GPU it uses

Results are compared before anything is timed; a difference ends the program. Every measurement runs
in a process of its own (on a GPU in this one), with the candidates alternating. Memory is what a
call needs above what the process held before it. Linux only. Tables are printed and written to
`benchmarks/results/`, the figure to `docs/_static/`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import defaultdict
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks._measure import PATIENCE, Run, apart, machine, measured, measured_on_gpu, versions
from benchmarks.engine._agreement import check, errors
from benchmarks.engine._figure import draw
from benchmarks.engine._gpu import use_of_gpu
from benchmarks.engine._tables import Runs, markdown, rows
from benchmarks.engine._workloads import KEEPS_MEMORY, Scene, Settings, prepare, tasks

ROOT = Path(__file__).parents[2]
RESULTS, FIGURES = ROOT / "benchmarks" / "results", ROOT / "docs" / "_static"
QUICK = Settings(
    lengths=(256,),
    attention_lengths=(128, 256),
    backgrounds=(20, 50),
    cells=2,
    repeats=1,
    quick=True,
)


class Plan(NamedTuple):
    """Tasks that alternate, and at how many tokens."""

    tasks: list[str]
    lengths: tuple[int, ...]


def plans(settings: Settings) -> list[Plan]:
    full = settings.lengths[-1:]
    beside_peer = [
        f"{who}{what}" for what in ("forward", "forward bf16", "step") for who in ("peer ", "")
    ]
    kept = [] if settings.device == "cuda" else ["peer forward kept", "peer step kept"]
    modes = [f"encode {mode}" for mode in settings.modes]
    return [
        Plan([*beside_peer, "step recomputed"], settings.lengths[:-1]),
        Plan([*beside_peer, "step recomputed", *kept, "gene attention"], full),
        Plan(["dense attention", "attention"], settings.attention_lengths),
        Plan([*modes, "encode expressed bf16"], full),
        Plan(["step whole", "step at"], full),
        Plan(["first block apart", "first block"], full),
        Plan(["levels apart", "levels"], full),
    ]


def run_all(folder: Path, settings: Settings) -> Runs:
    """Measure everything; within a plan the tasks alternate."""
    runs: Runs = defaultdict(lambda: defaultdict(list))
    for plan in plans(settings):
        for length in plan.lengths:
            for _ in range(settings.repeats):
                for name in plan.tasks:
                    run = run_one(folder, settings, name, length)
                    runs[name][length].append(run)
                    said = (
                        f"{name}, {length:,} tokens: {run['seconds']:.3g} s, "
                        f"{run['peak_bytes'] / 1e6:,.0f} MB"
                    )
                    print(said, file=sys.stderr, flush=True)
    return runs


def run_one(folder: Path, settings: Settings, name: str, length: int) -> Run:
    """Measure in a process apart; on a GPU in this one, and in a quick run all but one task, to
    save the start.
    """
    if settings.device == "cuda" or (settings.quick and name != "forward"):
        return measure(folder, name, length)
    arguments = ["--measure", name, "--folder", folder, "--tokens", length]
    return apart(__file__, arguments, KEEPS_MEMORY if name.endswith("kept") else None)


def measure(folder: Path, name: str, length: int) -> Run:
    """One measurement in this process; seconds are per cell."""
    scene = Scene.read(folder, length)
    job = tasks(scene.settings)[name](scene)
    job.warm_up()
    how = measured_on_gpu if scene.settings.device == "cuda" else measured
    run = how(job.work, 0.01 if scene.settings.quick else PATIENCE)
    return run | {"seconds": run["seconds"] / job.cells}


def compare(settings: Settings) -> dict[str, Any]:
    """Everything that is to be known, ready for JSON."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, settings)
        scene = Scene.read(folder, settings.lengths[-1])
        agreement = check(scene)
        apart_from_all = errors(scene)
        runs = run_all(folder, settings)
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "complete": settings.lengths == Settings().lengths
        and settings.repeats >= Settings().repeats,
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "versions": versions("scbert-cll", "torch", "performer-pytorch"),
        "settings": asdict(settings)
        | {"genes": settings.n_genes, "expressed": settings.n_expressed},
        "agreement": agreement,
        "rows": rows(runs, settings, apart_from_all),
        "runs": runs,
    }
    return report | ({"gpu": use_of_gpu(settings)} if settings.device == "cuda" else {})


def write(report: dict[str, Any], text: str) -> None:
    suffix = "_cuda" if report["settings"]["device"] == "cuda" else ""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"engine{suffix}.json").write_text(json.dumps(report, indent=2) + "\n")
    (RESULTS / f"engine{suffix}.md").write_text(text)
    draw(report, FIGURES / f"engine{suffix}.png")


def settings_of(args: argparse.Namespace) -> Settings:
    if args.quick:
        return replace(QUICK, device=args.device)
    lengths = tuple(sorted(args.lengths))
    attention = tuple(n for n in Settings().attention_lengths if n <= lengths[-1]) or lengths
    backgrounds = tuple(n for n in Settings().backgrounds if n < lengths[-1] / 2) or (
        lengths[-1] // 8,
    )
    return Settings(lengths, attention, backgrounds, repeats=args.repeats, device=args.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="few tokens, one repeat, all in this process; writes nothing",
    )
    parser.add_argument("--repeats", type=int, default=Settings().repeats)
    parser.add_argument(
        "--lengths", type=int, nargs="+", default=Settings().lengths, metavar="TOKENS"
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.folder, args.measure, args.tokens)))
        return
    report = compare(settings_of(args))
    text = markdown(report)
    if not args.quick:
        write(report, text)
    print(text)


if __name__ == "__main__":
    main()
