"""Tools: verbs over the models, and the reports that three of them return."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from scbert_cll.tl._cross_validate.verb import cross_validate
    from scbert_cll.tl._finetune import finetune
    from scbert_cll.tl._gene2vec import gene2vec
    from scbert_cll.tl._gene_attention import gene_attention
    from scbert_cll.tl._gene_attribution import gene_attribution
    from scbert_cll.tl._gene_interactions import gene_interactions
    from scbert_cll.tl._leakage_audit import LeakageReport, leakage_audit
    from scbert_cll.tl._patient_cd49d.verb import patient_cd49d
    from scbert_cll.tl._perturb import perturb
    from scbert_cll.tl._predict import predict
    from scbert_cll.tl._predict_corpus.verb import predict_corpus
    from scbert_cll.tl._pretrain import pretrain
    from scbert_cll.tl._prognosis.report import Prognosis
    from scbert_cll.tl._prognosis.verb import prognosis
    from scbert_cll.tl._programmes import programmes
    from scbert_cll.tl._score_signature import score_signature
    from scbert_cll.tl._signature.verb import signature
    from scbert_cll.tl._signature_report.verb import SignatureReport, signature_report
    from scbert_cll.tl._survival import survival

__all__ = [
    "LeakageReport", "Prognosis", "SignatureReport", "cross_validate", "finetune", "gene2vec",
    "gene_attention", "gene_attribution", "gene_interactions", "leakage_audit", "patient_cd49d",
    "perturb", "predict", "predict_corpus", "pretrain", "prognosis", "programmes",
    "score_signature", "signature", "signature_report", "survival",
]  # fmt: skip

_ELSEWHERE: Final = {  # a verb is in the file of its name, unless it is said here
    "LeakageReport": "_leakage_audit",
    "Prognosis": "_prognosis.report",
    "SignatureReport": "_signature_report.verb",
    "cross_validate": "_cross_validate.verb",
    "patient_cd49d": "_patient_cd49d.verb",
    "predict_corpus": "_predict_corpus.verb",
    "prognosis": "_prognosis.verb",
    "signature": "_signature.verb",
    "signature_report": "_signature_report.verb",
}


def __getattr__(name: str) -> Any:
    """Open the file of a verb on first use: those without a network load neither torch nor scvi."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from scbert_cll._process import passive

    with passive():
        file = importlib.import_module(f"{__name__}.{_ELSEWHERE.get(name, f'_{name}')}")
    verb = globals()[name] = getattr(file, name)
    return verb


def __dir__() -> list[str]:
    return sorted(__all__)
