"""Gates that ask a network: what it loses without the genes, and whether what it says of genes was learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import stats

from scbert_cll import _checks, _keys
from scbert_cll._evaluation.pairs import Pairs
from scbert_cll._signature.matched import Matcher
from scbert_cll._signature.report.criteria import Gate, Numbers, not_run
from scbert_cll._signature.report.ranking import Ranking
from scbert_cll._signature.report.study import Study, largest
from scbert_cll.tl._signature_report.faithfulness import (
    COMPREHENSIVENESS,
    KINDS,
    RANDOM,
    SIGNATURE,
    STEPS,
    SUFFICIENCY,
    Ordered,
    curve_table,
    gates_of,
    ordered,
)

if TYPE_CHECKING:
    from scbert_cll.model import ScBERTClassifier

ATTENTION, ATTRIBUTION, REFITTED = "attention", "attribution", "refitted on permuted labels"
_OF, _DRAWN = "network ", "limits: smallest and largest of the draws"
_MOST_CELLS: Final = 300
_FIRST: Final = 5  # genes, from which a network is asked
_BAND: Final = 5  # random sets behind a curve of the network
_N_RANDOM: Final = 5  # draws of random weights
_RANDOM_WEIGHTS: Final[dict[Literal["head", "all"], tuple[str, float]]] = {
    "head": ("random head", 0.5),
    "all": ("random network", 0.2),
}


@dataclass(frozen=True)
class Network:
    """A classifier and the labelled cells of a study."""

    model: ScBERTClassifier
    cells: AnnData
    split_key: str
    batch_size: int | None

    def attention(self, study: Study, permuted: list[Study]) -> Ranking:
        """Mean attention a gene receives in the positive cells, as plain rankings have it.

        One pass over the cells.
        """
        runs = [study, *permuted]
        places = self.model.genes.get_indexer(study.genes)
        values = np.zeros((len(runs), len(study.whole), len(study.genes)))
        for d, donor in enumerate(study.whole):
            own = np.flatnonzero(study.donors == donor)
            received = self.model.get_cell_attention(self.cells[own], batch_size=self.batch_size)
            member = np.stack([run.positive[own] / run.positive[own].sum() for run in runs])
            values[:, d, places >= 0] = (received.T @ member.T).T[:, places[places >= 0]]
        weight = np.array(
            [study.positive[study.donors == donor].sum() for donor in study.whole], float
        )
        return Ranking(values, weight, study.whole, study.genes)

    def gates(
        self,
        study: Study,
        rankings: Mapping[str, Ranking],
        k: int,
        n_random: int,
        n_refits: int,
        rng: np.random.Generator,
    ) -> tuple[list[Gate], dict[str, pd.DataFrame]]:
        """All of them, and the curves."""
        rows, left_out, note = self._held_out(study)
        rows = rng.permutation(rows)[:_MOST_CELLS]
        orders = self._ordered(study.without(left_out), study, rankings, left_out, k)
        if orders[SIGNATURE][1]:
            found, curves = self._faithful(study, orders, n_random, np.sort(rows), rng)
            found = [gate._replace(note=note) for gate in found]
        else:
            why = f"no signature without the donors of the {note}"
            names, curves = list(orders), pd.DataFrame()
            found = [gate for kind in KINDS for gate in not_run(f"{_OF}{kind}", names, why)]
        found += self._sane(study, np.sort(rows), rng)
        found += self._refitted(study, np.sort(rows), k, n_refits, rng) if n_refits else []
        return found, {"curves": curves}

    def _held_out(self, study: Study) -> tuple[np.ndarray, list[str], str]:
        """Cells of the outer classes that the network was not trained on, where that is known.

        Their donors; and what they are.
        """
        if self.split_key in self.cells.obs:
            parts = _checks.adata.split(self.cells, self.split_key, need=()).to_numpy()
            for part in (_keys.TEST, _keys.VAL):
                if len(own := study.outer[parts[study.outer] == part]):
                    return own, sorted(set(study.donors[own])), f"{part} cells"
        return study.outer, [], "cells the network was trained on, as there are no others"

    def _ordered(
        self,
        training: Study,
        study: Study,
        rankings: Mapping[str, Ranking],
        left_out: list[str],
        k: int,
    ) -> Ordered:
        """Genes of each subject that the network knows, found in the donors it was trained on."""
        known = self.model.genes.get_indexer(study.genes) >= 0
        found = ordered(training, study.genes, rankings, left_out, k)
        return {
            name: (order[known[order]], int(known[order[:n]].sum()))
            for name, (order, n) in found.items()
        }

    def _faithful(
        self,
        study: Study,
        orders: Ordered,
        n_random: int,
        rows: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[list[Gate], pd.DataFrame]:
        """The network with nothing but the genes, and without them."""
        known = np.flatnonzero(self.model.genes.get_indexer(study.genes) >= 0)
        matcher = Matcher(study.tested_counts.mean(axis=0).A1[known], study.detected[known])
        steps = [step for step in STEPS if step >= _FIRST and matcher.fits(step)]

        def like(genes: np.ndarray, n_sets: int) -> list[np.ndarray]:
            return list(known[matcher.draw(np.searchsorted(known, genes), n_sets, rng)])

        sets = {
            name: [order[:n], *like(order[:n], n_random)] for name, (order, n) in orders.items()
        }
        curves = {name: [order[:step] for step in steps] for name, (order, _) in orders.items()}
        curves[RANDOM] = [one for step in steps for one in like(orders[SIGNATURE][0][:step], _BAND)]
        whole = self._ranked(study, rows)
        scores = {}
        for name, members in sets.items():
            scores[name, SUFFICIENCY] = self._ranked(study, rows, members, keep=True)
            scores[name, COMPREHENSIVENESS] = whole.less(self._ranked(study, rows, members))
        drawn = {
            (name, direction): self._ranked(study, rows, members, keep=direction == "insertion")
            for name, members in curves.items()
            for direction in ("insertion", "deletion")
        }
        return gates_of(scores, rng, _OF), curve_table(drawn, steps, "network")

    def _ranked(
        self,
        study: Study,
        rows: np.ndarray,
        sets: list[np.ndarray] | None = None,
        *,
        keep: bool = False,
    ) -> Pairs:
        """Cells as the network ranks them.

        Of sets (positions among the tested genes) without each, or with it alone.
        """
        cells = self.cells[rows]
        proba = self.model.predict_parts(cells, batch_size=self.batch_size).network.to_numpy(
            np.float64
        )
        log = np.log(np.maximum(proba, np.finfo(np.float32).tiny))
        logits = (log[:, -1] - log[:, :-1].mean(axis=1))[:, None]
        if sets is not None:
            names = {str(i): study.genes[genes].tolist() for i, genes in enumerate(sets)}
            effects = self.model.get_set_effects(
                names, cells, keep=keep, target=study.classes[-1], batch_size=self.batch_size
            )
            logits = logits + effects.to_numpy()
        bare = np.isnan(logits)  # a cell of which nothing is left is as any other
        logits[bare] = np.broadcast_to(np.nanmean(logits, axis=0), logits.shape)[bare]
        return Pairs.of(logits, study.positive[rows], study.donors[rows])

    def _scores(
        self, study: Study, rows: np.ndarray, model: ScBERTClassifier
    ) -> dict[str, np.ndarray]:
        """Attribution by its size in the cells that express a gene.

        Attention as rankings take it, over all cells.
        """
        cells, size = self.cells[rows], self.batch_size
        groups = pd.Series("all", cells.obs_names, dtype="category")
        found = model.get_gene_attribution(
            groups, cells, target=study.classes[-1], batch_size=size
        ).size["all"]
        attention = model.get_gene_attention(groups, cells, batch_size=size)["all"]
        per_cell = found.reindex(study.genes, fill_value=0.0).to_numpy()
        return {
            ATTRIBUTION: per_cell,
            ATTENTION: attention.reindex(study.genes, fill_value=0.0).to_numpy(),
        }

    def _sane(self, study: Study, rows: np.ndarray, rng: np.random.Generator) -> list[Gate]:
        """Whether what is said of genes is gone with the weights."""
        trained, found = self._scores(study, rows, self.model), []
        for part, (name, most) in _RANDOM_WEIGHTS.items():
            drawn = [
                self._scores(study, rows, self.model.randomized(part, stream))
                for stream in rng.spawn(_N_RANDOM)
            ]
            for subject, values in trained.items():
                rho = [float(stats.spearmanr(values, one[subject]).statistic) for one in drawn]
                numbers = Numbers(float(np.mean(rho)), min(rho), max(rho))
                rule = f"rank correlation below {most}"
                passed = numbers.value < most
                found.append(Gate.of(name, subject, numbers, rule, passed=passed, note=_DRAWN))
        return found

    def _refitted(
        self, study: Study, rows: np.ndarray, k: int, n_refits: int, rng: np.random.Generator
    ) -> list[Gate]:
        """Whether networks that were trained on permuted labels say the same of genes."""
        trained = self._scores(study, rows, self.model)
        shares: dict[str, list[float]] = {name: [] for name in trained}
        for _ in range(n_refits):
            scores = self._scores(study, rows, self._refit(study, rng))
            for name, values in trained.items():
                shares[name].append(
                    len(set(largest(values, k)) & set(largest(scores[name], k))) / k
                )
        n, found = len(study.genes), []
        rule, most = (
            "no more genes in common than 95 % of random sets",
            stats.hypergeom.ppf(0.95, n, k, k) / k,
        )
        for name, own in shares.items():
            numbers = Numbers(float(np.mean(own)), min(own), max(own), k / n, most)
            note = f"share of the first {k} genes, on average with {n_refits} such networks"
            found.append(
                Gate.of(REFITTED, name, numbers, rule, passed=numbers.value <= most, note=note)
            )
        return found

    def _refit(self, study: Study, rng: np.random.Generator) -> ScBERTClassifier:
        """A network of the same making that was trained on labels permuted within donors, as long as the model was."""
        cells = self.cells.copy()
        codes = study.permuted(rng).codes
        cells.obs[self.model.labels_key] = pd.Categorical.from_codes(codes, pd.Index(study.classes))
        new = self.model.randomized("all", rng)
        new._adata, new.is_trained_, new.history_ = cells, False, None
        split = self.split_key if self.split_key in cells.obs else None
        epochs = max((len(one) for one in (self.model.history or {}).values()), default=None)
        new.train(epochs, split_key=split, rng=int(rng.integers(2**31)), enable_progress_bar=False)
        return new
