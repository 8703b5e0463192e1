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
    driver.get(f"{url}/#/models/{version['name']}")
    _wait_for(driver, "Versions")
    _press(driver, "Tags")  # the record of promotions, which hides the versions
    _save(driver, folder / "mlflow-model.png")
    trainings = _rest(url, "runs/search", search)["runs"][:2]
    compare_page(driver, url, [run["info"] for run in trainings], folder / "mlflow-compare.png")


def compare_page(driver: webdriver.Chrome, url: str, runs: list[dict[str, Any]], target: Path) -> None:
    """Picture MLflow's own comparison of runs of one experiment, each given by its ``info``."""
    chosen = json.dumps([run["run_id"] for run in runs])
    driver.get(f"{url}/#/compare-runs?runs={chosen}&experiments={json.dumps([runs[0]['experiment_id']])}")
    _wait_for(driver, f"Comparing {len(runs)} Runs")
    for run in runs:
        _wait_for(driver, run["run_name"])
    _close_assistant(driver)
    _press(driver, "Visualizations")
    for switch in driver.find_elements(By.CSS_SELECTOR, "[role=switch]"):  # show what differs only
        if switch.is_displayed() and switch.get_attribute("aria-checked") == "false":
            switch.click()
    top = driver.find_element(By.XPATH, "//*[text()='Run details']")
    driver.execute_script("arguments[0].scrollIntoView()", top)
    _save(driver, target)


def study_page(driver: webdriver.Chrome, url: str, folder: Path) -> None:
    """Picture the curves of two studies over image size, as MLflow draws them; needs two studies."""
    experiment = _rest(url, "experiments/get-by-name?experiment_name=yolo-mlops")["experiment"][
        "experiment_id"
    ]
    studies = latest_runs(url, experiment, "study ", 2)
    if len(studies) < 2:
        raise SystemExit("error: MLflow holds no studies of two models; python -m components study-all A B")
    study_curves(driver, url, studies, "map", folder / "mlflow-study.png")


def study_curves(
    driver: webdriver.Chrome, url: str, runs: list[dict[str, Any]], metric: str, target: Path
) -> None:
    """Open MLflow's own comparison of runs, then a metric's curves in it over the step, and picture those.

    Args:
        driver: the browser.
        url: of MLflow.
        runs: the ``info`` of each run, of one experiment.
        metric: such as map: a study logs it with the image size as step.
        target: PNG.
    """
    chosen = json.dumps([run["run_id"] for run in runs])
    query = f"runs={chosen}&experiments={json.dumps([runs[0]['experiment_id']])}"
    driver.get(f"{url}/#/compare-runs?{query}")
    _wait_for(driver, f"Comparing {len(runs)} Runs")
    for run in runs:
        _wait_for(driver, run["run_name"])
    driver.get(f'{url}/#/metric?{query}&metric="{metric}"&plot_metric_keys=["{metric}"]&x_axis=step')
    for run in runs:
        _wait_for(driver, f"{run['run_name']} ({metric})")  # the legend of a curve
    _close_assistant(driver)
    _save(driver, target)


def latest_runs(url: str, experiment: str, name: str, count: int) -> list[dict[str, Any]]:
    """Return the ``info`` of the latest runs with different names that begin with ``name``, by name."""
    search = {"experiment_ids": [experiment], "filter": f"tags.`mlflow.runName` LIKE '{name}%'"}
    found: dict[str, dict[str, Any]] = {}
    for run in _rest(url, "runs/search", search).get("runs", []):
        found.setdefault(run["info"]["run_name"], run["info"])
    return [found[key] for key in sorted(found)][:count]


def comparison_page(driver: webdriver.Chrome, page: Path, folder: Path) -> None:
    """Picture a page that ``compare-models`` wrote, bright and dark."""
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        target = folder / ("comparison.png" if scheme == "light" else "comparison-dark.png")
        shoot(driver, page.resolve().as_uri(), "How sure each AP is", target)


def _press(driver: webdriver.Chrome, text: str) -> None:
    """Click on the first thing with this very text, such as the heading that folds a section."""
    there = expected_conditions.element_to_be_clickable((By.XPATH, f"//*[text()='{text}']"))
    WebDriverWait(driver, PATIENCE).until(there, f"{driver.current_url} has no {text!r}").click()


