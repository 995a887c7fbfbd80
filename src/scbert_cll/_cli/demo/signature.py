"""The demo's genes: the signature within donors, or why there is none, and next to it what attention ranks."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData

import scbert_cll as sc_cll
from scbert_cll import _keys
from scbert_cll._cli.demo import comparison
from scbert_cll._cli.report import Report, quiet
from scbert_cll._disk.formats import write_text

_SHOWN = 10
_COLUMNS = {
    "gene": "gene",
    "log2_fc": "log2 fold change",
    "q": "q",
    "n_left_out": "confirmed",
    "attribution_z": "network",
    "family": "family",
}
_LEGEND = (
    "In that table, q is the expected share of false genes among those down to this row. "
    "Confirmed: in how many of the runs that leave one donor out the gene is found again. "
    "Network: z over held-out donors of how the network's logit changes with the presence of "
    "the gene; a positive one speaks for the positive class."
)


@dataclass(frozen=True)
class Found:
    """What there is to write."""

    attention: pd.DataFrame
    n_tested: int
    n_selected: int
    set_name: str


def find(
    adata: AnnData,
    classifier: Any,
    report: Report,
    *,
    donor_key: str,
    gene: str | None,
    marker: str,
) -> Found:
    """Genes that go with the class within donors, with the network's opinion of each where it can have one; and by attention."""
    sc_cll.tl.gene_attention(adata, classifier)
    opinion = _signature(adata, classifier, {"donor_key": donor_key, "gene": gene})
    found = adata.uns[_keys.SIGNATURE]
    if found["n_selected"]:
        _tell(adata, opinion, report)
    else:
        report.say(f"Signature: none. {_tested(found)}{found['reason']}.")
    attention = sc_cll.get.gene_attention(adata, group=f"{marker}+")
    return Found(attention, found["n_tested"], found["n_selected"], "_".join(marker.split()))


def write(adata: AnnData, found: Found, out: Path) -> set[str]:
    """Write the tables there are; their names."""
    write_text(out / "gene_attention.csv", found.attention.to_csv(index=False, lineterminator="\n"))
    written = {"gene_attention.csv"}
    if found.n_tested:
        sc_cll.io.write_csv(adata, out / "signature.csv", overwrite=True)
        written |= {"signature.csv", "signature.json"}
    if found.n_selected:
        sc_cll.io.write_gmt(adata, out / "signature.gmt", name=found.set_name, overwrite=True)
        written.add("signature.gmt")
    return written


def planted(adata: AnnData, classifier: Any, group: str, report: Report) -> None:
    """What each way of naming genes finds of those that were planted."""
    table = sc_cll.get.gene_attention(adata, group=group)
    report.show("Planted genes found", comparison.recovery(adata, table, classifier))
    report.say(
        "Attention follows abundance, and its difference between classes is mostly "
        "differential expression: both name as many genes as they are asked "
        "for. Only the signature decides by itself how many genes there are."
    )


def _signature(adata: AnnData, classifier: Any, asked: dict[str, Any]) -> str:
    """The signature, and what the network says of it, in cells of donors it has not seen.

    How far it is to be believed.
    """
    with quiet(sc_cll.tl.signature.__module__):  # what it says is said by the report
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings(
                    "ignore", message=".*there is little to attribute"
                )  # the AUROC is told instead
                sc_cll.tl.signature(adata, classifier, **asked)
        except ValueError as refusal:
            sc_cll.tl.signature(adata, **asked)
            return f"The network has no opinion of them: {refusal}"
    found = adata.uns[_keys.SIGNATURE]
    if not found["n_selected"]:
        return ""
    genes = found["genes"]
    n = int(genes.loc[genes["selected"], "attribution_agrees"].sum())
    return (
        f"The network, whose AUROC within held-out donors is {found['auroc_within']:.2f}, agrees "
        f"on {n} of them; it selects none."
    )


def _tested(found: dict[str, Any]) -> str:
    """How many genes were tested in how many donors, if any was."""
    if not found["n_tested"]:
        return ""
    return f"{found['n_tested']:,} genes were tested within {found['n_donors']} donors: "


def _tell(adata: AnnData, opinion: str, report: Report) -> None:
    """Numbers, and the clearest genes."""
    found, genes = adata.uns[_keys.SIGNATURE], sc_cll.get.signature(adata)
    n_up = int((genes["sign"] > 0).sum())
    report.say(
        f"Signature: {len(genes)} genes, {n_up} up and {len(genes) - n_up} down. "
        f"{_tested(found)}q < {found['params']['alpha']:g}, "
        f"and a linear classifier of other donors' cells agrees. {opinion}"
    )
    shown = genes[[name for name in _COLUMNS if name in genes]].head(_SHOWN)
    shown = shown.assign(
        q=shown["q"].map("{:.1g}".format),
        n_left_out=shown["n_left_out"].map(f"{{}} of {found['n_donors']}".format),
    )
    report.show(
        f"Signature, the clearest {len(shown)} genes",
        shown.rename(columns=_COLUMNS).set_index("gene"),
    )
    report.say(_LEGEND)
