"""Malformed datasets: each is refused with its message, nothing is written, and the source stays as it was.

Every case goes through the command line, so that a traceback would show.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Launch, Write, annotation, picture, voc_object

Makers = dict[str, Write]
Make = Callable[[Makers, Path], Path]

IMAGE = {"id": 7, "file_name": "a.jpg", "width": 40, "height": 30}
INSTANCES = "annotations/instances_train2017.json"
SECRET = "outside.jpg"


def of_coco(**changes: Any) -> Make:
    """A COCO folder with other keys at the top of its file; a value of None takes the key away."""

    def make(makers: Makers, _tmp: Path) -> Path:
        root = makers["coco"]()
        path = root / INSTANCES
        content = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
        return root

    return make


def of_annotation(**changes: Any) -> Make:
    return lambda makers, _tmp: makers["coco"]([annotation(**changes)])


def of_image(**changes: Any) -> Make:
    return of_coco(images=[{**IMAGE, **changes}])


def of_text(kind: str, name: str, content: str | bytes) -> Make:
    """A folder of a layout, one of whose files has another content."""

    def make(makers: Makers, _tmp: Path) -> Path:
        root = makers[kind]()
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return root

    return make


def of_link(kind: str, name: str, target: str) -> Make:
    """A folder of a layout, one of whose files is a link to something outside."""

    def make(makers: Makers, tmp: Path) -> Path:
        root = makers[kind]()
        picture(tmp / SECRET)
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(target.format(tmp=tmp))
        return root

    return make


def of_zip(*entries: tuple[str, int]) -> Make:
    """A zip of entries with a name and a Unix mode each."""

    def make(_makers: Makers, tmp: Path) -> Path:
        path = tmp / "source" / "data.zip"
        path.parent.mkdir()
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data/data.yaml", "names: [cat]")
            for name, mode in entries:
                info = zipfile.ZipInfo(name)
                info.external_attr = mode << 16
                archive.writestr(info, "/etc/passwd")
        return path

    return make


def of_tar(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Make:
    def make(_makers: Makers, tmp: Path) -> Path:
        path = tmp / "source" / "data.tar.gz"
        path.parent.mkdir()
        with tarfile.open(path, "w:gz") as archive:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            content = b"bad" if kind == tarfile.REGTYPE else b""
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        return path

    return make


def of_empty_yolo_split(makers: Makers, _tmp: Path) -> Path:
    root = makers["yolo"](yaml="train: images/train\nval: images/val\nnames: [cat, dog]\n")
    (root / "images" / "val").mkdir()
    return root


def of_strange_file_name(makers: Makers, _tmp: Path) -> Path:
    root = makers["yolo"]()
    image = root / "images" / "train" / "b.png"
    image.rename(image.with_name(os.fsdecode(b"b\xff.png")))
    return root


def of_cut_zip(makers: Makers, tmp: Path) -> Path:
    path = of_zip(("data/a.jpg", 0))(makers, tmp)
    path.write_bytes(path.read_bytes()[:-30])
    return path


DEEP = "[" * 100_000
BOMB = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 20}">' for n in range(9)
)

CASES: dict[str, tuple[Make, str]] = {
    # keys that are missing, values of wrong types
    "no images": (of_coco(images=None), "lacks the list 'images'"),
    "no categories": (of_coco(categories=[]), "has no categories"),
    "no annotations": (of_coco(annotations=None), "lacks the list 'annotations'"),
    "images is an object": (of_coco(images={"1": IMAGE}), "lacks the list 'images'"),
    "an image is a string": (of_coco(images=["a.jpg"]), "'images' must be a list of objects"),
    "no image at all": (of_coco(images=[], annotations=[]), "split 'train' has no images"),
    "an image without a name": (of_image(file_name=None), "image 7: has no file_name"),
    "an image id that is a list": (of_image(id=[7]), "image id [7] is not a whole number"),
    "an image id that is true": (of_image(id=True), "image id True is not a whole number"),
    "a width in words": (of_image(width="40"), "width and height ('40', 30) are not whole numbers"),
    "a category without a name": (of_coco(categories=[{"id": 3}]), "every category needs a whole number"),
    "a name of half a character": (
        of_coco(categories=[{"id": 3, "name": "\ud800"}]),
        r"class name '\ud800' cannot be shown",
    ),
    "an annotation without a box": (of_annotation(bbox=None), "bbox None is not four finite numbers"),
    "a box of strings": (of_annotation(bbox=["1", "2", "3", "4"]), "is not four finite numbers"),
    "a category that is a list": (of_annotation(category_id=[3]), "category [3] is not listed"),
    "an image id of an annotation that is a list": (
        of_annotation(image_id=[7]),
        "names image [7], not listed",
    ),
    "a segmentation that is text": (of_annotation(segmentation="x"), "neither polygons nor a mask"),
    "an iscrowd that is text": (of_annotation(iscrowd="no"), "iscrowd 'no' is neither 0 nor 1"),
    # numbers
    "NaN": (of_annotation(bbox=[1, 2, float("nan"), 4]), "is not four finite numbers"),
    "NaN in a polygon": (of_annotation(segmentation=[[1, 2, 3, float("nan"), 5, 6]]), "finite x, y pairs"),
    "infinity": (of_annotation(bbox=[1, 2, 3, float("inf")]), "is not four finite numbers"),
    "a number beyond all images": (of_annotation(bbox=[1e300, 2, 3, 4]), "is not four finite numbers"),
    "an integer of 400 digits": (of_annotation(bbox=[10**400, 2, 3, 4]), "is not four finite numbers"),
    "an integer of 5000 digits": (
        of_text("coco", INSTANCES, '{"images": [%s]}' % ("9" * 5000)),
        "is not valid JSON (Exceeds the limit",
    ),
    "a negative image id": (of_image(id=-7), "image id -7 is not a whole number from 0 on"),
    "a negative annotation id": (of_annotation(id=-1), "annotation id -1 is not a whole number from 0 on"),
    "an id of 30 digits": (of_image(id=10**30), "is not a whole number from 0 on"),
    "a mask larger than memory": (
        of_annotation(segmentation={"size": [400_000, 400_000], "counts": [160_000_000_000]}),
        "its run-length mask is of size [400000, 400000]",
    ),
    "a YOLO label in pixels": (of_text("yolo", "labels/train/a.txt", "0 20 15 9 9"), "is not a fraction"),
    "a YOLO label of NaN": (of_text("yolo", "labels/train/a.txt", "0 nan .5 .1 .1"), "not finite"),
    "a YOLO class of 1e300": (of_text("yolo", "labels/train/a.txt", "1e300 .5 .5 .1 .1"), "is outside 0..1"),
    "a VOC corner of 1e300": (
        lambda makers, _tmp: makers["voc"](voc_object(box=(1, 1, "1e300", 5))),
        "a coordinate is not finite, or beyond",
    ),
    # the same thing twice
    "an image id twice": (of_coco(images=[IMAGE, {**IMAGE, "file_name": "b.jpg"}]), "image id 7 comes twice"),
    "an annotation id twice": (
        of_coco(annotations=[annotation(), annotation()]),
        "annotation id 1 comes twice",
    ),
    "a category id twice": (
        of_coco(categories=[{"id": 3, "name": "cat"}, {"id": 3, "name": "dog"}]),
        "uses a category id twice",
    ),
    "a class name twice": (
        of_coco(categories=[{"id": 3, "name": "cat"}, {"id": 4, "name": "cat"}]),
        "class names must be given and differ",
    ),
    "a file in a split twice": (of_coco(images=[IMAGE, {**IMAGE, "id": 8}]), "are called 'a.jpg'"),
    # names that lead elsewhere
    "an absolute file name": (of_image(file_name="/etc/passwd.jpg"), "leaves its folder"),
    "a file name that climbs": (of_image(file_name="../../outside.jpg"), "leaves its folder"),
    "a drive in a file name": (of_image(file_name="C:\\a.jpg"), "leaves its folder"),
    "a file name of 5000 letters": (of_image(file_name="a" * 5000 + ".jpg"), "File name too long"),
    "a file name with a zero": (of_image(file_name="a\0.jpg"), "is missing"),
    "a YOLO entry that climbs": (
        of_text("yolo", "data.yaml", "train: ../..\nnames: [cat, dog]"),
        "is outside",
    ),
    "a YOLO list that climbs": (
        lambda makers, tmp: (
            picture(tmp / SECRET),
            of_text("yolo", "train.txt", f"../{SECRET}\n")(makers, tmp),
            of_text("yolo", "data.yaml", "train: train.txt\nnames: [cat, dog]")(makers, tmp),
        )[-1],
        "image '../outside.jpg' is named absolutely or leaves the folder",
    ),
    "a VOC list that climbs": (of_text("voc", "ImageSets/Main/train.txt", "../a\n"), "leaves its folder"),
    # links
    "a COCO image that is a link": (of_link("coco", "train2017/a.jpg", "{tmp}/outside.jpg"), "leads out of"),
    "a YOLO image that is a link": (
        of_link("yolo", "images/train/a.jpg", "{tmp}/outside.jpg"),
        "leads out of",
    ),
    "a YOLO label that is a link": (of_link("yolo", "labels/train/a.txt", "/etc/passwd"), "leads out of"),
    "a VOC annotation that is a link": (of_link("voc", "Annotations/a.xml", "/etc/passwd"), "leads out of"),
    "a link to itself": (of_link("coco", "train2017/a.jpg", "a.jpg"), "file 'a.jpg' is missing"),
    "a link to nothing": (of_link("coco", "train2017/a.jpg", "none.jpg"), "file 'a.jpg' is missing"),
    # archives
    "a zip entry that climbs": (of_zip(("../evil.txt", 0)), "'../evil.txt' leaves the folder"),
    "an absolute zip entry": (of_zip(("/tmp/evil.txt", 0)), "'/tmp/evil.txt' leaves the folder"),
    "a zip entry that is a link": (of_zip(("data/l", stat.S_IFLNK | 0o777)), "'data/l' is a link"),
    "a zip entry twice": (of_zip(("data/a", 0), ("data/a", 0)), "'data/a' comes twice"),
    "a zip entry that is a file and a folder": (of_zip(("d", 0), ("d/e", 0)), "is both a file and a folder"),
    "a zip that is cut off": (of_cut_zip, "is broken"),
    "a tar entry that climbs": (of_tar("data/../../evil.txt"), "leaves the folder"),
    "an absolute tar entry": (of_tar("/tmp/evil.txt"), "leaves the folder"),
    "a tar entry that is a link": (of_tar("data", tarfile.SYMTYPE, "/tmp"), "'data' is a link"),
    "a tar entry that is a hard link": (of_tar("data", tarfile.LNKTYPE, "/etc/passwd"), "'data' is a link"),
    "a tar entry that is a device": (of_tar("data", tarfile.CHRTYPE), "'data' is a device"),
    # text in other encodings, or in none
    "JSON in Latin 1": (of_text("coco", INSTANCES, '{"images": "é"}'.encode("latin-1")), "is not valid JSON"),
    "JSON that nests without end": (of_text("coco", INSTANCES, '{"images": ' + DEEP), "too deeply"),
    "YAML that nests without end": (of_text("yolo", "data.yaml", "names: " + DEEP[:5000]), "too deeply"),
    "YAML in Latin 1": (of_text("yolo", "data.yaml", "names: [é]".encode("latin-1")), "is not valid YAML"),
    "YAML with an object": (
        of_text("yolo", "data.yaml", "names: !!python/object:os.system x"),
        "not valid YAML",
    ),
    "names in Latin 1": (
        lambda makers, tmp: (
            (of_text("yolo", "classes.txt", "é\n".encode("latin-1"))(makers, tmp) / "data.yaml").unlink(),
            tmp / "yolo",
        )[-1],
        "classes.txt is not in UTF-8",
    ),
    "labels in UTF-16": (
        of_text("yolo", "labels/train/a.txt", "0 1".encode("utf-16")),
        "is not readable text",
    ),
    "XML in an unknown encoding": (
        of_text("voc", "Annotations/a.xml", '<?xml version="1.0" encoding="klingon"?><a/>'),
        "is not valid XML",
    ),
    "XML that unfolds without end": (
        of_text("voc", "Annotations/a.xml", f"{BOMB}]><annotation>&j;</annotation>"),
        "is not valid XML",
    ),
    "a VOC list in Latin 1": (
        of_text("voc", "ImageSets/Main/train.txt", "é".encode("latin-1")),
        "train.txt is not in UTF-8",
    ),
    "a file name in Latin 1": (of_strange_file_name, r"the file name 'b\udcff.png' is not in UTF-8"),
    # splits and files that do not fit together
    "an empty split": (of_empty_yolo_split, "split 'val' has no images"),
    "an image that is missing": (of_image(file_name="none.jpg"), "file 'none.jpg' is missing"),
    "a label of a missing image": (
        of_text("yolo", "labels/train/z.txt", "0 .5 .5 .1 .1"),
        "labels an image that is missing",
    ),
    "an annotation of a missing image": (
        of_text("voc", "Annotations/z.xml", "<annotation/>"),
        "annotates an image that is missing",
    ),
    "an annotation of an image that is not listed": (of_annotation(image_id=8), "names image 8, not listed"),
    "an image that is empty": (of_text("coco", "train2017/a.jpg", b""), "does not decode as an image"),
    "an image that is text": (of_text("coco", "train2017/a.jpg", "hello"), "does not decode as an image"),
    "an image of another size": (of_image(width=400), "annotated as 400x30, but it is 40x30"),
    "nc that is not the names' number": (
        of_text("yolo", "data.yaml", "names: [a, b]\nnc: many"),
        "nc is many, but 2 names are listed",
    ),
}


def digest_of(root: Path) -> str:
    """Digest a tree: names, kinds, links' targets and contents."""
    digest = hashlib.sha256()
    for path in sorted([root, *root.rglob("*")]):
        digest.update(os.fsencode(path) + str(stat.S_IFMT(path.lstat().st_mode)).encode())
        if path.is_symlink():
            digest.update(os.fsencode(path.readlink()))
        elif path.is_file():
            digest.update(path.read_bytes())
    return digest.hexdigest()


