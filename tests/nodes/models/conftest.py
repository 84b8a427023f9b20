"""What these tests share, the tiny models of all families, and the pairs with diffusers' pipelines are importable."""

import sys
from pathlib import Path

for folder in ("cache", "families", "models"):
    path = str(Path(__file__).parents[1] / folder)
    if path not in sys.path:
        sys.path.insert(0, path)
