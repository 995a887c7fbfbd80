"""What `tl.signature(design="both")` finds beside donors compared within only, and how often it
sees that donors of one class tell another story.

    python -m benchmarks.signature.designs           # 20 data sets a row, minutes, on one core
    python -m benchmarks.signature.designs --sets 2  # writes nothing

Log-sums of 2,000 genes, 60 of them true; donors' spread and the samples' errors differ from gene to
gene (scaled inverse chi-square, 8 degrees of freedom). Clone genes, 15 % where there are any,
differ between homogeneous donors by clone and not by class. The test alone, without the classifier.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from scbert_cll._signature.both import LEVEL, MixedDesign

RESULTS = Path(__file__).parents[1] / "results" / "signature_designs.json"
N_GENES, N_TRUE, SD_ERROR = 2000, 60, 0.2
ABUNDANCE = (5, 13)  # log2, from and to


class Study(NamedTuple):
    """Donors with both classes and with one, effect, donors' spread, share of clone genes."""

    n_bimodal: int
    n_homogeneous: int
    effect: float
    sd_donor: float
    clones: float = 0.0


STUDIES = [
    Study(*donors, effect, sd, clones)
    for clones in (0.0, 0.15)
    for donors in ((2, 10), (4, 8))
    for effect in (0.0, 0.5, 1.0)
    for sd in (0.3, 0.5, 0.8)
]


def simulated(study: Study, rng: np.random.Generator) -> MixedDesign:
    """Samples of one data set; the first genes are true."""
    m, n = study.n_bimodal, study.n_homogeneous
    one = rng.permutation(np.resize([0, 1], n))
    code = np.concatenate([np.tile([0, 1], m), one])
    donor = np.concatenate([np.repeat(np.arange(m), 2), m + np.arange(n)])
    spread, error = (
        sd * np.sqrt(6 / rng.chisquare(8, N_GENES)) for sd in (study.sd_donor, SD_ERROR)
    )
    log = rng.uniform(*ABUNDANCE, N_GENES) + error * rng.normal(size=(len(code), N_GENES))
    log += (spread * rng.normal(size=(m + n, N_GENES)))[donor]
    log[:, :N_TRUE] += study.effect * rng.choice([-1, 1], N_TRUE) * code[:, None]
    clones = slice(N_TRUE, N_TRUE + round(study.clones * N_GENES))
    sign = rng.choice([-1, 1], clones.stop - N_TRUE)
    log[:, clones] += sign * (code * (donor >= m))[:, None]
    ones, names = np.ones(len(code)), np.array([f"D{i:02d}" for i in donor], dtype=object)
    total = np.maximum(2.0**log - 2, 0)
    none = np.empty((len(code), 0))
    given = total, names, code, ones, ones, ["negative", "positive"], False, none
    return MixedDesign(*given, np.arange(len(code)))


def asked(study: Study, rng: np.random.Generator) -> dict[str, float]:
    """Recall and share of false genes of each way, verdict, and small p of genes without effect."""
    design = simulated(study, rng)
    joined = design.joined
    ways = {"joined": joined.test.p, "within": design.inside.test().p}
    called = {name: stats.false_discovery_control(p) < 0.05 for name, p in ways.items()}
    called["gated"] = called["joined"] & (joined.p_disagree > LEVEL)
    row = {"disagree": float(not joined.agree), "share": joined.share}
    row["small_p"] = float((joined.test.p[N_TRUE:] < 0.001).mean() / 0.001)
    for name, genes in called.items():
        row[f"recall_{name}"] = float(genes[:N_TRUE].mean())
        row[f"false_{name}"] = float(genes[N_TRUE:].sum() / max(genes.sum(), 1))
    return row


def main() -> None:
    """A row per study, the mean over its data sets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=20)
    n = parser.parse_args().sets
    rows = []
    for i, study in enumerate(STUDIES):
        sets = [asked(study, np.random.default_rng([i, seed])) for seed in range(n)]
        rows.append(study._asdict() | pd.DataFrame(sets).mean().round(4).to_dict())
        print(rows[-1], flush=True)
    if n >= 20:
        held = {"date": datetime.now(UTC).date().isoformat(), "n_sets": n, "rows": rows}
        RESULTS.write_text(json.dumps(held, indent=1) + "\n")


if __name__ == "__main__":
    main()
