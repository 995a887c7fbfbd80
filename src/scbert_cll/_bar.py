"""Progress bars that leave no thread behind."""

from __future__ import annotations

from tqdm.auto import tqdm


class Bar(tqdm):  # type: ignore[misc]
    """A bar on a terminal.

    Tqdm's own starts, with the first one, a thread that looks after slow bars and never ends.
    """

    monitor_interval = 0
