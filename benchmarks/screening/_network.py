"""One training of the screening: a Performer with the parts that are tried, in a plain loop on one
core.
"""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.extmath import randomized_svd
from torch import Tensor, nn

from benchmarks.screening._data import Fold, Set, log2
from scbert_cll.model.training.batches import Rows, TokenRows
from scbert_cll.model.training.plans import _drop
from scbert_cll.nn import Config, Performer

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


@dataclass(frozen=True)
class Recipe:
    """Everything that is tried; the defaults are the present small preset with what was known
    before.
    """

    width: int = 32
    depth: int = 1
    heads: int = 4
    epochs: int = 20
    lr: float = 2e-3
    batch: int = 16
    decay: float = 0.01
    dropout: float = 0.1
    token_drop: float = 0.3
    tokens: str = "expressed"
    embed_decay: float = 0.01
    freeze_genes: bool = False
    pool: str = "mean"  # mean, attention, gated (a scalar per gene)
    norm: bool = True
    head_dropout: float = 0.1
    offset: str = "none"  # logits of the linear model in the loss: none, insample, crossfit
    aux: float = 0.0  # weight of the protein levels beside the class, also of cells without a class
    refit: bool = (
        False  # fit on the validation cells, too; the linear parts with the strength chosen before
    )


class Net(nn.Module):
    def __init__(
        self, recipe: Recipe, config: Config, vectors: Tensor, n_levels: int, n_donors: int
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.performer = Performer(config, vectors)
        width = config.n_hidden * (4 if recipe.pool == "attention" else 1)
        self.norm = nn.BatchNorm1d(width) if recipe.norm else nn.Identity()
        self.dropout = nn.Dropout(recipe.head_dropout)
        self.classify = nn.Linear(width, 2)
        if recipe.offset != "none":
            nn.init.zeros_(self.classify.weight)
            nn.init.zeros_(self.classify.bias)
        self.levels = nn.Linear(width, max(n_levels, 1))
        nn.Linear(
            width, n_donors
        )  # unused: keeps the random numbers of the logged runs, which had it
        self.ask = nn.Linear(config.n_hidden, 4)
        self.gate = nn.Embedding(config.n_positions, 1)
        nn.init.zeros_(self.gate.weight)

    def pooled(self, tokens: Tensor, genes: Tensor, weight: Tensor | None = None) -> Tensor:
        x = self.performer.encode(tokens, genes, weight)
        weight = torch.ones_like(tokens, dtype=torch.float32) if weight is None else weight
        kind = self.recipe.pool
        share = weight / weight.sum(1, keepdim=True)
        if kind == "gated":
            return ((1 + self.gate(genes).squeeze(-1)) * share).unsqueeze(1).bmm(x).squeeze(1)
        if kind == "attention":
            score = self.ask(x) + weight.clamp(min=1e-9).log().unsqueeze(-1)
            return torch.einsum("bnh,bnw->bhw", score.softmax(1), x).flatten(1)
        return share.unsqueeze(1).bmm(x).squeeze(1)

    def forward(self, cells: list[dict[str, Tensor]]) -> Tensor:
        return self.dropout(self.norm(torch.cat([self.pooled(**part) for part in cells])))


def gene_vectors(x: sparse.csr_matrix, width: int) -> Tensor:
    """Leading right singular vectors of the standardised genes, times their singular values, at
    unit scale: (genes, width).
    """
    mean = np.asarray(x.mean(0)).ravel()
    spread = np.sqrt(np.maximum(np.asarray(x.multiply(x).mean(0)).ravel() - mean**2, 0))
    scaled = np.asarray((x.toarray() - mean) / np.where(spread > 0, spread, 1), dtype=np.float32)
    scaled[:, np.diff(x.tocsc().indptr) < 3] = 0
    _, s, vt = randomized_svd(np.clip(scaled, -5, 5), width, n_iter=4, random_state=0)
    vectors = vt.T * s
    return torch.from_numpy(vectors / np.sqrt((vectors**2).mean())).float()


_VECTORS: dict[tuple[Any, ...], Tensor] = {}


# ---- the linear part


def linear(x: sparse.csr_matrix, y: np.ndarray, fold: Fold) -> tuple[np.ndarray, float]:
    """Logits of all cells by class-balanced ridge regression, its strength chosen on the validation
    cells.
    """
    found = []
    for c in STRENGTHS:
        model = _ridge(c).fit(x[fold.train], y[fold.train])
        found.append((log_loss(y[fold.val], model.predict_proba(x[fold.val])[:, 1]), c, model))
    _, c, model = min(found, key=lambda f: f[0])
    return model.decision_function(x), c


def refit(x: sparse.csr_matrix, y: np.ndarray, fold: Fold, c: float) -> np.ndarray:
    """Logits of all cells by a regression on training and validation cells."""
    cells = np.concatenate([fold.train, fold.val])
    return _ridge(c).fit(x[cells], y[cells]).decision_function(x)


def crossfit(
    x: sparse.csr_matrix, y: np.ndarray, fold: Fold, logits: np.ndarray, c: float
) -> np.ndarray:
    """The same, but of the training cells as of models that did not see them."""
    logits = logits.copy()
    for train, out in StratifiedKFold(5, shuffle=True, random_state=0).split(
        fold.train, y[fold.train]
    ):
        model = _ridge(c).fit(x[fold.train[train]], y[fold.train[train]])
        logits[fold.train[out]] = model.decision_function(x[fold.train[out]])
    return logits


def _ridge(c: float) -> Any:
    return make_pipeline(
        StandardScaler(with_mean=False),
        LogisticRegression(C=c, class_weight="balanced", max_iter=2000),
    )


# ---- the loop


class Targets:
    """What a cell is to be: class, weight in the loss, levels (standardised on training cells),
    donor, offset.
    """

    def __init__(self, recipe: Recipe, data: Set, fold: Fold, offset: np.ndarray | None) -> None:
        n = data.counts.shape[0]
        self.y = torch.from_numpy(data.y)
        count = np.bincount(data.y[fold.train], minlength=2)
        weight = np.zeros(n)
        weight[data.y >= 0] = (len(fold.train) / (2 * count))[data.y[data.y >= 0]]
        self.weight = torch.from_numpy(weight).float()
        self.offset = None if offset is None else torch.from_numpy(offset).float()
        self.levels = None
        if recipe.aux and data.levels is not None:
            level = data.levels
            seen = level[fold.train]
            spread = seen.std(0)
            level = (level - seen.mean(0)) / np.where(spread > 0, spread, 1)
            self.levels = torch.from_numpy(np.clip(level, -4, 4)).float()
        self.n_donors = 1 if data.donor is None else len(np.unique(data.donor[fold.train]))


def fit(
    recipe: Recipe, data: Set, fold: Fold, seed: int, offset: np.ndarray | None = None
) -> dict[str, Any]:
    """Logits (class 1 over class 0) of the validation and test cells, without the offset, and the
    loss by epoch.
    """
    start = time.perf_counter()
    torch.manual_seed(seed)
    n_genes = data.counts.shape[1]
    config = Config(
        n_genes=n_genes,
        n_hidden=recipe.width,
        n_layers=recipe.depth,
        n_heads=recipe.heads,
        dropout=recipe.dropout,
        train_gene_embedding=not recipe.freeze_genes,
        tokens=recipe.tokens,
        stabilizer="head",
        n_classes=0,
    )
    corpus = [data.log2[np.concatenate([fold.train, fold.val, fold.unlabelled])]]
    if data.extra is not None:
        corpus.append(log2(data.extra))
    key = (data.name, fold.test.tobytes(), len(fold.train), recipe.width)
    if key not in _VECTORS:
        _VECTORS[key] = gene_vectors(sparse.vstack(corpus).tocsr(), recipe.width)
    if recipe.refit:
        fold = replace(fold, train=np.concatenate([fold.train, fold.val]))
    goal = Targets(recipe, data, fold, offset)
    n_levels = 0 if goal.levels is None else goal.levels.shape[1]
    net = Net(recipe, config, _VECTORS[key], n_levels, goal.n_donors)
    rows = TokenRows(data.tokens, config)
    cells = fold.train if goal.levels is None else np.concatenate([fold.train, fold.unlabelled])
    best, kept, losses = math.inf, None, []
    if recipe.offset != "none":
        best, kept = _loss(net, rows, goal, fold.val), copy.deepcopy(net.state_dict())
    for _ in _epochs(net, rows, goal, cells, recipe, seed):
        losses.append(_loss(net, rows, goal, fold.val))
        if losses[-1] < best:
            best, kept = losses[-1], copy.deepcopy(net.state_dict())
    last = {f"{part}_last": predict(net, rows, getattr(fold, part)) for part in ("val", "test")}
    net.load_state_dict(kept)
    return last | {
        "val": predict(net, rows, fold.val),
        "test": predict(net, rows, fold.test),
        "losses": losses,
        "seconds": time.perf_counter() - start,
    }


def _epochs(
    net: Net, rows: TokenRows, goal: Targets, cells: np.ndarray, recipe: Recipe, seed: int
) -> Any:
    optimizer = _optimizer(net, recipe)
    n_steps = math.ceil(len(cells) / recipe.batch)
    if len(cells) % recipe.batch == 1:
        n_steps -= 1
    total, done = n_steps * recipe.epochs, 0
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    for epoch in range(recipe.epochs):
        net.train()
        order = rng.permutation(cells)
        for step in range(n_steps):
            _set_rate(optimizer, recipe.lr, done, total)
            batch = rows[
                Rows(order[step * recipe.batch : (step + 1) * recipe.batch].tolist(), epoch)
            ]
            parts = batch["cells"]
            if recipe.token_drop:
                parts = [_drop(part, recipe.token_drop, generator) for part in parts]
            optimizer.zero_grad(set_to_none=True)
            _objective(net, net(parts), goal, batch["rows"], recipe).backward()
            optimizer.step()
            done += 1
        yield epoch


def _optimizer(net: Net, recipe: Recipe) -> torch.optim.Optimizer:
    table = net.performer.gene_embedding.weight
    named = [p for p in net.parameters() if p.requires_grad and p is not table]
    groups = [
        {"params": [p for p in named if p.ndim > 1], "weight_decay": recipe.decay},
        {"params": [p for p in named if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if table.requires_grad:
        groups.append({"params": [table], "weight_decay": recipe.embed_decay})
    return torch.optim.AdamW(groups, lr=recipe.lr)


def _set_rate(optimizer: torch.optim.Optimizer, lr: float, done: int, total: int) -> None:
    rising = max(1, round(0.1 * total))
    factor = (
        (done + 1) / rising
        if done < rising
        else 0.5 * (1 + math.cos(math.pi * (done - rising) / max(1, total - rising)))
    )
    for group in optimizer.param_groups:
        group["lr"] = lr * factor


def _objective(net: Net, x: Tensor, goal: Targets, at: Tensor, recipe: Recipe) -> Tensor:
    y, weight = goal.y[at], goal.weight[at]
    known = y >= 0
    logits = _logits(net, x, goal, at)
    losses = F.cross_entropy(logits, y.clamp(min=0), reduction="none")
    loss = (losses * weight * known).sum() / (weight * known).sum().clamp(min=1e-6)
    if goal.levels is not None:
        loss = loss + recipe.aux * F.mse_loss(net.levels(x), goal.levels[at])
    return loss


def _logits(net: Net, x: Tensor, goal: Targets, at: Tensor) -> Tensor:
    logits = net.classify(x)
    if goal.offset is None:
        return logits
    half = goal.offset[at] / 2
    return logits + torch.stack([-half, half], 1)


@torch.no_grad()
def predict(net: Net, rows: TokenRows, cells: np.ndarray) -> np.ndarray:
    net.eval()
    found = np.zeros(len(cells))
    place = {int(c): i for i, c in enumerate(cells)}
    order = cells[np.argsort(rows.lengths()[cells], kind="stable")]
    for start in range(0, len(order), 64):
        batch = rows[Rows(order[start : start + 64].tolist())]
        logits = net.classify(net(batch["cells"]))
        found[[place[int(r)] for r in batch["rows"]]] = (logits[:, 1] - logits[:, 0]).numpy()
    return found


def _loss(net: Net, rows: TokenRows, goal: Targets, cells: np.ndarray) -> float:
    """Weighted log-loss of the class."""
    logit = torch.from_numpy(predict(net, rows, cells)).float()
    if goal.offset is not None:
        logit = logit + goal.offset[cells]
    weight, y = goal.weight[cells], goal.y[cells].float()
    return float(
        (F.binary_cross_entropy_with_logits(logit, y, reduction="none") * weight).sum()
        / weight.sum()
    )
