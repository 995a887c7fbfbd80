"""What the verbs that run a model write to an AnnData, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Final, NamedTuple, Self

import numpy as np
import pandas as pd
from anndata import AnnData

from scbert_cll import _checks, _keys
from scbert_cll._checks.words import refuse_given
from scbert_cll._evaluation.metrics import score
from scbert_cll._version import __version__
from scbert_cll.model import ScBERT, ScBERTClassifier
from scbert_cll.model._inference import Predictions, described
from scbert_cll.model.corpus.data import NOT_OF_A_CORPUS

type Columns = Mapping[str, str | None]  # by the argument that names them

_NONE: Final[Columns] = {}

_USUAL: Final = {
    "layer": _keys.BINNED,
    "split_key": _keys.SPLIT,
    "weight_key": _keys.BALANCE_WEIGHT,
    "donor_key": _keys.DONOR,
    "key_added": _keys.SCBERT,
}
_COMPARED: Final = ("macro_f1", "balanced_accuracy", "auroc", "log_loss")


class Slots(NamedTuple):
    """Names of a model's results: `key_added` stands for ``scbert`` in each of them."""

    key: str  # `uns` entry of tl.finetune
    linear_proba: str  # `obsm` entry of the probabilities by the logistic regression
    latent: str  # `obsm` entry of the embedding
    pretrain: str  # `uns` entry of tl.pretrain
    predict: str  # `uns` entry of tl.predict
    pred: str  # `obs` column of the called classes
    score: str  # `obs` column of their probability
    proba: str  # `obsm` entry of the probabilities of all classes

    @classmethod
    def of(cls, key: str = _keys.SCBERT) -> Self:
        """All names; by default that of the logistic regression has no prefix."""
        prefix = "" if key == _keys.SCBERT else f"{key}_"
        parts: tuple[_keys.Part, ...] = ("pred", "score", "proba")
        beside = (_keys.beside(key, part) for part in parts)
        models = f"{key}_pretrain", f"{key}_predict"
        return cls(key, f"{prefix}{_keys.LINEAR_PROBA}", f"X_{key}", *models, *beside)

    def check(self, tokens: str, obs: Columns = _NONE, obsm: Columns = _NONE) -> None:
        """Refuse a name that no file holds, or under which something is that is read here."""
        _checks.adata.new_key(self.key, [tokens], stems=("", "_pretrain", "_predict"))
        in_obs = self.pred, self.score
        in_obsm = self.proba, self.linear_proba, self.latent
        for slot, inputs, written in (("obs", obs, in_obs), ("obsm", obsm, in_obsm)):
            for name, key in inputs.items():
                if key in written:
                    copied = f"adata.{slot}['my_{key}'] = adata.{slot}[{key!r}]"
                    raise ValueError(
                        f"{name}={key!r} is where the result goes, and would be replaced. Copy it "
                        f"first and name the copy, e.g. {copied}, {name}='my_{key}'."
                    )


def usual(**names: str | None) -> None:
    """Refuse names of what a corpus has not, unless they are those that nobody chose."""
    chosen = {name: key not in (None, _USUAL.get(name)) for name, key in names.items()}
    refuse_given(chosen, NOT_OF_A_CORPUS)


def record(model: ScBERT | ScBERTClassifier, params: Mapping[str, object]) -> dict[str, object]:
    """An entry of `uns`: parameters, network, version, and the training history."""
    losses = (model.history or {}).items()
    history = {name: table.iloc[:, 0].to_numpy(np.float64) for name, table in losses}
    return {
        "params": dict(params) | {"layer": model.layer},
        "network": asdict(model.config),
        "n_genes": len(model.genes),
        "n_genes_missing": max(0, model.missing_[0]),
        "version": __version__,
        **({"linear": linear} if (linear := described(model)) else {}),
        "history": history,
    }


def predictions(
    model: ScBERTClassifier, parts: Predictions, slots: Slots, below: float | None
) -> dict[str, dict[str, object]]:
    """Slots of classes, their probability, all probabilities, the linear part's, the embedding.

    Cells whose probability is `below` this are unassigned.
    """
    values = parts.joined.to_numpy()
    score = values.max(1)
    names = pd.Categorical.from_codes(values.argmax(1), pd.Index(model.classes))
    if below is not None:
        names = names.set_categories(called(model, below))
        names = names.copy()  # else pandas 3 may forbid to write
        names[score < below] = _keys.UNASSIGNED
    linear = {} if parts.linear is None else {slots.linear_proba: parts.linear}
    obsm = {slots.proba: parts.joined, **linear, slots.latent: parts.latent}
    return {"obs": {slots.pred: names, slots.score: score}, "obsm": obsm}


def called(model: ScBERTClassifier, unassigned_below: float | None) -> list[str]:
    """What a cell can be called: a class, or unassigned where that may be."""
    unassigned = [] if unassigned_below is None else [_keys.UNASSIGNED]
    # a class may be called so, too
    return list(dict.fromkeys([*model.classes, *unassigned]))


def comparison(adata: AnnData, parts: Predictions, labels_key: str, split_key: str) -> pd.DataFrame:
    """Scores of network, logistic regression and both, on the same validation and test cells."""
    classes = list(parts.joined.columns)
    names = _checks.people.class_names(_checks.adata.obs_column(adata, labels_key))
    codes = pd.Categorical(names, categories=classes).codes
    split = _checks.adata.split(adata, split_key).to_numpy()
    models = {"logistic regression": parts.linear, "network": parts.network}
    models["predicted"] = parts.joined
    rows = []
    for part in (_keys.VAL, _keys.TEST):
        cells = np.flatnonzero((split == part) & (codes >= 0))
        for name, table in models.items():
            if len(cells) and table is not None:
                proba = table.to_numpy(np.float64)[cells]
                proba = proba / proba.sum(1, keepdims=True)
                given = codes[cells].astype(int), proba, classes
                scores = [score(metric, *given).value for metric in _COMPARED]
                rows.append((part, name, len(cells), *scores))
    columns = ["part", "model", "n_cells", *_COMPARED]
    return pd.DataFrame(rows, columns=columns).rename(index=str)
