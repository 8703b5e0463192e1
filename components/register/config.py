"""Section ``register`` of params.yaml."""

from __future__ import annotations

import re
from dataclasses import dataclass

_PREFIX = re.compile(r"[A-Za-z0-9._ -]*")  # MLflow refuses / : and quotes in a model's name


@dataclass(frozen=True, kw_only=True)
class RegisterConfig:
    """How a trained variant becomes a version in the registry.

    The registered model is called ``name_prefix`` + variant. ``format`` is what the registered pyfunc runs
    unless a request names a backend: best, the fastest that passed its parity check and runs where it is
    loaded; checkpoint; or one of the exports. Every version carries the checkpoint and all exports.
    """

    name_prefix: str
    format: str

    def __post_init__(self) -> None:
        """Check the characters of the prefix, and that a format is named."""
        if not self.format:
            raise ValueError("format must be best, checkpoint or an exported format")
        if not _PREFIX.fullmatch(self.name_prefix):
            raise ValueError(
                f"name_prefix may hold letters, digits, . _ - and blanks, not {self.name_prefix!r}"
            )
