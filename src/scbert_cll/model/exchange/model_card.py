"""The page that a model is published with: what it is, what is known of it, what it is not for."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib import resources
from importlib.metadata import version
from string import Template
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
import yaml

from scbert_cll._evaluation.bootstrap import NONE
from scbert_cll._gene_names.resolver import gene_in_data
from scbert_cll._optional import optional
from scbert_cll._version import __version__
from scbert_cll.model import _scvi
from scbert_cll.model._inference import described, hidden_genes
from scbert_cll.model._protocols import Network

_TEXTS: Final = "model_card.yaml"  # of all that the page says
_MARKER: Final = "ITGA4"  # the gene of CD49d
_N_GENES: Final = 8  # that are named
_TAGS: Final = (
    "biology",
    "genomics",
    "single-cell",
    "scRNA-seq",
    "chronic-lymphocytic-leukemia",
    "scverse",
)
# scvi-tools' hub looks for them
_SCVI_TAGS: Final = {"scvi": "scvi-tools", "anndata": "anndata"}


def model_card(
    model: Network,
    *,
    repo_id: str | None = None,
    evaluation: Mapping[str, Any] | None = None,
    licence: str | None,
) -> str:
    """Page with front matter as Hugging Face reads it.

    It says what the model knows of itself, and claims nothing else.
    """
    kind, name, labels = type(model).__name__, repo_id or "org/name", model.labels
    excluded, marker = hidden_genes(model), gene_in_data(_MARKER, model.genes)
    is_learned = isinstance(model.binning["edges"], pd.DataFrame)
    # excluded genes are in the totals of its cells
    hidden = "[*model.genes, *model.registry['setup_args']['exclude_genes']]"
    names = {}
    if labels is not None:
        names = {"labels_key": _code([labels["labels_key"]]), "classes": _code(labels["classes"])}
    return _filled(
        "page",
        front_matter=_front_matter(kind, name, evaluation, licence),
        title=repo_id or kind,
        what=_filled("what", kind, **names),
        untrained="" if model.is_trained_ else _filled("untrained"),
        tl="" if labels is None else ", tl",
        kind=kind,
        name=name,
        align_to=hidden if excluded else "model.genes.tolist()",
        use=_filled("use", kind),
        limits_of_classes="" if labels is None else _filled("limits_of_classes"),
        marker=marker,
        is_marker_read=_filled("is_marker_read", marker in model.genes),
        evaluation=_evaluation(evaluation),
        training="\n\n".join(filter(None, [*_history(model), _linear(described(model))])),
        n_genes=f"{len(model.genes):,}",
        first_genes=_code(model.genes[:_N_GENES]),
        excluded=_code(excluded) if excluded else "none were named",
        binning=_table(["parameter", "value"], model.binning["params"].items()),
        learned=_filled("learned") if is_learned else "",
        network=_table(["choice", "value"], asdict(model.config).items()),
        versions=_table(["package", "version"], _versions().items()),
        licence=_text(licence) if licence else _filled("no_licence"),
    )


@cache
def _texts() -> Mapping[str, Any]:
    text = resources.files(__package__).joinpath(_TEXTS).read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def _filled(text: str, which: str | bool | None = None, /, **values: object) -> str:
    """A text of the file, with what its names stand for."""
    texts = _texts()[text]
    return Template(texts if which is None else texts[which]).substitute(values)


def _front_matter(
    kind: str, name: str, evaluation: Mapping[str, Any] | None, licence: str | None
) -> str:
    versions, metrics, results = _versions(), None, []
    if evaluation is not None:
        metrics = list(dict.fromkeys(map(_visible, evaluation["summary"]["metric"])))
        results = _results(evaluation)
    scvi_tags = [f"{tag}_version:{versions[_SCVI_TAGS[tag]]}" for tag in _SCVI_TAGS]
    data = optional("huggingface_hub", "Sharing models").ModelCardData(
        library_name="scbert_cll",
        license=None if licence is None else _visible(licence),
        tags=[*_TAGS, f"model_cls_name:{kind}", *scvi_tags],
        metrics=metrics,
        model_name=name.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )
    return str(yaml.safe_dump(data.to_dict(), sort_keys=False, width=10**6)).strip()


def _versions() -> dict[str, str]:
    return {
        "scbert_cll": __version__,
        "scvi-tools": _scvi.SCVI_VERSION,
        "anndata": version("anndata"),
        "torch": torch.__version__,
    }


def _history(model: Network) -> list[str]:
    """Values of all that was followed, in the epoch whose weights the model has, else the last."""
    history, epoch = model.history_, model.kept_epoch_
    if not history:
        return [_filled("no_history")]
    last = {}
    for name, table in history.items():
        values = table.iloc[:, 0].dropna()
        if len(values) and (epoch is None or epoch in values.index):
            last[name] = float(values.iloc[-1] if epoch is None else values[epoch])
    n_epochs = max(len(values) for values in history.values())
    of_these = f"epoch {epoch}, whose weights these are"
    which = "the last one" if epoch is None else of_these
    rows = ((name, _number(value)) for name, value in last.items())
    has_majority = "masked_accuracy_validation" in last
    return [
        _filled("history", n_epochs=n_epochs, which=which),
        _table(["followed", "value"], rows),
        _filled("majority") if has_majority else "",
    ]


def _linear(joined: Mapping[str, Any] | None) -> str:
    if joined is None:
        return ""
    combine = _filled("combine", joined["combine"])
    return _filled("linear", strength=f"{joined['strength']:g}", combine=combine)


def _evaluation(evaluation: Mapping[str, Any] | None) -> str:
    if evaluation is None:
        return _filled("no_evaluation")
    summary, params = evaluation["summary"], evaluation["params"]
    scores = summary.itertuples()
    cells = {(row.model, row.metric): _with_interval(row) for row in scores}
    models, metrics = summary["model"].unique(), summary["metric"].unique()
    rows = ([metric, *(cells[name, metric] for name in models)] for metric in metrics)
    kinds = [kind for kind in summary["interval"].unique() if kind != NONE]
    scheme, n, unit = params["scheme"], evaluation["n_units"], _text(evaluation["unit"])
    held_out = _filled("random_cell")
    if scheme != "random_cell":
        held_out = _filled("held_out", scheme=_code([scheme]), n=n, unit=f"{unit}s")
    intervals = _filled("no_intervals")
    if kinds:
        intervals = _filled("intervals", kinds=_text(", ".join(kinds)))
    baselines = _code(params["baselines"])
    parts = {"held_out": held_out, "intervals": intervals, "baselines": baselines}
    text = _filled("evaluation", **parts)
    return f"{text}\n\n{_table(['metric', *models], rows)}"


def _with_interval(row: Any) -> str:
    """Estimate and its limits; a dash where there is none."""
    if np.isnan(row.estimate):
        return "–"
    if np.isnan(row.low):
        return _number(row.estimate)
    return f"{_number(row.estimate)} ({_number(row.low)} to {_number(row.high)})"


def _results(evaluation: Mapping[str, Any]) -> list[Any]:
    """Scores for the Hub's index.

    None where it is not clear which of the evaluated models was published.
    """
    summary, params = evaluation["summary"], evaluation["params"]
    models = list(map(str, params["models"]))
    others = {*map(str, params["baselines"]), *(f"{name}_network" for name in models)}
    published = [name for name in models if name not in others]
    if len(published) != 1:
        return []
    units = f"{evaluation['n_units']} {evaluation['unit']}s"
    hub = optional("huggingface_hub", "Sharing models")
    return [
        hub.EvalResult(
            task_type="tabular-classification",
            task_name="class of cells",
            dataset_type="single-cell-rna",
            dataset_name=_visible(f"cross-validation ({params['scheme']}, {units})"),
            metric_type=_visible(row.metric),
            metric_name=_visible(f"{row.metric}: {_with_interval(row)}"),
            metric_value=round(float(row.estimate), 4),
        )
        for row in summary[summary["model"] == published[0]].itertuples()
        if not np.isnan(row.estimate)
    ]


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"


def _code(names: Iterable[Any]) -> str:
    """Names as they are, in as many backticks as none of them has in a row.

    Nothing in them is Markdown or HTML.
    """
    codes = []
    for text in map(_visible, names):
        marks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
        room = " " * (text.startswith("`") or text.endswith("`") or not text.strip())
        codes.append(f"{marks}{room}{text}{room}{marks}")
    return ", ".join(codes) or "none"


def _visible(name: Any) -> str:
    """A name in one line: what cannot be printed, such as a line's end, as Python writes it."""
    escaped = ((c, c.encode("unicode_escape").decode()) for c in str(name))
    return "".join(c if c.isprintable() else code for c, code in escaped)


def _text(name: Any) -> str:
    """A name in running text: no mark in it is Markdown, HTML or a link."""
    text = html.escape(_visible(name), quote=False)
    text = re.sub(r"([\\`*\[\]~$]|(?<!\w)_|_(?!\w))", r"\\\1", text)
    text = text.replace("@", "&#64;").replace("://", "&#58;//")
    return re.sub(r"\bwww\.", "www&#46;", text, flags=re.IGNORECASE)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Markdown table; a bar within a name would end its cell."""
    lines = [[_text(cell).replace("|", "\\|") for cell in row] for row in (head, *rows)]
    lines.insert(1, ["---"] * len(head))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
