"""What the models of a prognosis, and their columns, are called."""

from __future__ import annotations

from typing import Final

SCORE: Final = "score"
CLINICAL: Final = "clinical"
PROLIFERATION: Final = "proliferation"
GENE: Final = "marker"
NOTHING: Final = "none"
COMPLETE: Final = f"{SCORE} (complete cases)"
FULL: Final = f"{CLINICAL} + {SCORE}"
WITH_GENE: Final = f"{GENE} + {SCORE}"
