"""The command ``demo``: the whole path on simulated or one's own cells, with figures and a report."""
