"""Takes the picture of a report: `python docs/images/take_picture.py report.html report.png [HEIGHT [TOP]]`.

Needs chromium and chromium-driver of Debian, and selenium (`pip install -e ".[test]"`).
"""

from __future__ import annotations

import base64
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from helpers.browser import browser

WIDTH = 1280


def main(page: str, picture: str, height: str = "1720", top: str = "0") -> None:
    """Write the part of a page from `top` on as PNG, in light colours."""
    with browser() as window:
        window.open(Path(page), WIDTH)
        time.sleep(2)  # a short clip plays, so that its controls are hidden
        part = {"x": 0, "y": int(top), "width": WIDTH, "height": int(height), "scale": 1}
        shot = window.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": part})
        Path(picture).write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