@pytest.fixture
def source_makers(coco: Write, yolo: Write, voc: Write) -> Makers:
    return {"coco": coco, "yolo": yolo, "voc": voc}


@pytest.fixture
def convert(launch: Launch, workspace: Path, tmp_path: Path) -> Callable[..., Any]:
    """Run the stage on a source."""

    def run(source: Path) -> Any:
        line = ("dataset", "--params", workspace / "params.yaml", "--workspace", workspace)
        values = {
            "source": source,
            "test_fraction": 0,
            "val_fraction": 0,
            "downloads": tmp_path / "downloads",
        }
        return launch(*line, *[f"--set=dataset.{key}={value}" for key, value in values.items()])

    return run


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 30


@pytest.mark.parametrize("case", CASES)
def test_malformed(
    case: str, source_makers: Makers, workspace: Path, tmp_path: Path, convert: Callable[..., Any]
) -> None:
    make, message = CASES[case]
    source = make(source_makers, tmp_path)
    kept = source if source.is_dir() else source.parent
    before, around = digest_of(kept), set(tmp_path.iterdir()) | {workspace / "data"}
    done = convert(source)
    assert done.code in (1, 2), done.out
    assert message in done.complaint
    assert digest_of(kept) == before
    assert not any((workspace / "data").iterdir())
    fresh = set(tmp_path.iterdir()) - around
    assert {path.name for path in fresh} <= {"downloads", "mlartifacts"}
    assert not [path for path in (tmp_path / "downloads").rglob("*") if path.is_file()]
    assert not Path("/tmp/evil.txt").exists()


