"""A real browser for the pages that the project writes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from selenium import webdriver


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """Open headless Chromium that can resolve no host and keeps a log of what pages ask for."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs chromium and its driver: scripts/debian_packages.sh installs them")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    offline = "--host-resolver-rules=MAP * ~NOTFOUND"
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", offline):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield window
    window.quit()


def asked_for(browser: webdriver.Chrome) -> list[str]:
    """What pages asked for since the last call: the page itself and all it is made of."""
    found = []
    for entry in browser.get_log("performance"):
        message: dict[str, Any] = json.loads(entry["message"])["message"]
        if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated"):
            found.append(message["params"].get("request", message["params"])["url"])
    return found
