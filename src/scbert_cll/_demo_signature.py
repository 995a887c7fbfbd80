"""The demo's genes: the signature within donors, or why there is none, and beside it what attention ranks."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from anndata import AnnData

import scbert_cll as sc_cll
from scbert_cll import _baselines, _keys
from scbert_cll._report import Report

_FILES = ("signature.csv", "signature.json", "signature.gmt")
_SHOWN = 10
_COLUMNS = ("gene", "sign", "log2_fc", "q", "n_left_out", "attribution_z", "family")


def attention(adata: AnnData, classifier: Any, group: str, out: Path) -> None:
    """Genes by the difference in attention between a group and the rest; abundance for the most part."""
    sc_cll.tl.gene_attention(adata, classifier)
    sc_cll.get.gene_attention(adata, group=group).to_csv(out / "gene_attention.csv", index=False)


def signature(
    adata: AnnData, classifier: Any, report: Report, *, donor_key: str, gene: str, marker: str, out: Path
) -> None:
    """Genes that go with the class within donors, with the network's opinion of each where it can have one."""
    for name in _FILES:  # of an earlier run: this one may find none
        (out / name).unlink(missing_ok=True)
    asked: dict[str, Any] = {"donor_key": donor_key, "gene": gene}
    sc_cll.tl.signature(adata, **asked)
    found = adata.uns[_keys.SIGNATURE]
    if not found["n_selected"]:
        report.say(f"Signature: none. {_tested(found)}{found['reason']}.")
    if not found["n_tested"]:
        return
    opinion = _ask_network(adata, classifier, asked)
    sc_cll.io.write_csv(adata, out / "signature.csv", overwrite=True)
    if found["n_selected"]:
        _tell(adata, opinion, report)
        sc_cll.io.write_gmt(adata, out / "signature.gmt", name="_".join(marker.split()), overwrite=True)


def planted(adata: AnnData, classifier: Any, group: str, report: Report) -> None:
    """What each way of naming genes finds of those that were planted."""
    table = sc_cll.get.gene_attention(adata, group=group)
    report.show("Planted genes found", _baselines.recovery(adata, table, classifier))
    report.say(
        "Attention alone follows abundance and finds few planted genes; its difference between classes is mostly differential "
        "expression. Only the signature decides by itself how many genes there are."
    )


def _tested(found: dict[str, Any]) -> str:
    """How many genes were tested in how many donors, if any was."""
    if not found["n_tested"]:
        return ""
    return f"{found['n_tested']:,} genes were tested within {found['n_donors']} donors: "


def _ask_network(adata: AnnData, classifier: Any, asked: dict[str, Any]) -> str:
    """Put what the network says beside each gene, in cells of donors it has not seen; how far it is to be believed."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*there is little to attribute")  # the AUROC is told instead
            sc_cll.tl.signature(adata, classifier, **asked)
    except ValueError as refusal:
        return f"The network has no opinion of them: {refusal}"
    found = adata.uns[_keys.SIGNATURE]
    genes = found["genes"]
    n = int(genes.loc[genes["selected"], "attribution_agrees"].sum())
    return f"The network, whose AUROC within held-out donors is {found['auroc_within']:.2f}, agrees on {n} of them; it selects none."


def _tell(adata: AnnData, opinion: str, report: Report) -> None:
    """Numbers, and the clearest genes."""
    found, genes = adata.uns[_keys.SIGNATURE], sc_cll.get.signature(adata)
    n_up = int((genes["sign"] > 0).sum())
    report.say(
        f"Signature: {len(genes)} genes, {n_up} up and {len(genes) - n_up} down. {_tested(found)}q < {found['params']['alpha']:g}, "
        f"and a linear classifier of other donors' cells agrees. {opinion}"
    )
    columns = [name for name in _COLUMNS if name in genes]
    report.show(
        f"Signature, the clearest {min(_SHOWN, len(genes))} genes",
        genes[columns].head(_SHOWN).assign(q=genes["q"].map("{:.1g}".format)),
    )
