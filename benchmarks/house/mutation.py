"""How many small errors the tests notice: a simple random sample of mutants of each room, made and
run by mutmut.

mutmut changes one operator, number, word or argument at a time. A mutant that no test notices is
either a gap of the tests or changes nothing that anybody sees. It brings libraries of its own, so
it is installed in a folder of its own:

    .venv/bin/pip install --target /tmp/mutmut "mutmut==3.8.1"
    PYTHONPATH=/tmp/mutmut .venv/bin/python -m benchmarks.house.mutation /tmp/mutants --n 80

A room takes some ten minutes on one core. The same seed draws the same mutants while the code is
the same; `--again` runs those that survived.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Final

from statsmodels.stats.proportion import proportion_confint

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = "src/scbert_cll"
# files that are changed, tests that should notice
ROOMS: Final[dict[str, tuple[list[str], list[str]]]] = {
    "_signature": (
        ["_signature/*.py", "_signature/report/*.py"],
        [
            "tests/laws/test_edges.py",
            "tests/_signature",
            "tests/tl/_signature/test_verb.py",
            "tests/tl/_signature_report/test_verb.py",
        ],
    ),
    "pp": (  # what pp.build_corpus does is done by _corpus
        [
            "_binning.py",
            "_protein/*.py",
            *("pp/_a*.py", "pp/_bal*.py", "pp/_bin*.py", "pp/_c*.py", "pp/_[dgilms]*.py"),
        ],
        [
            "tests/laws/test_edges.py",
            "tests/_protein/test_names.py",
            *(
                f"tests/pp/test_{name}.py"
                for name in (
                    "align_genes",
                    "balance",
                    "bin_expression",
                    "cll_mask",
                    "collapse_probes",
                    "label_cd49d",
                    "split_donors",
                )
            ),
        ],
    ),
    "prognosis": (
        ["_survival/*.py", "tl/_prognosis/*.py"],
        [
            "tests/laws/test_edges.py",
            "tests/_survival",
            "tests/tl/_prognosis/test_verb.py",
            "tests/tl/test_survival.py",
        ],
    ),
    "nn": (["nn/*.py"], ["tests/nn"]),
}
_SURVIVED, _NO_TEST = 0, 33  # exit codes of mutmut's


def prepare(place: Path, room: str) -> Path:
    """Lay a copy of what git knows in the checkout, with mutmut's settings for the room."""
    at = place / room
    at.mkdir(parents=True, exist_ok=True)
    command = ["git", "ls-files"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = listed.stdout.split()
    for file in files:
        (at / file).parent.mkdir(parents=True, exist_ok=True)
        (at / file).write_bytes((ROOT / file).read_bytes())
    if (data := ROOT.parent / "shared").exists() and not (at / "shared").exists():
        (at / "shared").symlink_to(data)  # where the tests of the copy look for real data
    changed, tests = ROOMS[room]
    settings = {
        "source_paths": ["src"],
        "only_mutate": [f"{SOURCE}/{name}" for name in changed],
        "also_copy": ["src", "docs", "benchmarks", "README.md", "CHANGELOG.md", "LICENSE"],
        "pytest_add_cli_args": ["-n0", "-p", "no:cacheprovider"],
        "pytest_add_cli_args_test_selection": [test for test in tests if (ROOT / test).exists()],
        "timeout_constant": 30.0,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    with (at / "pyproject.toml").open("a") as file:
        file.write("\n".join(["", "[tool.mutmut]", *lines, ""]))
    return at


def run(at: Path, names: list[str]) -> None:
    """Run some mutants, each with the tests that reach it."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "CI": "true",
    }  # hypothesis then sets no time limit
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1", *names]
    with (at / "mutmut.log").open("a") as log:
        subprocess.run(command, cwd=at, env=environment, stdout=log, stderr=log, check=False)


def codes(at: Path) -> dict[str, int | None]:
    """Exit code of each mutant by name; None of one that was not run."""
    found: dict[str, int | None] = {}
    for file in sorted((at / "mutants").rglob("*.meta")):
        found |= json.loads(file.read_text())["exit_code_by_key"]
    return found


def report(room: str, sample: list[str], found: dict[str, int | None]) -> str:
    """A row of the table, and the names of those that nobody noticed."""
    done = [name for name in sample if found.get(name) is not None]
    if not done:
        return f"{room}: none was run; mutmut.log says why"
    left = [name for name in done if found[name] in (_SURVIVED, _NO_TEST)]
    low, high = proportion_confint(len(done) - len(left), len(done), method="wilson")
    share = f"{(len(done) - len(left)) / len(done):.0%} ({low:.0%} to {high:.0%})"
    return "\n".join(
        [f"| {room} | {len(found):,} | {len(done)} | {len(done) - len(left)} | {share} |", *left]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("place", type=Path, help="folder for the copies")
    parser.add_argument("--rooms", nargs="+", choices=ROOMS, default=list(ROOMS))
    parser.add_argument("--n", type=int, default=80, help="mutants of each room")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--again",
        action="store_true",
        help="only those of the sample that survived, with the tests as they are now",
    )
    asked = parser.parse_args()
    for room in asked.rooms:
        at = prepare(asked.place, room)
        before = codes(at)
        if not asked.again:
            run(at, ["none of them"])  # makes them all, and notes which test reaches which function
            before = codes(at)
        sample = sorted(random.Random(asked.seed).sample(sorted(before), min(asked.n, len(before))))  # noqa: S311
        run(
            at,
            [name for name in sample if not asked.again or before[name] in (_SURVIVED, _NO_TEST)],
        )
        print(report(room, sample, codes(at)), flush=True)


if __name__ == "__main__":
    main()
