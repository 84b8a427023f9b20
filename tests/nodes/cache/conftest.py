"""The oracles beside these tests, and the tiny models of the families, are importable."""

import sys
from pathlib import Path

for folder in (Path(__file__).parent, Path(__file__).parents[1] / "families"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
