"""A classifier and the logistic regression beside it: how the two are joined, and saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.special import log_softmax, softmax

from scbert_cll import _keys
from scbert_cll.model.exchange.scbert import CheckpointModel
from scbert_cll.model.explain.perturbation import Perturbed
from scbert_cll.model.linear.regression import LinearPart, fit_linear, joined, out_of_fold_logits
from scbert_cll.model.training.divergence import usable

Combine = Literal["none", "average", "residual"]
COMBINE: Final = ("none", "average", "residual")
_LINEAR: Final = "The logistic regression beside the network"
# of the network in an average; choosing it on validation cells was no better, on few of them worse
_SHARE: Final = 0.5


class Predictions(NamedTuple):
    """Probabilities (cells × classes) of the whole, of the network and of the linear part alone.

    And embeddings.
    """

    joined: pd.DataFrame
    network: pd.DataFrame
    linear: pd.DataFrame | None
    latent: np.ndarray


class LinearBeside(Perturbed, CheckpointModel):
    """What a classifier does with the logistic regression that is fitted to its training cells.

    ``combine="none"`` keeps it for comparison only. ``"average"`` takes the mean of both
    log-probabilities. With ``"residual"`` the linear logits are part of the network's: it learns
    what they leave to be learned, starts from nothing, and stays there if no epoch is better.
    """

    combine: Combine = "none"
    linear_: LinearPart | None = None

    def _fit_linear(
        self,
        tokens: Any,
        codes: np.ndarray,
        weights: np.ndarray,
        parts: Mapping[str, np.ndarray],
        groups: np.ndarray | None,
        seed: int,
    ) -> np.ndarray | None:
        """Fit the linear part.

        Return its logits for every cell where the network is to learn the rest.
        """
        train, val = parts[_keys.TRAIN], parts[_keys.VAL]
        self.linear_ = fit_linear(tokens, codes, weights, train, val, groups=groups, seed=seed)
        usable(self._linear_arrays() or {}, _LINEAR)
        if self.combine != "residual":
            return None
        return out_of_fold_logits(
            self.linear_, tokens, codes, weights, train, groups=groups, seed=seed
        )

    def _refuse_not_finite(self) -> None:
        """Neither with coefficients."""
        super()._refuse_not_finite()
        usable(self._linear_arrays() or {}, _LINEAR)

    def _joined_proba(self, network: np.ndarray, linear: np.ndarray | None) -> np.ndarray:
        """Probabilities from the network's and the linear part's logits (cells, classes)."""
        if linear is None or self.combine == "none":
            return np.asarray(softmax(network, axis=1))
        if self.combine == "residual":
            return np.asarray(softmax(network + linear, axis=1))
        return joined(network, linear, _SHARE)

    def _linear_logits(self, adata: AnnData) -> np.ndarray | None:
        return None if self.linear_ is None else self.linear_.logits(self._rows(adata).csr)

    def _joined(self) -> dict[str, Any] | None:
        if self.linear_ is None:
            return None
        return {"combine": self.combine, "strength": self.linear_.strength}

    def _linear_arrays(self) -> dict[str, np.ndarray] | None:
        if self.linear_ is None:
            return None
        return {"coefficients": self.linear_.coefficients, "intercept": self.linear_.intercept}

    def _take_linear(self, joined: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.combine = joined["combine"]
        self.linear_ = LinearPart(arrays["coefficients"], arrays["intercept"], joined["strength"])


def loss_of_logits(logits: np.ndarray, codes: np.ndarray, weights: np.ndarray) -> float:
    """Cross-entropy as training computes it for validation cells, whose weights have mean 1."""
    return float(np.mean(-log_softmax(logits, axis=1)[np.arange(len(codes)), codes] * weights))
