"""What registration leaves is what the gates need: a real version is judged, promoted and followed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from components.store import TrackingConfig, connect
from tests.components.register.workspace import IMAGES, NAME, Registered

# The reports of the fixture are short: twelve images, and an export report without verdicts.
_SMALL = (
    "promote.min_images=10",
    "promote.min_instances=0",
    "promote.first_rules.parity=off",
    "promote.rules.parity=off",
    "promote.rules.class_drop=warn",
)


def test_a_version_is_judged_by_what_it_carries(registered: Registered, launch: Any, tmp_path: Path) -> None:
    root = tmp_path / "workspace"
    shutil.copytree(registered.root, root)
    words = ["--model", NAME, "--workspace", str(root), "--approve-by", "ada", "--json"]
    words += [word for assignment in _SMALL for word in ("--set", assignment)]
    done = launch("promote", *words)
    assert done.code == 0, done.err
    rules = {row["rule"]: row for row in done.result["rules"]}
    assert {row["verdict"] for row in rules.values()} == {"PASS"}
    assert rules["data"]["text"].startswith(f"{IMAGES} images of test")
    assert done.result["promoted"]

    client = connect(TrackingConfig(uri=f"sqlite:///{root}/mlflow.db", experiment="x"), root)
    second = Registered(root, {}, client).register("second")["version"]
    done = launch("promote", *words)
    assert done.code == 0, done.err
    rules = {row["rule"]: row for row in done.result["rules"]}
    assert rules["ap"]["text"].startswith("AP +0.00 points to the champion's, 95% interval +0.00 to +0.00")
    assert rules["size_drop"]["verdict"] == "PASS"
    assert [row["difference"] for row in done.result["classes"]] == [0.0] * len(done.result["classes"])
    history = launch("history", "--model", NAME, "--workspace", str(root), "--json").result
    assert [entry["after"] for entry in history["entries"]] == ["1", second]
    assert history["entries"][1]["model_digest"].startswith("sha256:")


def test_a_champion_of_other_data_is_measured_on_the_challengers(
    registered: Registered, launch: Any, tmp_path: Path
) -> None:
    """The champion's evidence says another dataset: its checkpoint is evaluated on the one here."""
    root = tmp_path / "workspace"
    shutil.copytree(registered.root, root)
    client = connect(TrackingConfig(uri=f"sqlite:///{root}/mlflow.db", experiment="x"), root)
    other = tmp_path / "other"
    shutil.copytree(client.get_model_version_download_uri(NAME, "1").removeprefix("file://"), other)
    facts = other / "artifacts/evidence/evidence.json"
    facts.write_text(facts.read_text().replace('"dataset_digest": "sha256:', '"dataset_digest": "sha256:0'))
    run = client.get_model_version(NAME, "1").run_id
    version = client.create_model_version(NAME, other.as_uri(), run_id=run).version
    client.set_registered_model_alias(NAME, "champion", str(version))
    words = [word for assignment in _SMALL for word in ("--set", assignment)]
    done = launch(
        "promote", "--model", NAME, "--workspace", root, "--version", "1", "--dry-run", "--json", *words
    )
    assert done.code == 0, done.err
    assert done.result["measured_on"]["champion"] == "measured again on the challenger's images"
    rules = {row["rule"]: row for row in done.result["rules"]}
    # The fixture's evidence does not say how it was evaluated, so suppression may differ a little.
    assert abs(rules["ap"]["figures"][0]["difference"]) < 0.01, rules["ap"]["text"]
    (root / "data/dataset").rename(root / "data/elsewhere")
    done = launch(
        "promote", "--model", NAME, "--workspace", root, "--version", "1", "--dry-run", "--json", *words
    )
    assert (done.code, done.result["verdict"]) == (1, "INSUFFICIENT")
    assert "there is no dataset at" in done.complaint
