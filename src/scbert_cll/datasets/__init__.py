"""Simulated data with a known truth, to learn the package on and to test it with."""

from scbert_cll.datasets._cll_cohort import cll_cohort
from scbert_cll.datasets._cll_toy import cll_toy
from scbert_cll.datasets._planted_donors import planted_donors

__all__ = ["cll_cohort", "cll_toy", "planted_donors"]
