"""The ten models of release v6.0: multipliers, strides, anchors and training size."""

from __future__ import annotations

from dataclasses import dataclass

from yolo_core.errors import UnknownVariantError

AnchorTable = tuple[tuple[int, ...], ...]

# Anchors in input pixels, one row per level from fine to coarse: w, h of three boxes.
P5_ANCHORS: AnchorTable = (
    (10, 13, 16, 30, 33, 23),
    (30, 61, 62, 45, 59, 119),
    (116, 90, 156, 198, 373, 326),
)
P6_ANCHORS: AnchorTable = (
    (19, 27, 44, 40, 38, 94),
    (96, 68, 86, 152, 180, 137),
    (140, 301, 303, 264, 238, 542),
    (436, 615, 739, 380, 925, 792),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One model of the family.

    ``depth`` multiplies the repeats of C3 blocks and ``width`` the channels; ``p6`` says
    which of the two graphs is built; ``train_size`` is the release's training size in pixels.
    """

    name: str
    depth: float
    width: float
    p6: bool

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels per cell of each detection level, fine to coarse."""
        return (8, 16, 32, 64) if self.p6 else (8, 16, 32)

    @property
    def anchors(self) -> AnchorTable:
        """Anchors in pixels of the input, one row per level."""
        return P6_ANCHORS if self.p6 else P5_ANCHORS

    @property
    def train_size(self) -> int:
        """Side of the training images of the release, in pixels."""
        return 1280 if self.p6 else 640


_SCALES = {"n": (0.33, 0.25), "s": (0.33, 0.50), "m": (0.67, 0.75), "l": (1.0, 1.0), "x": (1.33, 1.25)}

VARIANTS: dict[str, Variant] = {
    f"yolov5{letter}{suffix}": Variant(
        name=f"yolov5{letter}{suffix}", depth=depth, width=width, p6=bool(suffix)
    )
    for suffix in ("", "6")
    for letter, (depth, width) in _SCALES.items()
}


def get_variant(name: str) -> Variant:
    """Return the variant of that name, or raise `UnknownVariantError` listing all ten."""
    try:
        return VARIANTS[name]
    except KeyError:
        raise UnknownVariantError(
            f"unknown model variant {name!r}; choose one of {', '.join(VARIANTS)}"
        ) from None
