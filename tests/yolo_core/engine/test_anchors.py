from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolo_core.data.coco import Sample
from yolo_core.engine import anchors as module
from yolo_core.engine.anchors import (
    best_possible_recall,
    box_sizes,
    fit_anchors,
    needed_ratio,
    search_anchors,
)
from yolo_core.errors import DataError
from yolo_core.model.variants import P5_ANCHORS, P6_ANCHORS


def clusters(*centres: tuple[float, float], each: int = 200, spread: float = 0.05) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([np.array(c) * (1 + spread * rng.standard_normal((each, 2))) for c in centres])


def test_recall_is_the_share_within_the_ratio() -> None:
    sizes = np.array([[10.0, 10.0], [39.0, 10.0], [41.0, 10.0], [10.0, 2.4]])
    assert best_possible_recall(sizes, np.array([[10.0, 10.0]]), 4.0) == 0.5


def test_fitting_anchors_are_kept_as_they_are() -> None:
    sizes = np.concatenate([np.array(row, float).reshape(-1, 2) for row in P5_ANCHORS])
    fit = fit_anchors(sizes, P5_ANCHORS, 4.0)
    assert not fit.changed
    assert fit.recall == fit.recall_before == 1.0
    assert fit.anchors == tuple(tuple(float(v) for v in row) for row in P5_ANCHORS)


@pytest.mark.parametrize(("misfits", "searched"), [(2, False), (3, True)])
def test_anchors_are_searched_below_a_recall_of_98_percent(misfits: int, searched: bool) -> None:
    sizes = np.full((100, 2), 100.0)
    sizes[:misfits] = 2.2, 2.6  # over four times smaller than the smallest anchor
    fit = fit_anchors(sizes, P5_ANCHORS, 4.0)
    assert fit.recall_before == pytest.approx(1 - misfits / 100)
    assert fit.changed is searched


def test_boxes_under_two_pixels_do_not_vote() -> None:
    sizes = np.concatenate((clusters((40.0, 50.0), (90.0, 60.0)), np.full((5000, 2), 1.0)))
    np.testing.assert_allclose(search_anchors(sizes, 2, 4.0), [(40.0, 50.0), (90.0, 60.0)], rtol=0.1)


def test_mutation_improves_on_the_centres(monkeypatch: pytest.MonkeyPatch) -> None:
    """K-means minimises distances, the loss matches by ratios: small boxes gain from the second look."""
    sizes = np.random.default_rng(5).lognormal(3.5, 0.9, (1500, 2))
    evolved = search_anchors(sizes, 9, 4.0)
    monkeypatch.setattr(module, "MUTATIONS", 0)
    centres = search_anchors(sizes, 9, 4.0)
    assert module._fitness(sizes, evolved, 4.0) > module._fitness(sizes, centres, 4.0) + 0.01


@given(seed=st.integers(0, 1000), spread=st.floats(0.1, 1.5), middle=st.floats(1.0, 6.0))
def test_recall_never_falls(seed: int, spread: float, middle: float) -> None:
    sizes = np.random.default_rng(seed).lognormal(middle, spread, (200, 2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MUTATIONS", 30)
        fit = fit_anchors(sizes, P5_ANCHORS, 4.0)
    assert fit.recall >= fit.recall_before
    assert fit.changed == (fit.recall > fit.recall_before)
    assert fit.recall == best_possible_recall(sizes, np.array(fit.anchors).reshape(-1, 2), 4.0)


@pytest.mark.parametrize("table", [P5_ANCHORS, P6_ANCHORS])
def test_tiny_boxes_get_anchors_of_their_own(table: tuple[tuple[int, ...], ...]) -> None:
    sizes = clusters((2.2, 2.4), (3.0, 3.5), (2.5, 6.0), (6.0, 2.5))
    fit = fit_anchors(sizes, table, 4.0)
    assert fit.changed
    assert fit.recall > 0.98 > fit.recall_before
    assert np.shape(fit.anchors) == np.shape(table)
    areas = np.array(fit.anchors).reshape(-1, 2).prod(axis=1)
    assert (np.diff(areas) >= 0).all()  # fine levels get the small ones


def test_anchors_that_fit_loosely_go_only_when_asked_and_worth_it() -> None:
    sizes = clusters((11.0, 18.0), (25.0, 38.0), (44.0, 60.0))  # COCO's anchors reach them all, on two levels
    strict = fit_anchors(sizes, P5_ANCHORS, 4.0)
    assert strict.recall_before == 1.0 and not strict.changed
    closer = fit_anchors(sizes, P5_ANCHORS, 4.0, least_gain=0.1)
    assert closer.changed
    assert closer.closeness > 1.1 * closer.closeness_before
    assert not fit_anchors(sizes, P5_ANCHORS, 4.0, least_gain=0.9).changed
    # What was searched for these boxes cannot be searched much closer.
    assert not fit_anchors(sizes, closer.anchors, 4.0, least_gain=0.1).changed


def test_needed_ratio_is_that_of_all_but_a_hundredth() -> None:
    sizes = np.array([[10.0, 10.0]] * 50 + [[15.0, 10.0]] * 149 + [[10.0, 90.0]])
    assert needed_ratio(sizes, np.array([[10.0, 10.0]])) == pytest.approx(1.5)
    assert needed_ratio(sizes, np.array([[10.0, 10.0], [15.0, 10.0]])) == pytest.approx(1.0)


def test_search_finds_the_clusters() -> None:
    wanted = [(10.0, 20.0), (40.0, 30.0), (100.0, 110.0)]
    found = search_anchors(clusters(*wanted), 3, 4.0)
    np.testing.assert_allclose(found, wanted, rtol=0.1)


def test_search_is_repeatable_and_depends_on_the_seed_only() -> None:
    sizes = np.random.default_rng(1).lognormal(3, 0.6, (500, 2))
    np.testing.assert_array_equal(
        search_anchors(sizes, 9, 4.0, seed=3), search_anchors(sizes, 9, 4.0, seed=3)
    )


@pytest.mark.parametrize("count", [1, 5])
def test_fewer_boxes_than_anchors_still_give_anchors(count: int) -> None:
    sizes = np.full((count, 2), 1000.0)
    fit = fit_anchors(sizes, P5_ANCHORS, 4.0)
    assert np.isfinite(fit.anchors).all() and (np.array(fit.anchors) > 0).all()
    assert fit.recall >= fit.recall_before


def test_large_data_is_searched_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MUTATIONS", 100)
    sizes = np.tile(clusters((10.0, 20.0), (60.0, 30.0)), (200, 1))
    found = search_anchors(sizes, 2, 4.0)
    np.testing.assert_allclose(found, [(10.0, 20.0), (60.0, 30.0)], rtol=0.1)


def test_no_boxes_is_a_data_error() -> None:
    with pytest.raises(DataError, match="no boxes"):
        fit_anchors(np.zeros((0, 2)), P5_ANCHORS, 4.0)


def test_box_sizes_are_scaled_to_the_training_size(make_sample) -> None:  # type: ignore[no-untyped-def]
    sample: Sample = make_sample(width=400, height=200, boxes=[[0, 0, 100, 50], [5, 5, 5, 50]])
    np.testing.assert_allclose(box_sizes([sample], 160), [[40.0, 20.0]])  # the flat box is left out
    assert box_sizes([], 160).shape == (0, 2)
