"""Files that readers of cohorts are tested with."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

SharedFile = Callable[[str], Path]


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


SERIES = """!Series_title	"CLL, untreated"
!Series_geo_accession	"GSE39671"
!Series_platform_id	"GPL570"

!Sample_title	"CLL 1"	"CLL 2"	"CLL 3"
!Sample_geo_accession	"GSM1"	"GSM2"	"GSM3"
!Sample_organism_ch1	"Homo sapiens"	"Homo sapiens"	"Homo sapiens"
!Sample_source_name_ch1	"blood"	"blood"	"node"
!Sample_characteristics_ch1	"age: 61"	"age: 70"	""
!Sample_characteristics_ch1	"treatment status (1=yes/0=no): 1"	"cd38: high: 30 %"	"age: 55"
!Sample_characteristics_ch1	"age: 62"	"CLL"	""
!series_matrix_table_begin
"ID_REF"	"GSM1"	"GSM2"	"GSM3"
"35731_at"	5.5	6	null
"2061_at"	7	8.25	9
!series_matrix_table_end
"""
