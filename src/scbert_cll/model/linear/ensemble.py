"""Classes of cells, from a network and the logistic regression that is fitted beside it.

``combine="none"`` keeps the regression for comparison only. ``"average"`` takes the mean of both
log-probabilities. With ``"residual"`` the linear logits are part of the network's: it learns what
they leave to be learned, starts from nothing, and stays there if no epoch is better.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.special import log_softmax, softmax
from torch import Tensor

from scbert_cll.model._inference import cells_of, collect, token_rows
from scbert_cll.model._protocols import Classifier, Network
from scbert_cll.model._tensors import usable
from scbert_cll.model.linear.regression import Examples, fit_linear, out_of_fold_logits
from scbert_cll.model.training.batches import TokenRows
from scbert_cll.nn.performer import mean_tokens

# of the network in an average; choosing it on validation cells was no better, on few of them worse
_SHARE: Final = 0.5


class Predictions(NamedTuple):
    """Probabilities (cells × classes) of the whole, the network and the linear part; embeddings."""

    joined: pd.DataFrame
    network: pd.DataFrame
    linear: pd.DataFrame | None
    latent: np.ndarray


def predict(
    model: Classifier,
    adata: AnnData | None = None,
    *,
    soft: bool = False,
    batch_size: int | None = None,
) -> pd.Series | pd.DataFrame:
    """Class of each cell; labels are not read.

    Parameters
    ----------
    adata, batch_size
        As in :meth:`get_latent_representation`.
    soft
        Return the probabilities of all classes instead.

    Returns
    -------
    Categorical Series over the cells, or with `soft` a float32 DataFrame cells × classes whose rows
    sum to 1.

    Raises
    ------
    RuntimeError
        The model has not been trained.
    """
    proba = predict_parts(model, adata, batch_size=batch_size).joined
    if soft:
        return proba
    best = proba.to_numpy().argmax(1)
    called = pd.Categorical.from_codes(best, pd.Index(model.classes))
    return pd.Series(called, index=proba.index)


def predict_and_embed(
    model: Classifier, adata: AnnData | None = None, *, batch_size: int | None = None
) -> tuple[pd.DataFrame, np.ndarray]:
    """Probabilities (cells × classes) and embeddings (cells, n_hidden), in one pass."""
    parts = predict_parts(model, adata, batch_size=batch_size)
    return parts.joined, parts.latent


def predict_parts(
    model: Classifier, adata: AnnData | None = None, *, batch_size: int | None = None
) -> Predictions:
    """Probabilities as they are predicted, of the network, of the logistic regression; embeddings.

    Parameters
    ----------
    adata, batch_size
        As in :meth:`get_latent_representation`.

    Returns
    -------
    Named tuple of ``joined``, ``network`` and ``linear`` (None in a model trained without), each a
    float32 DataFrame cells × classes, and ``latent``, float32 (cells, n_hidden).

    Raises
    ------
    RuntimeError
        The model has not been trained.
    """
    if not model.is_trained_:
        raise RuntimeError(
            "This classifier has not been trained; call .train() first, or load a trained one."
        )
    adata = cells_of(model, adata)
    data = token_rows(model, adata)
    network, latent = logits_and_latent(model, data, batch_size, adata.obs_names)
    linear = None if model.linear_ is None else model.linear_.logits(data.csr)

    def table(proba: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(proba.astype(np.float32), adata.obs_names, model.classes)

    return Predictions(
        table(joined_proba(model, network, linear)),
        table(softmax(network, axis=1)),
        None if linear is None else table(softmax(linear, axis=1)),
        latent,
    )


def logits_and_latent(
    model: Classifier, data: TokenRows, batch_size: int | None, names: pd.Index | None
) -> list[np.ndarray]:
    """The network's logits (cells, classes) and embeddings (cells, n_hidden), float32."""

    def classify(**cells: Tensor) -> tuple[Tensor, Tensor]:
        encodings, weight = model.module.encode(**cells), cells.get("weight")
        logits = model.module.head_logits(encodings, weight).float()
        return logits, mean_tokens(encodings, weight)

    widths = [len(model.classes), model.config.n_hidden]
    return collect(model, data, batch_size, widths, classify, names)


def joined_proba(model: Network, network: np.ndarray, linear: np.ndarray | None) -> np.ndarray:
    """Probabilities from the network's and the linear part's logits (cells, classes)."""
    if linear is None or model.combine == "none":
        logits = network
    elif model.combine == "residual":
        logits = network + linear
    else:
        ours, theirs = (log_softmax(part, axis=1) for part in (network, linear))
        logits = _SHARE * ours + (1 - _SHARE) * theirs
    return np.asarray(softmax(logits, axis=1))


def described(model: Network) -> Mapping[str, str | float] | None:
    """How a linear part takes part in predictions, for records and folders; None without one."""
    if model.linear_ is None:
        return None
    return {"combine": model.combine, "strength": model.linear_.strength}


def fit_beside(model: Classifier, cells: Examples) -> np.ndarray | None:
    """Fit the model's linear part; its logits for every cell where the network learns the rest."""
    model.linear_ = fit_linear(cells)
    usable(model.linear_.arrays(), "The logistic regression beside the network")
    if model.combine != "residual":
        return None
    return out_of_fold_logits(model.linear_, cells)


def loss_of_logits(logits: np.ndarray, codes: np.ndarray, weights: np.ndarray) -> float:
    """Cross-entropy as training computes it for validation cells, whose weights have mean 1."""
    of_class = log_softmax(logits, axis=1)[np.arange(len(codes)), codes]
    return float(np.mean(-of_class * weights))