def _close_assistant(driver: webdriver.Chrome) -> None:
    for button in driver.find_elements(By.CSS_SELECTOR, "[aria-label=Close]"):
        if button.is_displayed():
            button.click()


def _rest(url: str, call: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Ask MLflow's REST interface: a POST if there is a body."""
    answer = requests.request(
        "POST" if body else "GET", f"{url}/api/2.0/mlflow/{call}", json=body, timeout=PATIENCE
    )
    answer.raise_for_status()
    found: dict[str, Any] = answer.json()
    return found


def airflow_pages(driver: webdriver.Chrome, url: str, home: Path, folder: Path) -> None:
    """Log in with the generated password and picture the DAG, its form, and a promotion that waits."""
    user, password = next(iter(json.loads((home / "passwords.json").read_text(encoding="utf-8")).items()))
    run, question = _airflow_places(url, user, password)
    driver.get(f"{url}/auth/login")
    WebDriverWait(driver, PATIENCE).until(
        expected_conditions.presence_of_element_located((By.NAME, "username"))
    ).send_keys(user)
    driver.find_element(By.NAME, "password").send_keys(password)
    _click(driver, "button[type=submit]")
    _wait_for(driver, "Dags")
    driver.get(f"{url}{run}")
    _click(driver, "[aria-label^='Show Graph']")
    _wait_for(driver, "register")
    _click(driver, "[aria-label='Collapse Details Panel']")
    driver.set_window_size(1600, 620)  # the graph is wide
    _click(driver, ".react-flow__controls-fitview")
    _save(driver, folder / "airflow-graph.png")
    driver.set_window_size(1280, 1400)  # form and question are longer than a page
    driver.get(f"{url}/dags/retrain")
    _click(driver, "[aria-label='Trigger Dag']")
    _wait_for(driver, "Model variants")
    _save(driver, folder / "airflow-form.png")
    shoot(driver, f"{url}{question}", "Approve", folder / "airflow-approval.png")


def _airflow_places(url: str, user: str, password: str) -> tuple[str, str]:
    """Return the pages of the last run of retrain and of a promotion that waits; ends if none does."""
    login = {"username": user, "password": password}
    token = requests.post(f"{url}/auth/token", json=login, timeout=PATIENCE).json()["access_token"]

    def ask(path: str) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {token}"}
        found: dict[str, Any] = requests.get(
            f"{url}/api/v2/dags/{path}", headers=headers, timeout=PATIENCE
        ).json()
        return found

    runs = ask("retrain/dagRuns?limit=1&order_by=-run_after")["dag_runs"]
    waiting = ask("promote/dagRuns/~/hitlDetails?response_received=false")["hitl_details"]
    if not runs or not waiting:
        raise SystemExit("error: trigger retrain with Promotion: ask, and wait for the question of promote")
    task = waiting[0]["task_instance"]
    place = f"/dags/promote/runs/{task['dag_run_id']}/tasks/{task['task_id']}"
    question = f"{place}/mapped/{task['map_index']}/required_actions"
    return f"/dags/retrain/runs/{runs[0]['dag_run_id']}", question


def _click(driver: webdriver.Chrome, selector: str) -> None:
    there = expected_conditions.element_to_be_clickable((By.CSS_SELECTOR, selector))
    WebDriverWait(driver, PATIENCE).until(there, f"{driver.current_url} has no {selector}").click()


def main() -> None:
    """Take every picture whose server the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mlflow", default="http://127.0.0.1:5000")
    parser.add_argument("--airflow", default="http://127.0.0.1:8080")
    parser.add_argument("--airflow-home", type=Path, default=REPO / "airflow")
    parser.add_argument("--comparison", type=Path, help="page of compare-models; only this is pictured")
    parser.add_argument("--only-study", action="store_true", help="only picture the curves of two studies")
    parser.add_argument("--output", type=Path, default=REPO / "docs" / "images")
    arguments = parser.parse_args()
    driver = browser()
    try:
        if arguments.comparison:
            comparison_page(driver, arguments.comparison, arguments.output)
            return
        if arguments.only_study:
            study_page(driver, arguments.mlflow, arguments.output)
            return
        mlflow_pages(driver, arguments.mlflow, arguments.output)
        airflow_pages(driver, arguments.airflow, arguments.airflow_home, arguments.output)
    finally:
        driver.quit()


if __name__ == "__main__":
    main()