def test_images_that_nobody_lists_are_told(
    coco: Write, yolo: Write, voc: Write, convert: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    root = coco()
    picture(root / "train2017" / "z.jpg", seed=9)
    assert convert(root).code == 0
    assert "1 image files are not listed and left out: train2017/z.jpg" in caplog.text
    root = voc()
    picture(root / "JPEGImages" / "z.jpg", seed=9)
    assert convert(root).code == 0 and "left out: JPEGImages/z.jpg" in caplog.text
    root = yolo()
    (root / "train.txt").write_text("images/train/a.jpg\n")
    (root / "data.yaml").write_text("train: train.txt\nnames: [cat, dog]")
    assert convert(root).code == 0 and "left out: images/train/b.png" in caplog.text


def test_images_in_two_splits_are_told(
    yolo: Write, convert: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """COCO128 is so on purpose, so the dataset is made; the validation blocks it unless it is told not to."""
    root = yolo(yaml="train: images/train\nval: images/train\nnames: [cat, dog]\n")
    assert convert(root).code == 0
    assert "2 images are in train and val at once" in caplog.text


def test_links_inside_the_folder_are_followed(coco: Write, convert: Callable[..., Any]) -> None:
    root = coco()
    (root / "train2017" / "a.jpg").rename(root / "real.jpg")
    (root / "train2017" / "a.jpg").symlink_to("../real.jpg")
    assert convert(root).code == 0
    # The folder itself may be reached by a link.
    link = root.with_name("link")
    link.symlink_to(root)
    assert convert(link).code == 0
