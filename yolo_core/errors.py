"""Every error that this project raises on purpose, in one tree.

::

    YoloError                     base of all; carries the exit code of the command line
    ├── UsageError          (2)   a path, key, option or image that the user gave is wrong
    │   ├── UnknownVariantError   no such model variant
    │   └── CheckpointError       a checkpoint cannot be read, or is refused as unsafe
    ├── DataError           (1)   the dataset is wrong: label, image, split, class
    ├── GateError           (1)   a gate said no: validation, export parity, promotion
    ├── ToolkitError        (1)   an export toolkit crashed, hung, or ran out of memory
    ├── NonFiniteLossError  (1)   training diverged; the last good checkpoint is kept
    └── UnreachableError    (3)   a server, store or cluster does not answer

A message is one or two lines: what is wrong, with the name of the thing, and the remedy.
"""

from __future__ import annotations


class YoloError(Exception):
    """Base of the tree; ``exit_code`` is what a command line ends with.

    ``about`` is what a program should know beside the message, such as the id of the run that failed.
    """

    exit_code = 1

    def __init__(self, *args: object) -> None:
        """Take the message."""
        super().__init__(*args)
        self.about: dict[str, str] = {}


class UsageError(YoloError):
    """Something the user named or set is wrong."""

    exit_code = 2


class UnknownVariantError(UsageError):
    """The model variant is not one of the ten of v6.0."""


class CheckpointError(UsageError):
    """A checkpoint cannot be read, does not fit, or is refused as unsafe."""


class DataError(YoloError):
    """The dataset itself is wrong."""


class GateError(YoloError):
    """A quality gate said no; the report named in the message says why."""


class ToolkitError(YoloError):
    """An export toolkit failed in a way that nobody foresaw, in a process of its own."""


class NonFiniteLossError(YoloError):
    """The loss became NaN or infinite."""


class UnreachableError(YoloError):
    """A server, store or cluster that a stage depends on does not answer."""

    exit_code = 3
