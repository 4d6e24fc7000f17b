"""For every test: one thread a process (small tensors gain nothing from more), and figures without a window."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
