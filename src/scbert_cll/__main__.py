"""Command line: ``python -m scbert_cll demo``."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 on success, 2 with one sentence on bad input."""
    options = vars(_parser().parse_args(argv))
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger("scbert_cll").setLevel(logging.INFO)
    # Threads that wait actively cost a shared machine several times the work itself; read when OpenMP loads
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from scbert_cll import _demo  # brings scanpy and torch: not for --help

    options.pop("command")
    traceback = options.pop("traceback")
    try:
        _demo.run(_demo.Options(**options))
    except (FileNotFoundError, KeyError, ValueError) as error:
        if traceback:
            raise
        sentence = error.args[0] if isinstance(error, KeyError) else error  # a KeyError's own text is quoted
        print(f"error: {sentence}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scbert_cll", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="the whole workflow: label by protein, hold donors out, train, predict, draw, report",
        description="Label cells by a protein, hold donors out, train scBERT on RNA, predict, draw and report. "
        "Without --input it runs on simulated CLL data whose truth is known.",
    )
    demo.add_argument(
        "--input",
        type=Path,
        metavar="FILE",
        help=".h5mu with RNA and protein, or .h5ad with protein in obsm; raw counts",
    )
    demo.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        default=Path("scbert_cll_demo"),
        help="folder for everything written (default: %(default)s)",
    )
    demo.add_argument("--marker", default="CD49d", help="protein that labels the cells (default: %(default)s)")
    demo.add_argument(
        "--gene", default="ITGA4", help="the marker's gene, for the figure and the baselines (default: %(default)s)"
    )
    demo.add_argument(
        "--donor-key", default="donor", metavar="COLUMN", help="obs column of donors (default: %(default)s)"
    )
    demo.add_argument("--batch-key", metavar="COLUMN", help="obs column of batches, gated apart")
    demo.add_argument(
        "--label",
        choices=["auto", "gmm", "quantile"],
        default="auto",
        help="auto (default): two populations by mixture, else the outer thirds",
    )
    demo.add_argument(
        "--cells", choices=["all", "cll"], help="cells to label: all, or CD19+CD5+ (default: cll for the toy, else all)"
    )
    demo.add_argument(
        "--pretrain-on", type=Path, metavar="FILE", help=".h5ad with more RNA (raw counts) to pretrain on"
    )
    demo.add_argument(
        "--max-epochs",
        type=int,
        metavar="N",
        help="passes over the training cells in each stage (default: 10 to 40 by their number)",
    )
    demo.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default: %(default)s)")
    demo.add_argument(
        "--accelerator", choices=["auto", "cpu", "gpu"], default="auto", help="where to train (default: %(default)s)"
    )
    demo.add_argument("--traceback", action="store_true", help="on an error, show where it happened")
    return parser


if __name__ == "__main__":
    sys.exit(main())
