"""What every test runs under, also when pytest is called by hand instead of through make."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import matplotlib as mpl

# Not through the environment, from which the chapters' kernels would take it as well.
mpl.use("agg")
