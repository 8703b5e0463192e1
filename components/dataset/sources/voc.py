"""Pascal VOC folders: Annotations/*.xml, JPEGImages/, ImageSets/Main/SPLIT.txt.

VOC counts pixels from 1 and includes both corners, so a box covers xmin - 1 to xmax in this
project's coordinates. An object marked ``difficult`` is neither to be found nor a mistake when it is:
it becomes a crowd box, which COCO's rules treat that way.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from components.dataset.pictures import SUFFIXES, PictureFacts, Size, as_annotated, examine
from components.dataset.sources.files import LEAVES, MAX_COORDINATE, Fence, read_text, unlisted
from components.dataset.sources.names import read_names
from components.dataset.sources.source import Faults, Layout, Source
from yolo_core.data.coco import SPLITS, SourceBox, SourceImage, class_table
from yolo_core.errors import UsageError

_NAME_FILES = ("classes.txt", "labels.txt")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, kw_only=True)
class _Page:
    """One XML file: its image, the size it says, and its objects as (name, xywh, difficult)."""

    image: Path
    size: Size | None
    objects: list[tuple[str, tuple[float, float, float, float], bool]]


def find_voc_root(folder: Path) -> Path | None:
    """Return the folder that holds Annotations/*.xml: this one, or the only one of its children."""
    if _has_annotations(folder):
        return folder
    children = [child for child in sorted(folder.iterdir()) if child.is_dir()]
    fitting = [place for child in children for place in (child, *_folders(child)) if _has_annotations(place)]
    return fitting[0] if len(fitting) == 1 else None


def read_voc(folder: Path) -> Source:
    """Read a VOC folder, or one that holds a single VOC folder such as VOCdevkit/VOC2007.

    Raises:
        UsageError: the folder has no XML annotations.
        DataError: annotations or images are wrong.
    """
    root = find_voc_root(folder)
    if root is None:
        raise UsageError(f"{folder} holds no single Annotations/ folder with .xml files")
    faults = Faults(root=root)
    lists = _read_lists(root, faults)
    stems = sorted({stem for listed in lists.values() for stem in listed})
    pages = {stem: page for stem in stems if (page := _read_page(root, stem, faults)) is not None}
    fence = Fence(root=root)
    for image in [page.image for page in pages.values() if not fence.holds(page.image)]:
        faults.add(image, LEAVES)
    faults.stop_if_any()
    facts = examine([page.image for page in pages.values()], faults.add)
    names = _class_names(root, pages)
    index_of = {name: index for index, name in enumerate(names)}
    fitting = {stem: fit for stem, page in pages.items() if (fit := _fit(root, stem, page, facts, faults))}
    _check_names(root, pages, index_of, faults)
    faults.stop_if_any()
    images = {stem: _image(page, index_of) for stem, page in pages.items()}
    return Source(
        root=root,
        layout="voc",
        classes=class_table(names),
        splits={split: [images[stem] for stem in sorted(listed)] for split, listed in lists.items()},
        facts={pages[stem].image: fit for stem, fit in fitting.items()},
        unlisted=unlisted([page.image for page in pages.values()], root),
    )


def _xml(root: Path, stem: str) -> Path:
    return root / "Annotations" / f"{stem}.xml"


def _has_annotations(folder: Path) -> bool:
    return any((folder / "Annotations").glob("*.xml"))


def _folders(folder: Path) -> list[Path]:
    return [child for child in sorted(folder.iterdir()) if child.is_dir()]


def _read_lists(root: Path, faults: Faults) -> dict[str, list[str]]:
    """Return the stems of each split that ImageSets/Main names; all annotations as train if it names none."""
    folder = root / "ImageSets" / "Main"
    lists: dict[str, list[str]] = {}
    for split in SPLITS:
        path = folder / f"{split}.txt"
        if split == "train" and not path.is_file():
            path = folder / "trainval.txt"
        if not path.is_file():
            continue
        # A line is a stem, maybe followed by a flag.
        stems = [line.split()[0] for line in read_text(path).splitlines() if line.strip()]
        for stem in sorted({stem for stem in stems if stems.count(stem) > 1}):
            faults.add(path, f"lists {stem} twice")
        if stems:
            lists[split] = list(dict.fromkeys(stems))
    if "train" not in lists:
        used = {stem for listed in lists.values() for stem in listed}
        everything = sorted(path.stem for path in (root / "Annotations").glob("*.xml"))
        lists = {"train": [stem for stem in everything if stem not in used]} | lists
    return lists


def _read_page(root: Path, stem: str, faults: Faults) -> _Page | None:
    path = _xml(root, stem)
    if "/" in stem or "\\" in stem or stem in (".", ".."):
        faults.add(path, f"the image name {stem!r} leaves its folder")
        return None
    if not Fence(root=root).holds(path):
        faults.add(path, LEAVES)
        return None
    try:
        tree = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        faults.add(path, "is missing, though ImageSets/Main lists it")
        return None
    except (OSError, ElementTree.ParseError, LookupError, ValueError) as error:
        faults.add(path, f"is not valid XML ({error})")
        return None
    image = _find_image(root, stem)
    if image is None:
        faults.add(path, f"annotates an image that is missing from {root.name}/JPEGImages")
        return None
    objects = [
        (name, box, difficult)
        for number, item in enumerate(tree.iterfind("object"), 1)
        for name, box, difficult in _read_object(item, faults, f"Annotations/{path.name} object {number}")
    ]
    return _Page(image=image, size=_read_size(tree), objects=objects)


def _find_image(root: Path, stem: str) -> Path | None:
    for folder in ("JPEGImages", "images", "Annotations"):
        for suffix in (*SUFFIXES, *(suffix.upper() for suffix in SUFFIXES)):
            path = root / folder / f"{stem}{suffix}"
            if path.is_file():
                return path
    return None


def _read_size(tree: ElementTree.Element) -> Size | None:
    """Return (width, height) as annotated; None where it is not given, which some tools write as 0."""
    try:
        width, height = (int(float(tree.findtext(f"size/{side}", "0"))) for side in ("width", "height"))
    except (ValueError, OverflowError):
        return None
    return (width, height) if width > 0 and height > 0 else None


def _read_object(
    item: ElementTree.Element, faults: Faults, place: str
) -> list[tuple[str, tuple[float, float, float, float], bool]]:
    """Return the object in a list, which is empty if it is broken."""
    name = (item.findtext("name") or "").strip()
    if not name:
        faults.add(place, "has no name")
        return []
    try:
        left, top, right, bottom = (float(item.findtext(f"bndbox/{corner}", "")) for corner in _CORNERS)
    except ValueError:
        faults.add(place, f"{name}: bndbox needs numbers {', '.join(_CORNERS)}")
        return []
    if not all(abs(edge) <= MAX_COORDINATE for edge in (left, top, right, bottom)):
        faults.add(place, f"{name}: a coordinate is not finite, or beyond {MAX_COORDINATE:,.0f}")
        return []
    if right < left or bottom < top:
        faults.add(place, f"{name}: negative size {right - left:g} x {bottom - top:g}")
        return []
    box = (left - 1, top - 1, right - left + 1, bottom - top + 1)
    return [(name, box, (item.findtext("difficult") or "0").strip() == "1")]


def _class_names(root: Path, pages: dict[str, _Page]) -> list[str]:
    """Return the names of a list beside the data, else all names that objects have, sorted."""
    for name in _NAME_FILES:
        if (root / name).is_file():
            return read_names(root / name)
    return sorted({name for page in pages.values() for name, _, _ in page.objects})


def _check_names(root: Path, pages: dict[str, _Page], known: dict[str, int], faults: Faults) -> None:
    for stem, page in pages.items():
        for name in sorted({name for name, _, _ in page.objects if name not in known}):
            faults.add(_xml(root, stem), f"names class {name!r}, which is not listed")
    if not known and not faults.found:
        faults.add(root / "Annotations", "no file has an object")


def _fit(
    root: Path, stem: str, page: _Page, facts: dict[Path, PictureFacts], faults: Faults
) -> PictureFacts | None:
    found = facts.get(page.image)
    if found is None:
        return None
    fitting = as_annotated(found, page.size)
    if fitting is None and page.size is not None:
        said, real = "x".join(map(str, page.size)), "x".join(map(str, found.upright))
        faults.add(_xml(root, stem), f"was made for an image of {said}, but it is {real}")
    return fitting


def _image(page: _Page, index_of: dict[str, int]) -> SourceImage:
    boxes = [
        SourceBox(class_index=index_of[name], box=box, crowd=difficult)
        for name, box, difficult in page.objects
    ]
    return SourceImage(file_name=page.image.name, content=page.image, boxes=boxes)


LAYOUT = Layout(
    name="voc",
    looked_for="Annotations/*.xml (and JPEGImages/)",
    present=lambda root: find_voc_root(root) is not None,
    read=read_voc,
)
