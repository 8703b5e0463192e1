"""Files and labels that nobody wishes for: read as `yolo_core.data.images` says, or refused by name."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from yolo_core.data.augment import NO_AUGMENTATION, Augmentation
from yolo_core.data.cache import CacheSettings, build_cache
from yolo_core.data.coco import DetectionDataset, SourceBox, SourceImage, class_table, write_dataset
from yolo_core.data.eval_loader import EvalLoader, EvalLoaderSettings
from yolo_core.data.images import decode_image, probe_orientation, probe_size
from yolo_core.data.loader import TrainLoader, TrainLoaderSettings
from yolo_core.errors import DataError

SIZE = 128
WIDTH, HEIGHT = 96, 64
BOX = (30, 20, 40, 24)  # xywh, bright on black
PLAIN = TrainLoaderSettings(image_size=SIZE, batch_size=4, augmentation=NO_AUGMENTATION)
STRONG = Augmentation(degrees=10, shear=5, perspective=0.0005, mixup=0.3, copy_paste=0.5, scale=0.9)


def picture(channels: int = 3, bright: int = 220) -> np.ndarray:
    """RGB(A) or grey with a bright box on black; alpha is 0 all over, so blending would hide the box."""
    image = np.zeros((HEIGHT, WIDTH, channels), np.uint8)
    x, y, w, h = BOX
    image[y : y + h, x : x + w, : 3 if channels == 4 else 1] = bright
    return image[..., 0] if channels == 1 else image


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def wide(image: np.ndarray) -> bytes:
    """A PNG of 16 bits per channel."""
    return cv2.imencode(".png", image.astype(np.uint16) * 257)[1].tobytes()


def turned(kind: str) -> bytes:
    tag = Image.Exif()
    tag[0x112] = 6  # a viewer would show it turned a quarter
    return saved(Image.fromarray(picture()), kind, exif=tag)


GREY = np.repeat(picture(1)[..., None], 3, axis=2)
UNUSUAL = {
    "alpha.png": saved(Image.fromarray(picture(4))),
    "grey.png": saved(Image.fromarray(picture(1))),
    "grey.jpg": saved(Image.fromarray(picture(1)), "JPEG"),
    "grey-alpha.png": saved(Image.fromarray(picture(1)).convert("LA")),
    "palette.png": saved(Image.fromarray(GREY).quantize(8)),
    "two-colours.png": saved(Image.fromarray(picture(1)).convert("1")),
    "16-bit.png": wide(picture()),
    "16-bit-grey.png": wide(picture(1)),
    "16-bit-alpha.png": wide(picture(4)),
    "cmyk.jpg": saved(Image.fromarray(GREY).convert("CMYK"), "JPEG", quality=95),
    "turned.jpg": turned("JPEG"),
    "turned.png": turned("PNG"),
    "progressive.jpg": saved(Image.fromarray(GREY), "JPEG", progressive=True),
    "more-behind.png": saved(Image.fromarray(GREY)) + b"notes of a camera",
}
BROKEN = {
    "nothing.jpg": b"",
    "text.png": b"404 not found",
    "bitmap.png": saved(Image.fromarray(GREY), "BMP"),
}
CUT = {
    "cut.jpg": saved(Image.fromarray(GREY), "JPEG")[:-30],
    "cut.png": saved(Image.fromarray(GREY))[:-30],
}


def dataset_of(folder: Path, images: Iterable[SourceImage]) -> DetectionDataset:
    return write_dataset(
        folder / "dataset", {"train": images}, class_table(["thing"]), name="odd", source="tests"
    )


def thing(name: str, content: bytes, *boxes: tuple[float, float, float, float]) -> SourceImage:
    found = [SourceBox(class_index=0, box=box) for box in boxes]
    return SourceImage(file_name=name, content=content, boxes=found)


@pytest.fixture(scope="module")
def unusual(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    """Every unusual picture, with its box."""
    images = [thing(name, content, BOX) for name, content in UNUSUAL.items()]
    return dataset_of(tmp_path_factory.mktemp("unusual"), images)


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_pictures_are_read_as_stored(name: str) -> None:
    image = decode_image(UNUSUAL[name], name)
    assert image.dtype == np.uint8 and image.shape == (HEIGHT, WIDTH, 3)
    assert probe_size(UNUSUAL[name], name) == (WIDTH, HEIGHT)
    rows, columns = np.nonzero(image.max(axis=2) > 127)
    x, y, w, h = BOX
    found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    np.testing.assert_allclose(found, [x, y, x + w, y + h], atol=1)
    assert probe_orientation(UNUSUAL[name]) == (6 if name.startswith("turned") else 1)


@pytest.mark.parametrize("cached", [False, True])
def test_unusual_pictures_train_and_evaluate_with_their_boxes(
    unusual: DetectionDataset, cached: bool
) -> None:
    samples = unusual.samples("train")
    assert len(samples) == len(UNUSUAL)
    settings = CacheSettings(image_size=SIZE, memory_bytes=10**9 if cached else 0)
    seen: list[str] = []
    for batch in TrainLoader(samples, PLAIN, build_cache(samples, settings)):
        assert batch.targets[:, 0].tolist() == list(range(len(batch.images)))
        for image, (x, y, w, h) in zip(batch.images, batch.targets[:, 2:].tolist(), strict=True):
            bright = (image.amax(0) > 160).nonzero()  # rows, columns; the grey round the image is 114
            edges = [(y - h / 2) * SIZE, (x - w / 2) * SIZE, (y + h / 2) * SIZE - 1, (x + w / 2) * SIZE - 1]
            found = [*bright.amin(0).tolist(), *bright.amax(0).tolist()]
            np.testing.assert_allclose(found, edges, atol=1.5)
        seen += [Path(path).name for path in batch.paths]
    assert sorted(seen) == sorted(UNUSUAL)
    smooth = build_cache(samples, replace(settings, smooth=True))
    loader = EvalLoader(samples, EvalLoaderSettings(image_size=SIZE, batch_size=4), smooth)
    assert sorted(sample.path.name for batch in loader for sample in batch.samples) == sorted(UNUSUAL)


def test_extreme_shapes_train_and_evaluate(tmp_path: Path) -> None:
    shapes = {"dot.png": (1, 1), "line.png": (20000, 50), "pole.jpg": (50, 20000)}
    images = [
        thing(
            name, saved(Image.new("RGB", size, (200, 0, 0)), name[-3:].replace("jpg", "jpeg")), (0, 0, *size)
        )
        for name, size in shapes.items()
    ]
    samples = dataset_of(tmp_path, images).samples("train")
    (plain,) = TrainLoader(samples, PLAIN)
    slot = [Path(path).name for path in plain.paths].index("dot.png")
    # The lines are 1 pixel thick at this size, too thin for objects (2 pixels); the dot fills the picture.
    assert plain.targets.tolist() == [[slot, 0, 0.5, 0.5, 1, 1]] and len(plain.images) == 3
    assert (plain.images[:, 0] > 150).flatten(1).any(1).all()  # but each image is seen
    for _ in range(3):
        for batch in TrainLoader(samples * 4, replace(PLAIN, augmentation=STRONG)):
            assert bool(batch.targets.isfinite().all())
    batches = list(EvalLoader(samples, EvalLoaderSettings(image_size=SIZE)))
    assert sorted(batch.samples[0].path.name for batch in batches) == sorted(shapes)
    for batch in batches:
        assert min(batch.images.shape[2:]) >= 32 and (batch.images[:, 0] > 150).any()


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_image_never_enters_a_dataset(name: str, tmp_path: Path) -> None:
    good = thing("good.png", UNUSUAL["grey.png"], BOX)
    with pytest.raises(DataError, match=name):
        dataset_of(tmp_path, [good, thing(name, BROKEN[name], BOX)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["nothing.jpg", "text.png", *CUT])
@pytest.mark.parametrize("way", ["train", "cache", "evaluate"])
def test_images_that_break_later_stop_the_work_by_name(name: str, way: str, tmp_path: Path) -> None:
    good = ["grey.png", "alpha.png", "16-bit.png"]
    contents = dict(zip(("a.png", name, "z.png"), (UNUSUAL[one] for one in good), strict=True))
    samples = dataset_of(tmp_path, [thing(*item, BOX) for item in contents.items()]).samples("train")
    broken = next(sample for sample in samples if sample.path.name == name)
    broken.path.write_bytes((BROKEN | CUT)[name])
    with pytest.raises(DataError, match=rf"{name}.*(replace|remove|again)"):
        if way == "train":
            list(TrainLoader(samples, PLAIN))
        elif way == "cache":
            build_cache(samples, CacheSettings(image_size=SIZE, memory_bytes=10**9))
        else:
            list(EvalLoader(samples, EvalLoaderSettings(image_size=SIZE)))


def test_damage_inside_a_png_is_found_and_inside_a_jpeg_survived() -> None:
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    for share in (0.3, 0.6, 0.9):
        png, jpeg = bytearray(saved(noise)), bytearray(saved(noise, "JPEG"))
        png[int(len(png) * share)] ^= 0xFF
        with pytest.raises(DataError, match=r"x\.png does not decode"):
            decode_image(bytes(png), "x.png")
        jpeg[int(len(jpeg) * share)] ^= 0x55
        assert decode_image(bytes(jpeg), "x.jpg").shape == (HEIGHT, WIDTH, 3)


def test_more_pixels_than_can_be_read_are_refused() -> None:
    with pytest.raises(DataError, match=r"big\.png has too many pixels; cut it"):
        probe_size(saved(Image.new("1", (20000, 20000))), "big.png")
    with pytest.raises(DataError, match=r"long\.png does not decode"):
        decode_image(saved(Image.new("1", (2**20 + 1, 1))), "long.png")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", range(4))
def test_coordinates_that_are_no_numbers_never_enter_a_dataset(
    value: float, place: int, tmp_path: Path
) -> None:
    box = [float(edge) for edge in BOX]
    box[place] = value
    with pytest.raises(DataError, match=r"bad\.png: .*not a number; correct the label"):
        dataset_of(tmp_path, [thing("bad.png", UNUSUAL["grey.png"], tuple(box))])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["bbox", "segmentation"])
def test_coordinates_that_are_no_numbers_are_not_read(key: str, tmp_path: Path) -> None:
    dataset = dataset_of(tmp_path, [thing("bad.png", UNUSUAL["grey.png"], BOX)])
    path = dataset.annotation_file("train")
    coco = json.loads(path.read_text())
    outline = [[30, 20, 70, 20, float("nan"), 44]]
    coco["annotations"][0][key] = outline if key == "segmentation" else [30, 20, float("nan"), 24]
    path.write_text(json.dumps(coco))
    with pytest.raises(DataError, match=r"not a number"):
        dataset.samples("train")


def test_images_without_labels_are_kept_as_background(tmp_path: Path) -> None:
    names = ["a.png", "b.png", "c.png"]
    samples = dataset_of(tmp_path, [thing(name, UNUSUAL["grey.png"]) for name in names]).samples("train")
    for strength in (NO_AUGMENTATION, STRONG):
        (batch,) = TrainLoader(samples, replace(PLAIN, augmentation=strength))
        assert batch.targets.shape == (0, 6) and len(batch.images) == 3
    assert len(list(EvalLoader(samples, EvalLoaderSettings(image_size=SIZE)))) == 3


def test_boxes_with_nothing_in_the_image_teach_nothing_and_others_stay(tmp_path: Path) -> None:
    boxes = [BOX, (200, 10, 20, 20), (-50, 0, 40, 40), (30, 20, 0, 10), (80, 50, 60, 60)]
    samples = dataset_of(tmp_path, [thing("x.png", UNUSUAL["grey.png"], *boxes)]).samples("train")
    assert len(samples[0].boxes) == 5  # what is annotated is not changed
    (batch,) = TrainLoader(samples, PLAIN)
    scale = SIZE / WIDTH
    expected = [[40 * scale, 24 * scale], [16 * scale, 14 * scale]]
    np.testing.assert_allclose(batch.targets[:, 4:].numpy() * SIZE, expected, rtol=0.05)
