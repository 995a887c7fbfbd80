"""The command ``demo``: the whole workflow on simulated or one's own cells, with a report."""
