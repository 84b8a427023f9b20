"""A real browser for the tests of pages: Debian's chromium, driven by Selenium, without any network."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --mute-audio"
)
MISSING = "no browser: install chromium and chromium-driver"


class Page:
    """A browser window."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, file: Path, width: int = 1280, dark: bool = False) -> None:
        """Open a page, with a window of this width and the reader's wish for dark colours."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        wish = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wish})
        self.driver.get_log("performance")
        self.driver.get_log("browser")
        self.driver.get(file.resolve().as_uri())

    def run(self, script: str) -> Any:
        """The value of a script in the page."""
        return self.driver.execute_script(script)

    def wait(self, script: str, seconds: float = 8) -> Any:
        """The value of a script, once it is true."""
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, seconds).until(lambda _: self.run(script))

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def press(self, *keys: str) -> None:
        """Press keys, as `TAB` or `ENTER`, or letters."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        chain = ActionChains(self.driver)
        for key in keys:
            chain.send_keys(getattr(Keys, key, key))
        chain.perform()

    def messages(self) -> list[str]:
        """Everything on the console since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """The addresses of all requests since the page was opened, the page itself too; not `data:`.

        The browser's first tab loads pages of its own (`chrome:`), perhaps later. Their requests are left out.
        """
        found = []
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                asked = message["params"]
                if not asked["documentURL"].startswith("chrome:"):
                    found.append(asked["request"]["url"])
        return [url for url in found if not url.startswith("data:")]


@contextmanager
def browser() -> Iterator[Page]:
    """A browser with an empty profile."""
    from selenium import webdriver

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM or ""
        for flag in FLAGS.split():
            options.add_argument(flag)
        options.add_argument(f"--user-data-dir={profile}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        try:
            yield Page(driver)
        finally:
            driver.quit()
