"""Print what is installed here and the given extras of this project do not need, one name a line.

``python .ci/beyond.py doc | xargs python -m pip uninstall -y`` leaves what ``pip install .[doc]``
would have installed.
"""

from __future__ import annotations

import sys
from importlib.metadata import distribution, distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = "scbert-cll"
needed: set[tuple[str, str]] = {("pip", "")}
left = [(PROJECT, extra) for extra in ("", *sys.argv[1:])]
installed = {canonicalize_name(one.name) for one in distributions()}
while left:
    name, extra = left.pop()
    if (name, extra) in needed or name not in installed:
        continue
    needed.add((name, extra))
    for text in distribution(name).requires or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            whose = canonicalize_name(requirement.name)
            left += [(whose, other) for other in ("", *requirement.extras)]
print("\n".join(sorted(installed - {name for name, _ in needed})))
