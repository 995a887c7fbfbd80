"""Print the lowest versions that pyproject.toml allows, as constraints of pip."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]
asked = [
    *PROJECT["dependencies"],
    *(one for extra in PROJECT["optional-dependencies"].values() for one in extra),
]
lowest = {m[1]: m[2] for one in asked if (m := re.match(r"([\w.-]+)(?:\[\w+\])?>=([\w.]+)", one))}
print("\n".join(f"{name}=={version}" for name, version in sorted(lowest.items())))
