"""Other things to learn from than the class: ordered levels within it, levels alone, donors
balanced, donors unlearned; and more width.

    python -m benchmarks.evaluation.targets --data ../shared/data
    python -m benchmarks.evaluation.targets --sets toy --models scbert donors_balanced

Nobody sees the test cells of the outer folds: all of it happens in the training part of the first
outer fold (in each donor of the marrow, which has two), on up to --cells labelled cells, in three
inner folds. Finished folds are kept in --checkpoint.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

import scbert_cll as sc_cll
from benchmarks.evaluation._sets import BENCHMARKS, PROTEIN, Set, compared, load, parser_of, some
from scbert_cll.model.training import fit
from scbert_cll.model.training.plans import ClassifyPlan

CSV = BENCHMARKS / "results" / "targets.csv"
MARKERS = {"toy": "CD49d", "bmmc": "CD49d", "TIGIT": "TIGIT", "CD127": "CD127", "CD45RA": "CD45RA"}
METRICS = ("macro_f1", "auroc", "auroc_within", "log_loss")
NAMES = ["scbert", "wide", "ordered_levels", "levels_only", "donors_balanced", "donors_unlearned"]
ScBERT = sc_cll.estimators.ScBERTEstimator


class OrderedLevels(ScBERT):
    """Each class in two halves by the protein's level: ordered classes to learn, added up to be
    scored.
    """

    column: int  # of the protein

    def fit(self, adata: AnnData, y: pd.Series, groups: pd.Series | None = None) -> OrderedLevels:
        level = pd.Series(np.asarray(adata.obsm[PROTEIN])[:, self.column], y.index)
        high = level > level.groupby(y, observed=True).transform("median")
        halves = y.astype(object).where(y.isna(), y.astype(str) + np.where(high, "|1", "|0"))
        super().fit(adata, halves.astype("category"), groups)
        self.halves_, self.classes_ = self.classes_, y.cat.categories.to_numpy(dtype=str)
        return self

    def predict_parts(self, adata: AnnData) -> list[np.ndarray]:
        whole = np.array(
            [[half.rpartition("|")[0] == c for c in self.classes_] for half in self.halves_]
        )
        return [found @ whole for found in super().predict_parts(adata)]


class LevelsOnly(ScBERT):
    """The network learns the levels of the proteins and no class; a logistic regression reads the
    class off its embedding.
    """

    @property
    def parts(self) -> tuple[str, ...]:
        return ()

    def fit(self, adata: AnnData, y: pd.Series, groups: pd.Series | None = None) -> LevelsOnly:
        with mock.patch.object(fit, "ClassifyPlan", _LevelsPlan):
            super().fit(adata, y, groups)
        known = y.notna().to_numpy()
        head = LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000)
        self.head_ = make_pipeline(StandardScaler(), head).fit(
            self._embedding(adata)[known], y[known].astype(str)
        )
        return self

    def predict_parts(self, adata: AnnData) -> list[np.ndarray]:
        order = [list(self.head_.classes_).index(c) for c in self.classes_]
        return [self.head_.predict_proba(self._embedding(adata))[:, order]]

    def _embedding(self, adata: AnnData) -> np.ndarray:
        cells = AnnData(adata.X, obs=adata.obs[[]], var=adata.var[[]])
        sc_cll.pp.bin_expression(cells, edges=self.members_[0].binning)
        return np.asarray(self.members_[0].get_latent_representation(cells))


class _LevelsPlan(ClassifyPlan):
    def _guess(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        logits, proteins = super()._guess(batch)
        return logits.detach(), proteins


class DonorsBalanced(ScBERT):
    """Within each class, every donor weighs the same."""

    def _cells(self, adata: AnnData, y: pd.Series, groups: pd.Series | None, known: Any) -> AnnData:
        cells = super()._cells(adata, y, groups, known)
        groups = cells.obs.groupby([cells.obs["label"].astype(str), "donor"], observed=True)
        weight = (1 / groups["donor"].transform("size")).where(cells.obs["label"].notna(), 0.0)
        per_class = weight.groupby(cells.obs["label"], observed=True).transform("sum")
        weight = (weight / per_class).fillna(0.0)
        cells.obs["balance_weight"] = weight / weight[weight > 0].mean()
        return cells


class DonorsUnlearned(ScBERT):
    """The embedding is kept from telling the donor: reversed gradients of what guesses it."""

    strength = 0.3

    def _cells(self, adata: AnnData, y: pd.Series, groups: pd.Series | None, known: Any) -> AnnData:
        cells = super()._cells(adata, y, groups, known)
        donors = pd.get_dummies(cells.obs["donor"]).to_numpy(dtype=np.float32)
        proteins = np.asarray(cells.obsm.get(PROTEIN, np.zeros((cells.n_obs, 0))))
        cells.obsm[PROTEIN] = np.hstack([proteins, donors])
        self._n_donors = donors.shape[1]
        return cells

    def fit(self, adata: AnnData, y: pd.Series, groups: pd.Series | None = None) -> DonorsUnlearned:
        with mock.patch.object(fit, "ClassifyPlan", self._plan):
            super().fit(adata, y, groups)
        return self

    def _plan(self, *args: Any, **kwargs: Any) -> ClassifyPlan:
        plan = _AdversaryPlan(*args, **kwargs)
        plan.n_donors, plan.strength = self._n_donors, self.strength
        return plan


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, strength: float) -> torch.Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return -ctx.strength * gradient, None


class _AdversaryPlan(ClassifyPlan):
    """The last columns of what is guessed beside the class are donors, standardised as the proteins
    are.
    """

    n_donors: int
    strength: float

    def _guess(self, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.module.penultimate(batch["cells"])
        guessed = (
            self.to_proteins(features),
            self.to_proteins(_Reverse.apply(features, self.strength)),
        )
        n = self.to_proteins.out_features - self.n_donors
        errors = [
            F.mse_loss(found[:, part].float(), batch["proteins"][:, part])
            for found, part in zip(guessed, (slice(0, n), slice(n, None)), strict=True)
            if batch["proteins"][:, part].shape[1]
        ]
        return self.module.logits(features).float(), torch.stack(errors).sum()


def models(data: Set, marker: str, names: list[str]) -> dict[str, Any]:
    column = list(data.adata.obsm[PROTEIN].columns).index(marker)
    every: dict[str, Any] = {
        "scbert": ScBERT(),
        "wide": ScBERT(network={"n_hidden": 64}),
        "ordered_levels": type(
            "OrderedLevels", (OrderedLevels,), {"column": column}
        )(),  # clones keep it
        "levels_only": LevelsOnly(),
        "donors_balanced": DonorsBalanced(),
        "donors_unlearned": DonorsUnlearned(),
    }
    if data.donor_key is None:
        every = {name: model for name, model in every.items() if not name.startswith("donors")}
    return {name: model for name, model in every.items() if name in names}


def inner(name: str, data: Set) -> Iterator[tuple[str, Set]]:
    """Training parts of the outer folds, each a set of its own."""
    adata = data.adata
    if name == "bmmc":  # either donor trains once
        for donor in sorted(set(adata.obs["donor"].astype(str))):
            part = adata[(adata.obs["donor"].astype(str) == donor).to_numpy()].copy()
            yield (
                f"bmmc, donor {donor}",
                Set(data.title, part, data.labels_key, None, "random_cell", data.gene),
            )
        return
    arguments = data.arguments | {"protein_key": None}
    sc_cll.tl.cross_validate(
        adata, **arguments, models=["majority"], n_repeats=1, key_added="outer"
    )
    tested = adata.uns["outer"]["folds"].iloc[0]["test_donors"]
    if data.donor_key is not None:
        mask = (adata.obs[data.donor_key].astype(str) != tested).to_numpy()
    else:
        mask = np.random.default_rng(0).random(adata.n_obs) < 0.8
    scheme = "random_cell" if data.donor_key is None else "group_kfold"
    yield (
        name,
        Set(data.title, adata[mask].copy(), data.labels_key, data.donor_key, scheme, data.gene),
    )


def main() -> None:
    parser = parser_of(__doc__, MARKERS, BENCHMARKS / "cache" / "targets")
    parser.set_defaults(sets=["bmmc", "toy", "TIGIT", "CD127"], cells=600)
    parser.add_argument("--models", nargs="+", default=NAMES, choices=NAMES)
    arguments = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    rows = []
    for name in arguments.sets:
        for title, part in inner(name, load(name, arguments.data)):
            n_labelled = int(part.adata.obs[part.labels_key].notna().sum())
            data = some(part, arguments.cells) if n_labelled > arguments.cells else part
            summary = compared(
                data,
                models=models(data, MARKERS[name], arguments.models),
                n_splits=3,
                n_repeats=1,
                metrics=METRICS,
                checkpoint=arguments.checkpoint,
            )
            summary.insert(0, "n_cells", int(data.adata.obs[data.labels_key].notna().sum()))
            summary.insert(0, "set", title)
            rows.append(summary.reset_index())
            print(rows[-1].to_string(index=False, float_format="%.4f"), flush=True)
            pd.concat(rows).to_csv(CSV, index=False, float_format="%.5g")


if __name__ == "__main__":
    main()
