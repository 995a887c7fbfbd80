"""The demo's genes: the signature within donors, or the reason why there is none, and attention."""

from __future__ import annotations

import logging
import warnings
from functools import partial

import numpy as np
import pandas as pd
from anndata import AnnData

import scbert_cll as sc_cll
from scbert_cll import _checks, _keys
from scbert_cll._cli.demo.job import Job
from scbert_cll._cli.signature import up_and_down, write_signature
from scbert_cll._disk.formats import write_text
from scbert_cll._process import to_change
from scbert_cll.model import ScBERTClassifier

_SHOWN = 10
_ATTENTION = "gene_attention.csv"
_COLUMNS = ("gene", "log2_fc", "q", "n_left_out", "attribution_z", "family")
_WORDS = {"log2_fc": "log2 fold change", "n_left_out": "confirmed", "attribution_z": "network"}
_LEGEND = (
    "In that table, q is the expected share of false genes among those down to this row. "
    "Confirmed: in how many of the runs that leave one donor out the gene is found again. "
    "Network: z over held-out donors of how the network's logit changes with the presence of "
    "the gene; a positive one speaks for the positive class."
)


def find(job: Job, classifier: ScBERTClassifier) -> pd.DataFrame:
    """Report the genes that go with the class within donors; genes by attention."""
    adata, report = job.adata, job.report
    sc_cll.tl.gene_attention(adata, classifier)
    opinion = _signature(job, classifier)
    record = adata.uns[_keys.SIGNATURE]
    tested = ""
    if record["n_tested"]:
        tested = f"{record['n_tested']:,} genes were tested within {record['n_donors']} donors: "
    if record["n_selected"]:
        report.say(
            f"Signature: {up_and_down(record)}. {tested}q < {record['params']['alpha']:g}, "
            f"and a linear classifier of other donors' cells agrees. {opinion}"
        )
        genes = sc_cll.get.signature(adata)
        shown = genes[[name for name in _COLUMNS if name in genes]].head(_SHOWN)
        confirmed = shown["n_left_out"].map(f"{{}} of {record['n_donors']}".format)
        shown = shown.assign(q=shown["q"].map("{:.1g}".format), n_left_out=confirmed)
        title = f"Signature, the clearest {len(shown)} genes"
        report.show(title, shown.rename(columns=_WORDS).set_index("gene"))
        report.say(_LEGEND)
    else:
        report.say(f"Signature: none. {tested}{record['reason']}.")
    return sc_cll.get.gene_attention(adata, group=job.positive)


def write(job: Job, attention: pd.DataFrame) -> set[str]:
    """Write the tables there are; their names."""
    out = job.options.out
    write_text(out / _ATTENTION, attention.to_csv(index=False, lineterminator="\n"))
    name = "_".join(job.options.marker.split())
    return {_ATTENTION} | write_signature(job.adata, out, name)


def planted(job: Job, classifier: ScBERTClassifier, attention: pd.DataFrame) -> None:
    """Report how many planted genes are in the signature, and at the top of each ranking."""
    truth = job.adata.uns[_keys.TRUTH].set_index("gene")["sign"]
    n, by_gene = len(truth), attention.set_index("gene")
    rankings = {
        "attention difference": by_gene["difference"],
        "attention (the study's ranking)": by_gene["attention"],
        "logistic regression coefficient": _coefficients(job.adata, classifier),
    }
    named = {"signature": sc_cll.get.signature(job.adata).set_index("gene")["sign"]}
    named |= {name: v[v.abs().nlargest(n).index] for name, v in rankings.items()}
    rows: dict[str, tuple[float, ...]] = {}
    for name, values in named.items():
        hits = values.index.intersection(truth.index)
        right = int((np.sign(values[hits]) == truth[hits]).sum())
        rows[name] = (len(values), len(hits), n, right)
    chance = n * n / job.adata.n_vars
    rows["expected by chance"] = (n, chance, n, chance / 2)
    columns = ["named", "planted", "of", "sign_right"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    job.report.show("Planted genes found", table)
    job.report.say(
        "Attention follows abundance, and its difference between classes is mostly "
        "differential expression: both name as many genes as they are asked "
        "for. Only the signature decides by itself how many genes there are."
    )


def _signature(job: Job, classifier: ScBERTClassifier) -> str:
    """The signature; how far the network agrees, in cells of donors that it has not seen."""
    donor_key, gene = job.donor_key, job.gene
    search = partial(sc_cll.tl.signature, job.adata, donor_key=donor_key, gene=gene)
    to_change(sc_cll.tl.signature.__module__).setLevel(logging.WARNING)
    with warnings.catch_warnings():  # the report has both
        warnings.filterwarnings("ignore", message=".*there is little to attribute")
        try:
            search(classifier)
        except ValueError as refusal:
            search()
            return f"The network has no opinion of them: {refusal}"
    record = job.adata.uns[_keys.SIGNATURE]
    if not record["n_selected"]:
        return ""
    genes = record["genes"]
    n = int(genes.loc[genes["selected"], "attribution_agrees"].sum())
    return (
        f"The network, whose AUROC within held-out donors is {record['auroc_within']:.2f}, agrees "
        f"on {n} of them; it selects none."
    )


def _coefficients(adata: AnnData, classifier: ScBERTClassifier) -> pd.Series:
    """Coefficients per standard deviation of a gene's token, last class against first."""
    linear = classifier.linear_
    if linear is None:
        return pd.Series(dtype=float)
    tokens, _ = _checks.counts.tokens(adata[:, classifier.genes], classifier.layer)
    tokens = tokens.astype(float)
    powers = (tokens, tokens.power(2))
    mean, of_squares = (np.asarray(x.mean(0)).ravel() for x in powers)
    spread = np.sqrt(np.maximum(of_squares - mean**2, 0))
    per_deviation = (linear.coefficients[-1] - linear.coefficients[0]) * spread
    return pd.Series(per_deviation, index=classifier.genes)
