"""Images of a dataset folder that are set aside, without touching the folder.

``NAME.quarantine.json`` beside the folder NAME lists them with the reasons and the digest of the version
that they belong to. Whoever reads the samples of that version does not get them. A list of another
version says nothing: what it complains of may be gone.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from yolo_core.errors import DataError


def quarantine_file(root: Path) -> Path:
    """Return where the list of a dataset folder is, if there is one."""
    folder = root.absolute()
    return folder.with_name(f"{folder.name}.quarantine.json")


def write_quarantine(root: Path, digest: str, reasons: Mapping[str, Sequence[str]]) -> Path:
    """Write the list, also an empty one.

    Args:
        root: the dataset folder.
        digest: of its version.
        reasons: path of an image relative to the folder -> the rules that it breaks.
    """
    images = [{"path": path, "rules": list(rules)} for path, rules in sorted(reasons.items())]
    content = {"dataset_digest": digest, "images": images}
    path = quarantine_file(root)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def without(coco: Mapping[str, Any], excluded: Collection[str]) -> dict[str, Any]:
    """Return a COCO JSON without the excluded images (paths in the folder) and their annotations."""
    if not excluded:
        return dict(coco)
    kept, gone = [], set()
    for image in coco["images"]:
        if f"images/{image.get('file_name')}" in excluded:
            gone.add(image.get("id"))
        else:
            kept.append(image)
    annotations = [item for item in coco["annotations"] if item.get("image_id") not in gone]
    return {**coco, "images": kept, "annotations": annotations}


def read_quarantine(root: Path, digest: str) -> dict[str, tuple[str, ...]]:
    """Return the images of the version ``digest`` that are set aside, with the rules that they break.

    Raises:
        DataError: the list is there but cannot be read.
    """
    path = quarantine_file(root)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["dataset_digest"] != digest:
            return {}
        return {str(image["path"]): tuple(map(str, image["rules"])) for image in content["images"]}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}); run the validate stage again"
        ) from None
