"""Tools: verbs over the models."""

from scbert_cll.tl._cross_validate import cross_validate
from scbert_cll.tl._finetune import finetune
from scbert_cll.tl._gene2vec import gene2vec
from scbert_cll.tl._gene_attention import gene_attention
from scbert_cll.tl._leakage_audit import leakage_audit
from scbert_cll.tl._predict import predict
from scbert_cll.tl._pretrain import pretrain

__all__ = ["cross_validate", "finetune", "gene2vec", "gene_attention", "leakage_audit", "predict", "pretrain"]
