"""Options in plain YAML: no anchors, aliases or deep nesting, by which short text grows."""

from __future__ import annotations

from typing import Any, Final

import yaml
from jsonargparse import get_loader, set_loader
from yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, NodeEvent

PLAIN_YAML: Final = "plain_yaml"
_DEEPEST: Final = 20  # nested lists and mappings; options have two


class _NotPlainError(yaml.YAMLError):
    """YAML with more to it than values."""


def _load(text: str) -> Any:
    """Values of YAML, once it is known to be plain."""
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, AliasEvent) or (
            isinstance(event, NodeEvent) and event.anchor is not None
        ):
            raise _NotPlainError(
                "options in YAML have no anchors (&) and aliases (*); write each value where "
                "it belongs."
            )
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > _DEEPEST:
            raise _NotPlainError(
                f"options in YAML are nested at most {_DEEPEST} deep; write one line for each "
                f"option."
            )
    return get_loader("yaml")(text)


set_loader(PLAIN_YAML, _load, exceptions=(yaml.YAMLError,))
