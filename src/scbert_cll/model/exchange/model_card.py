"""The page that a model is published with: what it is, what is known of it, and what it is not for."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from textwrap import dedent
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
import yaml

from scbert_cll._evaluation.bootstrap import NONE
from scbert_cll._version import __version__
from scbert_cll.model import _scvi
from scbert_cll.model._inference import hidden_genes
from scbert_cll.model._protocols import Network
from scbert_cll.model.linear.ensemble import described

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
_WHAT: Final = {
    "ScBERT": "A Performer that guesses the expression of hidden genes from the rest of a cell, "
    "for "
    "embeddings and to start classifiers from. "
    "It names no classes.",
    "ScBERTClassifier": "A Performer that names the class of a cell from its expressed genes, by "
    "{labels_key}: "
    "{classes}.",
}
_COMBINE: Final = {
    "none": "for comparison only: predictions are the network's alone.",
    "average": "predictions are the mean of its log-probabilities and the network's.",
    "residual": "the network has learned what it leaves to be learned, and predictions are of the "
    "sum "
    "of "
    "both logits.",
}
_USE: Final = """\
For research on single-cell RNA of chronic lymphocytic leukaemia (CLL). **Not for clinical use**: it is no medical device, it has not been
validated for diagnosis, prognosis or the choice of a treatment, and no decision about a patient may rest on it."""
_LIMITS: Final = (
    (
        "Nothing in these files says which cells it was trained on. Tissues, protocols and "
        "diseases it has not seen may get answers that are sure and wrong."
    ),
    "It needs raw counts that are binned as below, and at least half of its genes by name.",
    (
        "Attention and attribution say what the network reads. They are no evidence that a gene "
        "causes anything."
    ),
    (
        "No cell and no donor is in the files. That its weights tell nothing about single "
        "training cells has not been shown."
    ),
)
_LIMITS_OF_CLASSES: Final = (
    (
        "Every cell gets one of its classes, cells that are none of them, too: other lineages, "
        "doublets, damaged cells."
    ),
    "It repeats the labels it was given, with the errors of the gate or threshold that made them.",
    "Probabilities are calibrated only as far as an evaluation below says so.",
)


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
    name = repo_id or "org/name"
    sections = {
        "": _head(model),
        "Load it": _loading(model, name),
        "Intended use": _USE,
        "Limits": _limits(model),
        "Evaluation": _evaluation(evaluation),
        "Training": _training(model),
        "Genes": _genes(model),
        "Binning": _binning(model.binning),
        "Network": _table(["choice", "value"], asdict(model.config).items()),
        "Written with": _table(["package", "version"], _versions().items()),
        "Licence": _text(licence) if licence else "Not said by those who published it.",
    }
    text = "\n\n".join(
        f"## {title}\n\n{body}" if title else body for title, body in sections.items()
    )
    return (
        f"---\n{_front_matter(model, name, evaluation, licence)}\n---\n\n# "
        f"{repo_id or type(model).__name__}\n\n{text}\n"
    )


def _front_matter(
    model: Network, name: str, evaluation: Mapping[str, Any] | None, licence: str | None
) -> str:
    from huggingface_hub import ModelCardData

    kind, versions = type(model).__name__, _versions()
    tags = [
        f"model_cls_name:{kind}",
        *(f"{p}_version:{versions[q]}" for p, q in _SCVI_TAGS.items()),
    ]
    results = [] if evaluation is None else _results(evaluation)
    metrics = (
        None
        if evaluation is None
        else list(dict.fromkeys(map(_visible, evaluation["summary"]["metric"])))
    )
    data = ModelCardData(
        library_name="scbert_cll",
        license=None if licence is None else _visible(licence),
        tags=[*_TAGS, *tags],
        metrics=metrics,
        model_name=name.rpartition("/")[2] if results else None,
        eval_results=results or None,
    )
    content: dict[str, Any] = data.to_dict()  # type: ignore[no-untyped-call]
    return str(yaml.safe_dump(content, sort_keys=False, width=10**6)).strip()


_SCVI_TAGS: Final = {"scvi": "scvi-tools", "anndata": "anndata"}  # scvi-tools' hub looks for them


def _versions() -> dict[str, str]:
    return {
        "scbert_cll": __version__,
        "scvi-tools": _scvi.SCVI_VERSION,
        "anndata": version("anndata"),
        "torch": torch.__version__,
    }


def _head(model: Network) -> str:
    labels = model.labels or {}
    what = _WHAT[type(model).__name__]
    if labels:
        what = what.format(
            labels_key=_code([labels["labels_key"]]), classes=_code(labels["classes"])
        )
    untrained = (
        "" if model.is_trained_ else "\n\n**It has not been trained: its weights are random.**"
    )
    return f"{what} Made with the Python package `scbert_cll`.{untrained}"


def _loading(model: Network, name: str) -> str:
    kind, classifies = type(model).__name__, model.labels is not None
    door = (
        "tl.predict(adata, model)"
        if classifies
        else 'adata.obsm["X_scbert"] = model.get_latent_representation(adata)'
    )
    hidden = (
        ", *model.registry['setup_args']['exclude_genes']"  # these are in the totals of its cells
    )
    genes = f"[*model.genes{hidden}]" if hidden_genes(model) else "model.genes.tolist()"
    code = f"""\
        import anndata as ad
        from scbert_cll import pp{", tl" * classifies}
        from scbert_cll.model import {kind}

        model = {kind}.from_pretrained("{name}")
        adata = ad.read_h5ad("cells.h5ad")  # raw counts
        adata = pp.align_genes(adata, {genes})
        pp.bin_expression(adata, edges=model.binning, key_added=model.layer)
        {door}"""
    return f"```bash\npip install 'scbert-cll[hub]'\n```\n\n```python\n{dedent(code)}\n```"


def _limits(model: Network) -> str:
    return _bullets([*_LIMITS, *(_LIMITS_OF_CLASSES if model.labels else ()), _marker(model)])


def _marker(model: Network) -> str:
    if _MARKER in model.genes:
        return (
            f"*{_MARKER}*, the gene of CD49d, is among its genes: what it says of CD49d may be no "
            f"more than that gene's own RNA."
        )
    return f"*{_MARKER}*, the gene of CD49d, is not among its genes."


def _genes(model: Network) -> str:
    first = _code(model.genes[:_N_GENES])
    excluded = hidden_genes(model)
    left_out = _code(excluded) if excluded else "none were named"
    return (
        f"{len(model.genes):,} genes, all in `vocab.txt`; the first are {first}. Left out on "
        f"purpose: {left_out}."
    )


def _binning(binning: Mapping[str, Any]) -> str:
    params = binning["params"]
    learned = (
        " Its edges were learned gene by gene (`edges.csv`)."
        if isinstance(binning["edges"], pd.DataFrame)
        else ""
    )
    return f"{_table(['parameter', 'value'], params.items())}\n\nZero stays zero.{learned}"


def _training(model: Network) -> str:
    return "\n\n".join(
        filter(None, [_history(model.history_, model.kept_epoch_), _linear(described(model))])
    )


def _history(history: Mapping[str, pd.DataFrame] | None, kept: int | None) -> str:
    """Value of everything that was followed, in the epoch whose weights the model has.

    In the last one where that is not known.
    """
    if not history:
        return "The files hold no training history."
    known = {name: values.iloc[:, 0].dropna() for name, values in history.items()}
    shown = {
        name: values
        for name, values in known.items()
        if len(values) and (kept is None or kept in values.index)
    }
    last = {
        name: float(values.iloc[-1] if kept is None else values[kept])
        for name, values in shown.items()
    }
    n_epochs = max(len(values) for values in history.values())
    which = "the last one" if kept is None else f"epoch {kept}, whose weights these are"
    said = [
        (
            f"{n_epochs} epochs; values of {which}, on training and validation cells. They are no "
            f"evaluation: validation cells may have been used to choose."
        ),
        _table(["followed", "value"], ((name, _number(value)) for name, value in last.items())),
    ]
    if "masked_accuracy_validation" in last:
        said.append(
            "`majority_accuracy` is what guessing each cell's commonest bin gets: what is not "
            "above it is not learned."
        )
    return "\n\n".join(said)


def _linear(joined: Mapping[str, Any] | None) -> str:
    if joined is None:
        return ""
    return (
        f"A logistic regression on the same tokens (C = {joined['strength']:g}) is in "
        f"`linear.safetensors`, {_COMBINE[joined['combine']]}"
    )


def _evaluation(evaluation: Mapping[str, Any] | None) -> str:
    if evaluation is None:
        return "None was published with it: how it does on other donors is not known."
    summary, params = evaluation["summary"], evaluation["params"]
    cells = {(row.model, row.metric): _with_interval(row) for row in summary.itertuples()}
    models, metrics = (list(dict.fromkeys(summary[column])) for column in ("model", "metric"))
    rows = ([metric, *(cells[name, metric] for name in models)] for metric in metrics)
    kinds = [kind for kind in dict.fromkeys(summary["interval"]) if kind != NONE]
    around = (
        f"Brackets hold 95 % intervals ({_text(', '.join(kinds))}). "
        if kinds
        else "There are no intervals. "
    )
    return (
        f"{_held_out(evaluation)} Each model was made anew in every fold, so the numbers are "
        f"of the procedure, not of these very weights. "
        f"{around}Baselines: {_code(params['baselines'])}.\n\n{_table(['metric', *models], rows)}"
    )


def _held_out(evaluation: Mapping[str, Any]) -> str:
    scheme, n, unit = evaluation["params"]["scheme"], evaluation["n_units"], evaluation["unit"]
    if scheme == "random_cell":
        return (
            "**Donors were not held out** (`random_cell`): cells of one donor were trained on "
            "and scored, "
            "so the numbers are optimistic, and say nothing of other patients."
        )
    return (
        f"Donors were held out ({_code([scheme])}, {n} {_text(unit)}s): no cell was scored by a "
        f"model that had seen its donor."
    )


def _with_interval(row: Any) -> str:
    """Estimate and its limits; a dash where there is none."""
    if np.isnan(row.estimate):
        return "–"
    return _number(row.estimate) + (
        "" if np.isnan(row.low) else f" ({_number(row.low)} to {_number(row.high)})"
    )


def _results(evaluation: Mapping[str, Any]) -> list[Any]:
    """Scores for the Hub's index.

    None where it is not clear which of the evaluated models was published.
    """
    from huggingface_hub import EvalResult

    summary, params = evaluation["summary"], evaluation["params"]
    baselines, models = ([str(name) for name in params[key]] for key in ("baselines", "models"))
    parts = {f"{name}_network" for name in models}
    own = [name for name in models if name not in {*baselines, *parts}]
    if len(own) != 1:
        return []
    return [
        EvalResult(
            task_type="tabular-classification",
            task_name="class of cells",
            dataset_type="single-cell-rna",
            dataset_name=_visible(
                f"cross-validation ({params['scheme']}, {evaluation['n_units']} "
                f"{evaluation['unit']}s)"
            ),
            metric_type=_visible(row.metric),
            metric_name=_visible(f"{row.metric}: {_with_interval(row)}"),
            metric_value=round(float(row.estimate), 4),
        )
        for row in summary[summary["model"] == own[0]].itertuples()
        if not np.isnan(row.estimate)
    ]


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.1e}"


def _code(names: Iterable[Any]) -> str:
    """Names as they are, in as many backticks as none of them has in a row.

    Nothing in them is Markdown or HTML.
    """
    return ", ".join(map(_one_code, names)) or "none"


def _one_code(name: Any) -> str:
    text = _visible(name)
    marks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    room = " " * (text.startswith("`") or text.endswith("`") or not text.strip())
    return f"{marks}{room}{text}{room}{marks}"


def _visible(name: Any) -> str:
    """A name in one line: what is no letter, mark or plain blank, such as the end of a line, is written as Python writes it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))


def _text(name: Any) -> str:
    """A name in running text: no mark in it is Markdown, HTML or a link."""
    text = html.escape(_visible(name), quote=False)
    text = (
        re.sub(r"([\\`*\[\]~$]|(?<!\w)_|_(?!\w))", r"\\\1", text)
        .replace("@", "&#64;")
        .replace("://", "&#58;//")
    )
    return re.sub(r"\bwww\.", "www&#46;", text, flags=re.IGNORECASE)


def _bullets(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Markdown table; a bar within a name would end its cell."""
    lines = [[_text(cell).replace("|", "\\|") for cell in line] for line in (head, *rows)]
    lines.insert(1, ["---"] * len(head))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
