"""Take the pictures of the documentation from the running user interfaces, with Debian's Chromium.

    make demo, make ui, make airflow, then: python scripts/screenshots.py

Needs the Debian packages chromium and chromium-driver. A page that does not show what it should ends the
script with an error: no picture of an empty page is kept.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import requests
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.ui import WebDriverWait

REPO = Path(__file__).resolve().parents[1]
PATIENCE = 60
"""Seconds until a page must show what it is waited for."""
CALM = 3
"""Seconds that charts and images get after that."""
EXPANDER = "[data-component-id*=runnamecellrenderer]"
"""Button of MLflow's table of runs that shows a run's children."""


def browser() -> webdriver.Chrome:
    """Return a headless Chromium with a window as wide as the documentation's pictures."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))


def shoot(driver: webdriver.Chrome, url: str, text: str, target: Path) -> None:
    """Open a page, wait until it shows ``text``, and save the window as PNG."""
    driver.get(url)
    _wait_for(driver, text)
    _save(driver, target)


def _save(driver: webdriver.Chrome, target: Path) -> None:
    time.sleep(CALM)
    target.parent.mkdir(parents=True, exist_ok=True)
    driver.save_screenshot(str(target))


def _wait_for(driver: webdriver.Chrome, text: str) -> None:
    there = expected_conditions.presence_of_element_located((By.XPATH, f"//*[contains(text(), '{text}')]"))
    WebDriverWait(driver, PATIENCE).until(there, f"{driver.current_url} does not show {text!r}")


def mlflow_pages(driver: webdriver.Chrome, url: str, folder: Path) -> None:
    """Picture the runs, the curves of the latest training, and the registered model."""
    version = _rest(url, "model-versions/search?max_results=1")["model_versions"][0]
    child = _rest(url, f"runs/get?run_id={version['run_id']}")["run"]["info"]
    search = {"experiment_ids": [child["experiment_id"]], "filter": "tags.`mlflow.runName` LIKE 'train %'"}
    train = _rest(url, "runs/search", search)["runs"][0]
    tags = {tag["key"]: tag["value"] for tag in train["data"]["tags"]}
    parent = _rest(url, f"runs/get?run_id={tags['mlflow.parentRunId']}")["run"]["info"]
    runs = f"{url}/#/experiments/{child['experiment_id']}"
    driver.get(f"{runs}/runs")
    _wait_for(driver, parent["run_name"])
    _click(driver, "[aria-label=Close]")  # the assistant, open at first
    _click(driver, EXPANDER)
    _wait_for(driver, train["info"]["run_name"])
    _save(driver, folder / "mlflow-runs.png")
    shoot(
        driver, f"{runs}/runs/{train['info']['run_id']}/model-metrics", "map50", folder / "mlflow-curves.png"
    )
    shoot(driver, f"{url}/#/models/{version['name']}", "Version", folder / "mlflow-model.png")


def _rest(url: str, call: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask MLflow's REST interface: a POST if there is a body."""
    answer = requests.request(
        "POST" if body else "GET", f"{url}/api/2.0/mlflow/{call}", json=body, timeout=PATIENCE
    )
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def airflow_pages(driver: webdriver.Chrome, url: str, home: Path, folder: Path) -> None:
    """Log in with the generated password and picture the DAG and its trigger form."""
    user, password = next(iter(json.loads((home / "passwords.json").read_text(encoding="utf-8")).items()))
    driver.get(f"{url}/auth/login")
    WebDriverWait(driver, PATIENCE).until(
        expected_conditions.presence_of_element_located((By.NAME, "username"))
    ).send_keys(user)
    driver.find_element(By.NAME, "password").send_keys(password)
    _click(driver, "button[type=submit]")
    _wait_for(driver, "Dags")
    driver.get(f"{url}/dags/retrain")
    _click(driver, "[aria-label^='Show Graph']")
    _wait_for(driver, "register")
    _save(driver, folder / "airflow-graph.png")
    _click(driver, "[aria-label='Trigger Dag']")
    _wait_for(driver, "Model variants")
    driver.set_window_size(1280, 1250)  # the form is longer than a page
    _save(driver, folder / "airflow-form.png")


def _click(driver: webdriver.Chrome, selector: str) -> None:
    there = expected_conditions.element_to_be_clickable((By.CSS_SELECTOR, selector))
    WebDriverWait(driver, PATIENCE).until(there, f"{driver.current_url} has no {selector}").click()


def main() -> None:
    """Take every picture whose server the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mlflow", default="http://127.0.0.1:5000")
    parser.add_argument("--airflow", default="http://127.0.0.1:8080")
    parser.add_argument("--airflow-home", type=Path, default=REPO / "airflow")
    parser.add_argument("--output", type=Path, default=REPO / "docs" / "images")
    arguments = parser.parse_args()
    driver = browser()
    try:
        mlflow_pages(driver, arguments.mlflow, arguments.output)
        airflow_pages(driver, arguments.airflow, arguments.airflow_home, arguments.output)
    finally:
        driver.quit()


if __name__ == "__main__":
    main()
