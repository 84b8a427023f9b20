"""The tests of the language, the compiler and the executor may `import toys`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
