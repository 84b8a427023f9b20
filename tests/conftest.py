"""Settings of all tests: offline, one thread for each numeric library, and the packages in `tests/` importable."""

import os
import sys
from pathlib import Path

# Before torch is imported, and without importing it: most tests of the compiler need no torch at all. With more
# than one thread the tiny models here take twenty times as long on a busy machine.
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["SGD_STORE"] = "off"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

sys.path.insert(0, str(Path(__file__).parent))
