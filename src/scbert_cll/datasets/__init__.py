"""Simulated data with a known truth, and readers of cohorts."""

from scbert_cll.datasets._cll_cohort import cll_cohort
from scbert_cll.datasets._cll_toy import cll_toy
from scbert_cll.datasets._geo_series import download_geo_series, read_geo_series
from scbert_cll.datasets._planted_donors import planted_donors
from scbert_cll.datasets._read_cohort import read_cohort, read_mofacll

__all__ = [
    "cll_cohort",
    "cll_toy",
    "download_geo_series",
    "planted_donors",
    "read_cohort",
    "read_geo_series",
    "read_mofacll",
]
