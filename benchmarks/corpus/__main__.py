"""A corpus of a million cells: loading, memory, the loader's share of a step, two processes, what
large runs cost, and all of it end to end.

    python -m benchmarks.corpus PART --out FOLDER  # Linux; best with nothing else running
    # some thousand cells, writes nothing outside FOLDER
    python -m benchmarks.corpus PART --out FOLDER --quick

Parts: simulate, loading, memory, loader-share, scaling, plan, million. What is in FOLDER already is
not made again, so that a run can be interrupted; at full size it takes some 10 GB. Delete it
afterwards. Results go to `results/corpus_PART.json`, their tables to `results/corpus.md`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.corpus._memory import memory
from benchmarks.corpus._million import million, simulated
from benchmarks.corpus._plan import RESULTS, plan
from benchmarks.corpus._speed import loader_share, loading, scaling
from benchmarks.corpus._stages import QUICK, Place, Scale, stamp
from benchmarks.corpus._tables import TABLES, markdown

PARTS: dict[str, Callable[[Place], dict[str, Any]]] = {
    "simulate": simulated,
    "loading": loading,
    "memory": memory,
    "loader-share": loader_share,
    "scaling": scaling,
    "million": million,
}


def measure(part: str, folder: Path, scale: Scale, price: float) -> dict[str, Any]:
    if part == "plan":
        return plan(price)
    place = Place(folder.resolve(), scale)
    place.folder.mkdir(parents=True, exist_ok=True)
    found = PARTS[part](place)
    return stamp(place) | found


def keep(part: str, report: dict[str, Any]) -> None:
    """Write the result, and all tables anew."""
    (RESULTS / f"corpus_{part}.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / "corpus.md").write_text(page())


def page() -> str:
    """The tables of docs/cluster.md from the results at hand."""
    texts = []
    for name in TABLES:
        path = RESULTS / f"corpus_{name}.json"
        if path.exists():
            texts.append(f"## {name}\n\n{markdown(name, json.loads(path.read_text()))}")
    return "\n".join(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=list(TABLES))
    parser.add_argument("--out", type=Path, help="where files are made; kept")
    parser.add_argument("--quick", action="store_true", help="small, and writes no results")
    parser.add_argument("--cells", type=int, help="cells of `million` and `simulate`")
    parser.add_argument(
        "--price", type=float, default=2.5, help="of a GPU and hour, in dollars; an assumption"
    )
    args = parser.parse_args()
    scale = QUICK if args.quick else Scale()
    if args.cells:
        scale = scale._replace(million=args.cells)
    if args.out is None and args.part != "plan" and not args.quick:
        parser.error("--out is where the files are to be made")
    with tempfile.TemporaryDirectory() as aside:
        folder = args.out or Path(aside)
        report = measure(args.part, folder / "quick" if args.quick else folder, scale, args.price)
    print(markdown(args.part, report))
    if not args.quick:
        keep(args.part, report)


if __name__ == "__main__":
    main()
