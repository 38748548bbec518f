"""What tests of the repository share: where it is, and the environment of the processes that they start."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[1]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
