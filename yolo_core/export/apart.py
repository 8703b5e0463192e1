"""``python -m yolo_core.export.apart FOLDER``: what `yolo_core.export.isolation` starts; not for people.

Reads the request in the folder, calls the function that it names, and writes the answer beside it: what the
function returned, or the `YoloError` that it raised. Anything else ends the process with a traceback.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from yolo_core.errors import YoloError
from yolo_core.export.isolation import ANSWER, REQUEST, end_with_parent


def main(folder: Path) -> None:
    """Answer the request in a folder."""
    end_with_parent()
    asked = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    module, name = asked["call"].split(":")
    answer: dict[str, Any]
    try:
        answer = {"result": getattr(import_module(module), name)(asked["request"])}
    except YoloError as error:
        answer = {"error": [type(error).__name__, str(error)]}
    scratch = folder / f".{ANSWER}"
    scratch.write_text(json.dumps(answer), encoding="utf-8")
    scratch.rename(folder / ANSWER)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # all is written; some toolkits take seconds, or crash, while they clean up
