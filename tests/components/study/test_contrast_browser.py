"""The page of a comparison in a real browser: offline, sorted by mouse and keys, dark and narrow."""

from __future__ import annotations

from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from components.study.compare.contrast import contrast
from components.study.compare.page import contrast_page
from tests.components.browsing import asked_for
from yolo_core.metrics.bootstrap import BootstrapSettings

from .contest import contestant, draw_dataset


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three models over thirty classes."""
    root = tmp_path_factory.mktemp("page")
    data = draw_dataset(root / "data", names=[f"class{number:02d}" for number in range(30)])
    models = [contestant(data, f"model-{error}", error) for error in (0.08, 0.02, 0.2)]
    path = root / "comparison.html"
    path.write_text(contrast_page(contrast(models, BootstrapSettings(resamples=50)), "Three models"))
    return path.as_uri()


def show(browser: webdriver.Chrome, page: str, width: int, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page)


def column(browser: webdriver.Chrome, number: int) -> list[str]:
    cells = browser.find_elements(By.CSS_SELECTOR, f"table tbody tr td:nth-child({number})")
    return [cell.text for cell in cells[:3]]


def test_it_asks_for_nothing_and_complains_of_nothing(browser: webdriver.Chrome, page: str) -> None:
    asked_for(browser)
    browser.get_log("browser")
    show(browser, page, 1280, "light")
    assert asked_for(browser) == [page]
    assert browser.get_log("browser") == []
    assert "://" not in Path(page.removeprefix("file://")).read_text().replace(page, "")


def test_a_click_and_the_enter_key_sort(browser: webdriver.Chrome, page: str) -> None:
    show(browser, page, 1280, "light")
    assert column(browser, 1) == ["model-0.08", "model-0.02", "model-0.2"]
    head = browser.find_elements(By.CSS_SELECTOR, "table th")[1]
    head.find_element(By.TAG_NAME, "button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column(browser, 1) == ["model-0.02", "model-0.08", "model-0.2"]
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert head.get_attribute("aria-sort") == "ascending"
    assert column(browser, 1) == ["model-0.2", "model-0.08", "model-0.02"]
    browser.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text.startswith("AP50")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_plots_and_text_stand_out_from_the_paper(browser: webdriver.Chrome, page: str, scheme: str) -> None:
    show(browser, page, 1280, scheme)
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, paper.removeprefix("rgb(").rstrip(")").split(","))) / 3
    assert (light > 200) == (scheme == "light")
    inks = browser.execute_script(
        "return [...document.querySelectorAll('svg text, td, th, li')].map(e => e.closest('svg')"
        " ? getComputedStyle(e).fill : getComputedStyle(e).color)"
    )
    assert len(inks) > 100
    for ink in set(inks):
        shade = sum(map(int, ink.removeprefix("rgb(").rstrip(")").split(","))) / 3
        assert abs(shade - light) > 80, (ink, paper)


def test_a_narrow_window_scrolls_plots_and_tables_not_the_page(browser: webdriver.Chrome, page: str) -> None:
    show(browser, page, 390, "light")
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    wide = browser.find_elements(By.CSS_SELECTOR, ".wide")
    assert any(each.get_property("scrollWidth") > 390 for each in wide)
    assert all(each.get_attribute("tabindex") == "0" for each in wide)  # so that keys can scroll them
