"""Every AnnData key the package reads or writes, spelled once."""

from __future__ import annotations

from typing import Final, Literal

# layers, and the `uns` entry of the same name
BINNED: Final = "binned"

# obs
CD49D: Final = "cd49d"
SPLIT: Final = "split"
BALANCE_WEIGHT: Final = "balance_weight"
IS_SYNTHETIC: Final = "is_synthetic"
PRED: Final = "scbert_pred"
SCORE: Final = "scbert_score"
DONOR: Final = "donor"
UNASSIGNED: Final = "unassigned"
SWITCH: Final = "switch"

# obsm, and stems of them
X_SCBERT: Final = "X_scbert"
PROBA: Final = "scbert_proba"
LINEAR_PROBA: Final = "linear_proba"
CV: Final = "cv"

# var and varm
IN_QUERY: Final = "in_query"
SOURCE_GENE: Final = "source_gene"
GENE2VEC: Final = "gene2vec"
GENE_ATTENTION: Final = "gene_attention"
GENE_ATTRIBUTION: Final = "gene_attribution"
PERTURB: Final = "perturb"
PROGRAMMES: Final = "programmes"  # and obsm

# uns
ALIGN_GENES: Final = "align_genes"
TO_HUMAN: Final = "to_human"
COHORT: Final = "cohort"
COLLAPSE_PROBES: Final = "collapse_probes"
SCBERT: Final = "scbert"
SCBERT_PREDICT: Final = "scbert_predict"
SIGNATURE: Final = "signature"
SIGNATURE_REPORT: Final = "signature_report"
SIGNATURE_SCORE: Final = "signature_score"  # and obs
SURVIVAL: Final = "survival"
PATIENT_CD49D: Final = "patient_cd49d"
PROGNOSIS: Final = "prognosis"  # and stem of obs columns
LEAKAGE_AUDIT: Final = "leakage_audit"
BALANCE: Final = "balance"
GENE_INTERACTIONS: Final = "gene_interactions"
TRUTH: Final = "truth"
TRUTH_DONORS: Final = "truth_donors"

# values of obs[SPLIT]
TRAIN: Final = "train"
VAL: Final = "val"
TEST: Final = "test"
SPLIT_ORDER: Final = (TRAIN, VAL, TEST)

# values of obs[CD49D + LEVEL]
LEVEL_ORDER: Final = ("zero", "low", "high")

# patient classes of the donor table, Tissino et al. 2020 (doi:10.1182/blood.2019003179)
DONOR_CLASSES: Final = ("neg_homogeneous", "bimodal_low", "bimodal_high", "pos_homogeneous")

# cell division: the 11 of PAM50's proliferation index (Nielsen et al. 2010,
# doi:10.1158/1078-0432.CCR-10-1282), and PCNA
PROLIFERATION: Final = (
    "BIRC5", "CCNB1", "CDC20", "CEP55", "MKI67", "NDC80", "NUF2", "PTTG1", "RRM2", "TYMS", "UBE2C",
    "PCNA",
)  # fmt: skip

# places where a CITE-seq protein matrix usually lies: obsm of an AnnData, modality of a MuData
PROTEIN_KEYS: Final = (
    "protein",
    "prot",
    "adt",
    "ADT",
    "protein_expression",
    "protein_counts",
    "antibody_capture",
)
RNA_KEYS: Final = ("rna", "gex", "RNA", "GEX", "gene_expression")


type Part = Literal[
    "donors", "group", "layers", "level", "pred", "proba", "score", "sets", "size", "summary"
]


def beside(key: str, part: Part) -> str:
    """Key of what lies beside an entry: ``cv_proba`` beside ``cv``."""
    return f"{key}_{part}"


def level(key: str) -> str:
    """`obs` column of the ordered zero / low / high level that belongs to a label column."""
    return beside(key, "level")


def score(key: str) -> str:
    """`obs` column of the posterior of 'positive' that belongs to a label column."""
    return beside(key, "score")
