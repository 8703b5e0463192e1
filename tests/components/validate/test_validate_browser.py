"""The pages in a real browser without a network: they ask for nothing and still show what they should."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from selenium import webdriver

from tests.components.browsing import asked_for

from .conftest import Bench


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, clean_dataset: Path) -> Path:
    """The reports of a dataset with a fault."""
    root = tmp_path_factory.mktemp("pages")
    shutil.copytree(clean_dataset, root / "data" / "dataset")
    bench = Bench(root)
    bench.edit(lambda content: content["annotations"][0].update(bbox=[-9, 4, 20, 20]))
    bench.validate()
    return root / "reports" / "validation"


def test_a_page_that_asks_for_something_would_be_found(browser: webdriver.Chrome, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        '<img src="http://example.com/a.png"><script src="https://cdn.example.com/a.js"></script>'
    )
    browser.get(page.as_uri())
    assert {url for url in asked_for(browser) if url.startswith("http")} == {
        "http://example.com/a.png",
        "https://cdn.example.com/a.js",
    }


def test_no_page_asks_for_anything(browser: webdriver.Chrome, pages: Path) -> None:
    asked_for(browser)
    browser.get_log("browser")
    opened = sorted(pages.rglob("*.html"))
    assert len(opened) == 10  # the summary, and nine of the Data Docs
    for page in opened:
        browser.get(page.as_uri())
        asked = [url for url in asked_for(browser) if not url.startswith("data:")]
        assert asked == [page.as_uri()], page
    assert browser.get_log("browser") == []  # nor does one complain, of a picture for one


def test_the_summary_shows_its_pictures(browser: webdriver.Chrome, pages: Path) -> None:
    browser.get((pages / "summary.html").as_uri())
    sizes = browser.execute_script("return [...document.images].map(image => image.naturalWidth)")
    assert len(sizes) == 4 and min(sizes) >= 300  # offenders, classes, sizes, centres
    text = browser.execute_script("return document.body.innerText")
    assert "Not fit for training" in text
    assert "box_inside\tblock\tthe box is inside its image\t1 (annotations 1)" in text
    wide = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0  # nothing hangs over the side


def test_data_docs_can_be_walked(browser: webdriver.Chrome, pages: Path) -> None:
    browser.get((pages / "summary.html").as_uri())
    browser.execute_script("document.querySelector('a[href^=data_docs]').click()")
    seen = {browser.current_url}
    links = browser.execute_script("return [...document.querySelectorAll('a[href]')].map(a => a.href)")
    for link in [link for link in links if link.startswith("file:")]:
        browser.get(link)
        seen.add(browser.current_url.split("#")[0])
        assert browser.execute_script("return document.body.innerText.length") > 100, link
    assert len(seen) == 10  # the index, the summary, and results and expectations of four tables
