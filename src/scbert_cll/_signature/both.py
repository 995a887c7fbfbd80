"""One estimate from donors with both classes and donors with one, and where the two disagree.

The difference within donors and the one between them are moderated on their own, and joined by
their precisions. As these are estimated, with Meier's correction (1953, doi:10.2307/3001633) and
Satterthwaite's degrees of freedom.
"""

from __future__ import annotations

from dataclasses import fields
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from scbert_cll._signature.design import Design
from scbert_cll._signature.moderated import Fit, Moderated

_CAP: Final = 8.0  # degrees of freedom of a prior that one residual degree of each gene cannot tell
LEVEL: Final = 0.05  # of a gene whose parts disagree
_DEVIATIONS: Final = 3.0  # of the share of such genes, beyond what chance gives
_EXCESS: Final = 0.03  # of that share, that matters
# covariance of two genes' being beyond the limits, per squared correlation (Hermite's second term)
_Z: Final = float(stats.norm.isf(LEVEL / 2))
_SHARED: Final = float((2 * _Z * stats.norm.pdf(_Z)) ** 2 / 2)


class Joined(NamedTuple):
    """Both parts, the joined test, p of each gene's disagreement, and a verdict over all."""

    within: Moderated
    between: Moderated
    test: Moderated
    p_disagree: np.ndarray
    share: float  # of genes that disagree
    most: float  # that chance explains

    @property
    def agree(self) -> bool:
        """Whether no more genes disagree than chance lets."""
        return self.share <= self.most


class MixedDesign(Design):
    """Samples of donors with both classes, and of donors with one."""

    @cached_property
    def inside(self) -> Design:
        """The samples of donors with both classes, compared within them."""
        paired = pd.Series(self.code).groupby(self.donor).transform("nunique") == len(self.classes)
        part = self.taken(paired.to_numpy())
        given = {field.name: getattr(part, field.name) for field in fields(Design)}
        return Design(**given | {"within": True})

    @cached_property
    def _means(self) -> np.ndarray:
        """Weights of the classes in the mean of each donor."""
        member = np.array(self.donors, dtype=object)[:, None] == self.names
        return np.asarray(member / member.sum(axis=1, keepdims=True))

    @cached_property
    def columns(self) -> np.ndarray:
        """Columns of the model between donors: the share of the last class, and covariates."""
        return np.asarray(self._means @ super().columns)

    @cached_property
    def fit(self) -> Fit:
        """The model between donors."""
        return Fit.of(self._means @ self.log, self.columns, tested=0)

    @cached_property
    def joined(self) -> Joined:
        """Both parts in one test."""
        log, centred = self._means @ self.log, self.columns - self.columns.mean(axis=0)
        rest = log - log.mean(axis=0) - centred @ self.fit.coefficients
        within, between = self.inside.fit, self.fit
        parts = within.test(self.inside.abundance), between.test(log.mean(axis=0))
        if not (within.estimable and between.estimable):  # without a donor, there is one part
            one = parts[0] if within.estimable else parts[1]
            return Joined(*parts, one, np.ones_like(one.p), 0.0, 1.0)
        return join(*parts, within.df, _correlation(rest, between.df))

    def test(self) -> Moderated:
        """Moderated t of every gene, of both parts joined."""
        return self.joined.test

    @property
    def differences(self) -> pd.DataFrame:
        """Of donors with both classes, and of those of the last, less the mean of the first's."""
        others = self.columns[:, 1:] @ self.fit.coefficients[1:]
        log, share = self._means @ self.log - others, self.columns[:, 0]
        names = np.array(self.donors, dtype=object)[share == 1]
        alone = pd.DataFrame(log[share == 1] - log[share == 0].mean(axis=0), names)
        return pd.concat([self.inside.differences, alone])


def join(within: Moderated, between: Moderated, df: int, correlation: float) -> Joined:
    """Join two tests of the same genes; `df` is left of each gene within.

    `correlation` is the mean square of that of two genes.
    """
    dw, db = (np.maximum(part.df, 1.0) for part in (within, between))
    dw = min(dw, df + _CAP) if df == 1 else dw
    vw, vb = within.error**2, between.error**2
    f = 1 / (1 + vw / vb)  # weight of the difference within
    variance = f * vw * (1 + 4 * f * (1 - f) * (1 / dw + 1 / db))
    degrees = 1 / (f**2 / dw + (1 - f) ** 2 / db)
    effect, error = f * within.effect + (1 - f) * between.effect, np.sqrt(variance)
    t = effect / error
    p = 2 * stats.t.sf(np.abs(t), degrees)
    test = Moderated(effect, error, t, p, degrees, within.df_prior)
    z = np.abs(within.effect - between.effect) / np.sqrt(vw + vb)
    p_disagree = 2 * stats.t.sf(z, (vw + vb) ** 2 / (vw**2 / dw + vb**2 / db))
    share = float((p_disagree < LEVEL).mean())
    spread = np.sqrt(LEVEL * (1 - LEVEL) / len(t) + _SHARED * correlation)
    most = LEVEL + max(_DEVIATIONS * float(spread), _EXCESS)
    parts = within._replace(df=dw), between._replace(df=db)
    return Joined(*parts, test, p_disagree, share, most)


def _correlation(residuals: np.ndarray, df: int) -> float:
    """Mean square of the correlations of two genes, less what chance gives; rows × genes."""
    size = np.linalg.norm(residuals, axis=0)
    unit = residuals[:, size > 0] / size[size > 0]
    m = unit.shape[1]
    square = (np.linalg.norm(unit @ unit.T) ** 2 - m) / max(m * (m - 1), 1)
    return float(max(square - 1 / max(df, 1), 0.0))
