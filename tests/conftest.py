"""For every test: one thread a process (small tensors gain nothing from more), and figures without a window."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

SITE = Path(__file__).parents[1] / "_build" / "html"


def pytest_collection_modifyitems(items):
    """Tests of the website are skipped, and say so, where it has not been built."""
    if not SITE.exists():
        for item in items:
            if item.get_closest_marker("site"):
                item.add_marker(pytest.mark.skip(reason="there is no website yet: run `make book` first"))
