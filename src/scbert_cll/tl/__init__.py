"""Tools: verbs over the models."""

from scbert_cll.tl._cross_validate import cross_validate
from scbert_cll.tl._finetune import finetune
from scbert_cll.tl._gene2vec import gene2vec
from scbert_cll.tl._gene_attention import gene_attention
from scbert_cll.tl._gene_attribution import gene_attribution
from scbert_cll.tl._gene_interactions import gene_interactions
from scbert_cll.tl._leakage_audit import leakage_audit
from scbert_cll.tl._patient_cd49d import patient_cd49d
from scbert_cll.tl._perturb import perturb
from scbert_cll.tl._predict import predict
from scbert_cll.tl._predict_corpus.verb import predict_corpus
from scbert_cll.tl._pretrain import pretrain
from scbert_cll.tl._prognosis.verb import prognosis
from scbert_cll.tl._score_signature import score_signature
from scbert_cll.tl._signature.verb import signature
from scbert_cll.tl._signature_report.verb import signature_report
from scbert_cll.tl._survival import survival

__all__ = [
    "cross_validate",
    "finetune",
    "gene2vec",
    "gene_attention",
    "gene_attribution",
    "gene_interactions",
    "leakage_audit",
    "patient_cd49d",
    "perturb",
    "predict",
    "predict_corpus",
    "pretrain",
    "prognosis",
    "score_signature",
    "signature",
    "signature_report",
    "survival",
]
