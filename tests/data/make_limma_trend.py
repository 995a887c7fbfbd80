"""Makes limma_trend.npz: limma's moderated t with an abundance trend, and DESeq2's size factors,
for tests/_signature/test_moderated.py.

Run once with inmoose 0.9.1, a port of R's limma (lmFit, eBayes with trend), and PyDESeq2 0.5.4:
``python tests/data/make_limma_trend.py``. The numbers are those of simulated donors (seed 0).
inmoose is GPL-3: it is neither a dependency nor a source of this package, only the other opinion.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from inmoose.limma import eBayes, lmFit
from pydeseq2.preprocessing import deseq2_norm

N_DONORS, N_GENES = 6, 300


def simulated(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Differences of donors (donors, genes) whose variance falls with abundance (genes,), a tenth
    with an effect.
    """
    abundance = rng.uniform(1, 14, N_GENES)
    sd = np.sqrt((0.05 + 2 / (1 + abundance)) * 4 / rng.chisquare(4, N_GENES))
    effect = np.where(np.arange(N_GENES) < N_GENES // 10, 1.0, 0.0)
    return effect + sd * rng.normal(size=(N_DONORS, N_GENES)), abundance


def fitted(values: np.ndarray, design: np.ndarray, abundance: np.ndarray) -> list[np.ndarray]:
    """t, p and the prior's degrees of freedom of the last coefficient."""
    names = [f"x{i}" for i in range(design.shape[1])]
    fit = lmFit(pd.DataFrame(values.T), pd.DataFrame(design, columns=names))
    fit.Amean = pd.Series(abundance)
    fit = eBayes(fit, trend=True)
    return [np.asarray(fit.t)[:, -1], np.asarray(fit.p_value)[:, -1], np.asarray(fit.df_prior)]


differences, abundance = simulated(np.random.default_rng(0))
paired = fitted(differences, np.ones((N_DONORS, 1)), abundance)
last = np.repeat([0.0, 1.0], N_DONORS // 2)
two = fitted(differences, np.column_stack([np.ones(N_DONORS), last]), abundance)
counts = np.random.default_rng(1).poisson(
    np.exp(np.random.default_rng(2).normal(2, 2, N_GENES)), (N_DONORS, N_GENES)
)
counts *= np.arange(1, N_DONORS + 1)[:, None]
np.savez_compressed(
    Path(__file__).with_name("limma_trend.npz"),
    differences=differences,
    abundance=abundance,
    counts=counts,
    size_factors=deseq2_norm(counts)[1],
    **dict(zip(("paired_t", "paired_p", "paired_df_prior"), paired, strict=True)),
    **dict(zip(("two_t", "two_p", "two_df_prior"), two, strict=True)),
)
