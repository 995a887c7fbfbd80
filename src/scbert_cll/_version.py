"""The version, said once: in a file of its own, so that nothing has to import the package for it."""

from typing import Final

__version__: Final = "0.1.0"
