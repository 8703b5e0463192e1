"""Evaluation and detection, with a detector whose answer is known: it looks for red and blue rectangles."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from yolo_core.data.cache import DecodedImages
from yolo_core.data.coco import (
    DetectionDataset,
    Sample,
    SourceBox,
    SourceImage,
    class_table,
    open_dataset,
    read_image,
    write_dataset,
)
from yolo_core.engine.evaluate import EvalSettings, detect, evaluate, judge, measure_speed, merge
from yolo_core.engine.speed import summarise_times
from yolo_core.errors import DataError, UsageError
from yolo_core.metrics.nms import NmsSettings
from yolo_core.model.weights import load_checkpoint

SIZES = [(90, 60), (60, 100), (200, 120), (64, 64), (130, 131), (40, 160), (77, 33)]  # width, height
RED_BOX, BLUE_BOX = (0.1, 0.1, 0.4, 0.5), (0.5, 0.35, 0.45, 0.6)  # shares of the image: x, y, w, h
SETTINGS = EvalSettings(image_size=128)


def paint(width: int, height: int) -> tuple[np.ndarray, list[tuple[float, float, float, float]]]:
    """A grey BGR picture with one red and one blue rectangle, and their boxes in pixels."""
    image = np.full((height, width, 3), 120, np.uint8)
    boxes = []
    for (x, y, w, h), colour in ((RED_BOX, (0, 0, 255)), (BLUE_BOX, (255, 0, 0))):
        left, top = round(x * width), round(y * height)
        right, bottom = round((x + w) * width), round((y + h) * height)
        image[top:bottom, left:right] = colour
        boxes.append((float(left), float(top), float(right - left), float(bottom - top)))
    return image, boxes


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> DetectionDataset:
    """Pictures of many shapes; in the test split the blue rectangles are crowds."""

    def source(crowd: bool) -> list[SourceImage]:
        images = []
        for number, (width, height) in enumerate(SIZES):
            image, (red, blue) = paint(width, height)
            content = cv2.imencode(".png", image)[1].tobytes()
            boxes = [SourceBox(class_index=0, box=red), SourceBox(class_index=1, box=blue, crowd=crowd)]
            images.append(SourceImage(file_name=f"{number}.png", content=content, boxes=boxes))
        return images

    splits = {"train": source(False), "val": source(False), "test": source(True)}
    root = tmp_path_factory.mktemp("pictures") / "dataset"
    return write_dataset(root, splits, class_table(["red", "blue"], [5, 9]), name="pictures", source="drawn")


def find_colours(images: Tensor) -> Tensor:
    """A detector: (B, 3, h, w) RGB -> (B, 2, 7), the extent of what is red and of what is blue."""
    found = []
    for image in images:
        for category, (own, other) in enumerate(((0, 2), (2, 0))):
            rows, columns = torch.nonzero(image[own] - image[other] > 0.5, as_tuple=True)
            scores = [1.0 - category, float(category)]
            if not len(rows):
                found.append([0.0, 0, 0, 0, 0, *scores])
                continue
            x1, x2 = float(columns.min()), float(columns.max() + 1)
            y1, y2 = float(rows.min()), float(rows.max() + 1)
            found.append([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, 0.9, *scores])
    return torch.tensor(found).view(len(images), 2, 7)


def find_nothing(images: Tensor) -> Tensor:
    return torch.zeros(len(images), 10, 7)


class Colours(nn.Module):
    """The detector as a module that remembers how it was run."""

    stride = torch.tensor([8.0, 16.0])

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple[int, ...]] = []
        self.modes: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shapes.append(tuple(images.shape))
        self.modes.append(self.training)
        return find_colours(images)


@pytest.mark.parametrize("rectangular", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_a_right_detector_is_right_in_pixels_of_the_stored_images(
    pictures: DetectionDataset, batch_size: int, rectangular: bool
) -> None:
    settings = replace(SETTINGS, batch_size=batch_size, rectangular=rectangular)
    evaluation = evaluate(find_colours, pictures, "val", settings)
    assert evaluation.metrics.map50 == pytest.approx(0.995)
    assert evaluation.confusion.matrix.tolist() == [[7, 0, 0], [0, 7, 0], [0, 0, 0]]
    for sample in pictures.samples("val"):
        rows = evaluation.rows[sample.image_id]
        in_order = rows[rows[:, 5].argsort()]
        assert np.abs(in_order[:, :4] - sample.boxes).max() <= max(sample.width, sample.height) / 128 + 0.5
    assert all(value > 0 for value in (evaluation.speed.preprocess_ms, evaluation.speed.inference_ms))
    assert len(evaluation.times) == -(-len(SIZES) // batch_size)


def test_detections_are_coco_results_with_the_datasets_category_ids(pictures: DetectionDataset) -> None:
    evaluation = evaluate(find_colours, pictures, "val", SETTINGS)
    first = pictures.samples("val")[0]
    own = [row for row in evaluation.detections if row["image_id"] == first.image_id]
    assert sorted(row["category_id"] for row in own) == [5, 9]
    assert all(row["score"] == pytest.approx(0.9) and len(row["bbox"]) == 4 for row in own)
    assert evaluation.coco().ap50 == pytest.approx(1)


def test_a_detector_that_finds_nothing_scores_zero(pictures: DetectionDataset) -> None:
    evaluation = evaluate(find_nothing, pictures, "val", SETTINGS)
    assert (evaluation.metrics.map, evaluation.metrics.recall, evaluation.coco().ap) == (0, 0, 0)
    assert evaluation.detections == []
    assert evaluation.confusion.matrix.tolist() == [[0, 0, 0], [0, 0, 0], [7, 7, 0]]


def test_a_crowd_is_no_truth_of_the_built_in_map(pictures: DetectionDataset) -> None:
    evaluation = evaluate(find_colours, pictures, "test", SETTINGS)
    assert evaluation.metrics.classes.tolist() == [0]
    assert evaluation.metrics.map50 == pytest.approx(0.995)
    assert evaluation.coco().ap50 == pytest.approx(1)  # COCO leaves detections on a crowd out


def test_ranks_together_measure_what_one_process_measures(pictures: DetectionDataset) -> None:
    settings = replace(SETTINGS, batch_size=2)
    whole = evaluate(find_colours, pictures, "val", settings)
    parts = [
        evaluate(find_colours, pictures, "val", replace(settings, rank=rank, world_size=3))
        for rank in range(3)
    ]
    assert all(len(part.rows) < len(SIZES) for part in parts)
    merged = merge(parts[::-1])
    assert merged.detections == whole.detections
    assert merged.metrics.map == whole.metrics.map
    assert (merged.confusion.matrix == whole.confusion.matrix).all()
    assert len(merged.times) == len(whole.times)


def test_a_module_runs_in_evaluation_mode_and_gets_its_mode_back(pictures: DetectionDataset) -> None:
    model = Colours()
    evaluate(model, pictures, "val", SETTINGS)
    assert model.training and not any(model.modes)
    model.eval()
    evaluate(model, pictures, "val", SETTINGS)
    assert not model.training


def test_a_failing_module_gets_its_mode_back(pictures: DetectionDataset) -> None:
    class Broken(Colours):
        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError("broken")

    model = Broken()
    with pytest.raises(RuntimeError, match="broken"):
        evaluate(model, pictures, "val", SETTINGS)
    assert model.training


def test_shapes_follow_the_models_stride(pictures: DetectionDataset) -> None:
    model = Colours()
    evaluate(model, pictures, "val", replace(SETTINGS, image_size=96))
    assert {side % 16 for shape in model.shapes for side in shape[2:]} == {0}
    assert len({shape[2:] for shape in model.shapes}) > 3
    model.shapes.clear()
    evaluate(model, pictures, "val", replace(SETTINGS, image_size=96, rectangular=False))
    assert {shape[2:] for shape in model.shapes} == {(96, 96)}


@pytest.mark.parametrize("rectangular", [True, False])
def test_an_odd_image_size_is_rounded_up_and_said(
    pictures: DetectionDataset, caplog: pytest.LogCaptureFixture, rectangular: bool
) -> None:
    settings = EvalSettings(image_size=100, rectangular=rectangular)
    with caplog.at_level(logging.WARNING):
        evaluation = evaluate(find_colours, pictures, "val", settings)
    assert evaluation.image_size == 128
    assert "image size 100 is not a multiple of the stride 32; 128 is used" in caplog.text


def test_a_model_with_other_classes_is_refused(pictures: DetectionDataset) -> None:
    with pytest.raises(UsageError, match="the model knows 3 classes, dataset pictures has 2"):
        evaluate(lambda images: torch.zeros(len(images), 4, 8), pictures, "val", SETTINGS)


def test_an_absent_split_is_named(pictures: DetectionDataset, tmp_path: Path) -> None:
    image, _ = paint(40, 40)
    content = cv2.imencode(".png", image)[1].tobytes()
    only = {"train": [SourceImage(file_name="a.png", content=content)]}
    dataset = write_dataset(tmp_path / "d", only, class_table(["red", "blue"]), name="d", source="drawn")
    with pytest.raises(DataError, match="no split 'val'"):
        evaluate(find_colours, dataset, "val", SETTINGS)
    assert evaluate(find_colours, dataset, "train", SETTINGS).metrics.map == 0  # no truth at all


def test_an_image_that_does_not_decode_is_named(pictures: DetectionDataset, tmp_path: Path) -> None:
    image, _ = paint(40, 40)
    content = cv2.imencode(".png", image)[1].tobytes()
    only = {"train": [SourceImage(file_name="a.png", content=content)]}
    dataset = write_dataset(tmp_path / "d", only, class_table(["red", "blue"]), name="d", source="drawn")
    (dataset.root / "images/train/a.png").write_bytes(content[:60])
    with pytest.raises(DataError, match=r"a\.png"):
        evaluate(find_colours, open_dataset(dataset.root), "train", SETTINGS)


def test_progress_counts_images_and_warm_up_repeats_the_first_batches(pictures: DetectionDataset) -> None:
    model, seen = Colours(), []
    evaluate(model, pictures, "val", replace(SETTINGS, batch_size=2, warm_up=True), progress=seen.append)
    assert sum(seen) == len(SIZES)
    assert len(model.shapes) == 4 + 2


def test_an_exported_model_may_return_an_array(pictures: DetectionDataset) -> None:
    def exported(images: Tensor) -> np.ndarray:
        return find_colours(images).numpy()

    assert evaluate(exported, pictures, "val", SETTINGS).metrics.map50 == pytest.approx(0.995)


def slow(seconds: float) -> Callable[[Tensor], Tensor]:
    def run(images: Tensor) -> Tensor:
        time.sleep(seconds * len(images))
        return find_colours(images)

    return run


@pytest.mark.parametrize("batch_size", [1, 3])
def test_speed_is_per_image(pictures: DetectionDataset, batch_size: int) -> None:
    settings = replace(SETTINGS, batch_size=batch_size)
    speed = measure_speed(slow(0.02), pictures.samples("val"), settings, images=100)
    assert 20 <= speed.inference_ms <= speed.inference.p95 < 2000
    assert speed.nms_ms > 0 and speed.preprocess_ms > 0
    assert speed.total_ms == pytest.approx(speed.preprocess_ms + speed.inference_ms + speed.nms_ms)


def test_speed_is_measured_on_no_more_images_than_asked(pictures: DetectionDataset) -> None:
    model = Colours()
    speed = measure_speed(
        model, pictures.samples("val"), replace(SETTINGS, rectangular=False), images=3, repeats=2
    )
    assert speed.batches == 6
    assert len(model.shapes) == 2 + 2 * (1 + 3)  # warm-up; then, in each round, the shape's first call and 3


def test_each_shape_is_warmed_up_before_it_is_timed(pictures: DetectionDataset) -> None:
    seen: set[tuple[int, ...]] = set()

    def slow_at_first(images: Tensor) -> Tensor:
        if images.shape not in seen:
            seen.add(images.shape)
            time.sleep(0.3)
        return find_colours(images)

    speed = measure_speed(slow_at_first, pictures.samples("val"), SETTINGS, images=100)
    assert len(seen) > 2 and speed.inference.p99 < 300


def test_a_rest_of_a_batch_is_not_timed(pictures: DetectionDataset) -> None:
    count = len(pictures.samples("val"))
    for batch_size, batches in ((1, count), (count - 1, 1), (count, 1), (count + 1, 1)):
        settings = replace(SETTINGS, batch_size=batch_size)
        assert measure_speed(find_colours, pictures.samples("val"), settings, images=100).batches == batches


@given(arrays(np.float64, st.tuples(st.integers(1, 40), st.just(3)), elements=st.floats(0, 1e4)))
def test_the_spread_is_in_order_and_parts_add_up(times: np.ndarray) -> None:
    speed = summarise_times(times)
    for part in speed.as_dict().values():
        levels = [part[name] for name in ("p50", "p90", "p95", "p99")]
        assert levels == sorted(levels)
    means = (speed.preprocess.mean, speed.inference.mean, speed.nms.mean)
    assert speed.total.mean == pytest.approx(sum(means))
    assert speed.inference.p50 == pytest.approx(np.median(times[:, 1])) and speed.batches == len(times)


def test_nothing_timed_is_zero() -> None:
    speed = summarise_times(np.empty((0, 3)))
    assert speed.batches == 0 and speed.total_ms == 0 and speed.total.p99 == 0


def test_judging_kept_detections_is_evaluating_them(pictures: DetectionDataset) -> None:
    made = evaluate(find_colours, pictures, "val", SETTINGS)
    kept = {key: rows for key, rows in made.rows.items() if len(rows)}
    again = judge(pictures, "val", made.image_size, kept)
    assert again.metrics.map == made.metrics.map and again.detections == made.detections
    assert np.array_equal(again.confusion.matrix, made.confusion.matrix)
    assert again.speed.batches == 0
    with pytest.raises(DataError, match="image 999"):
        judge(pictures, "val", 128, {**kept, 999: np.zeros((1, 6), np.float32)})


def test_decoded_images_save_decoding_and_change_nothing(
    pictures: DetectionDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = len(pictures.samples("val"))
    reads: list[str] = []
    read = Sample.read_image
    monkeypatch.setattr(Sample, "read_image", lambda sample: reads.append(sample.sha256) or read(sample))
    expected = evaluate(find_colours, pictures, "val", SETTINGS).detections
    for budget, times in ((10**9, 1), (0, 3)):
        cache = DecodedImages(budget)
        reads.clear()
        for size in (128, 96, 128):
            settings = replace(SETTINGS, image_size=size)
            found = evaluate(find_colours, pictures, "val", settings, cache=cache).detections
        assert found == expected and len(reads) == times * count
        assert (cache.bytes > 0) == (budget > 0)


def test_speed_is_a_median(pictures: DetectionDataset) -> None:
    calls = iter(range(100))

    def stumbling(images: Tensor) -> Tensor:
        if next(calls) == 3:
            time.sleep(0.5)
        return find_colours(images)

    assert measure_speed(stumbling, pictures.samples("val"), SETTINGS, images=7).inference_ms < 400


def test_detect_keeps_the_order_of_pictures_of_many_shapes() -> None:
    images = [paint(width, height)[0] for width, height in SIZES * 2]
    model = Colours()
    found = detect(model, images, replace(SETTINGS, batch_size=8))
    assert len(model.shapes) < len(images)  # those of one shape went together
    for (width, height), rows in zip(SIZES * 2, found, strict=True):
        boxes = np.array(paint(width, height)[1])
        boxes[:, 2:] += boxes[:, :2]
        assert rows.dtype == np.float32 and rows.shape == (2, 6)
        assert np.abs(rows[rows[:, 5].argsort(), :4] - boxes).max() <= max(width, height) / 128 + 0.5


def test_detect_in_squares_and_without_pictures() -> None:
    model = Colours()
    detect(model, [paint(90, 60)[0], paint(60, 90)[0]], replace(SETTINGS, rectangular=False, batch_size=2))
    assert model.shapes == [(2, 3, 128, 128)]
    assert detect(model, [], SETTINGS) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [("image_size", 0), ("batch_size", 0), ("threads", 0), ("precision", "int8"), ("rank", 1)],
)
def test_settings_name_the_field_that_is_wrong(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        EvalSettings(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("precision", "expected"), [("fp32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_precision_is_that_of_autocast(
    pictures: DetectionDataset, precision: str, expected: torch.dtype | None
) -> None:
    seen = set()

    def run(images: Tensor) -> Tensor:
        seen.add(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return find_colours(images)

    evaluate(run, pictures, "val", replace(SETTINGS, precision=precision))
    assert seen == {expected}


def test_the_official_model_finds_the_same_in_bf16_on_a_photograph(assets: Path) -> None:
    model = load_checkpoint(assets / "weights/yolov5n.pt").fuse()
    photo = read_image(assets / "coco128_yolo/images/train2017/000000000036.jpg")
    settings = EvalSettings(image_size=320, nms=NmsSettings(confidence=0.4))
    one, two = (detect(model, [photo], replace(settings, precision=name))[0] for name in ("fp32", "bf16"))
    assert len(one) and one[:, 5].tolist() == two[:, 5].tolist()
    assert np.abs(one[:, :4] - two[:, :4]).max() < 8
    assert np.abs(one[:, 4] - two[:, 4]).max() < 0.05
