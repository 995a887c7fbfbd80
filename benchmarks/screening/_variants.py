"""The arms of the screening: what each changes of the default recipe."""

from __future__ import annotations

from typing import Any

_SHORT: dict[str, Any] = {"batch": 32, "epochs": 12}  # too few steps for a few hundred cells
ARMS: dict[str, dict[str, Any]] = {
    "default": {},
    "aux": {"aux": 1.0},
    "aux_frozen": {"aux": 1.0, "freeze_genes": True},
    "aux_drop6": {"aux": 1.0, "token_drop": 0.6},
    "refit": {"aux": 1.0, "refit": True},
    "final": {"aux": 1.0, "refit": True, "freeze_genes": True},
    "full8_aux": {"epochs": 8, "aux": 1.0},
    "public": {},  # the package's own training, whose settings these are not
    "crossfit": {"offset": "crossfit"},
    "gated": {"pool": "gated"},
    "lr4": {"lr": 4e-3},
    "epochs40": {"epochs": 40},
    "batch32_epochs12": _SHORT,
    "batch32_epochs12_aux": _SHORT | {"aux": 1.0},
    "batch32_epochs12_gated": _SHORT | {"pool": "gated"},
    "batch32_epochs12_attention": _SHORT | {"pool": "attention"},
    "batch32_epochs12_crossfit": _SHORT | {"offset": "crossfit"},
}
