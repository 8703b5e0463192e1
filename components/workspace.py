"""Where a stage reads and writes: a folder of this machine, or ``s3://bucket/prefix``.

A stage always works in a local folder, `Workspace.root`. For an S3 workspace that folder is a
scratch one: `components.remote` brings the declared inputs there and takes the outputs back.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from yolo_core.errors import UsageError

S3_SCHEME = "s3://"


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A place that holds the pipeline's data.

    ``root`` is the local folder that stages read and write, absolute; ``uri`` is what the user
    named: that same folder, or the S3 address whose local image it is.
    """

    root: Path
    uri: str

    @property
    def is_remote(self) -> bool:
        """Whether ``root`` is only a scratch image of something on S3."""
        return self.uri.startswith(S3_SCHEME)

    def path(self, relative: str) -> Path:
        """Return the local path of something in the workspace."""
        return self.root / relative

    @contextmanager
    def replacing(self, outputs: Iterable[str]) -> Iterator[None]:
        """Move what an earlier run left at ``outputs`` aside while a block writes them anew.

        What a failed block did not write comes back, so that a mistake loses nothing. Links are moved, never
        followed: DVC may have put them there, and what they point to is its cache.

        Raises:
            UsageError: the place cannot be written to, before the block begins.
        """
        targets = [self.path(relative) for relative in outputs]
        done = False
        with _writing(self.root):
            aside = Path(tempfile.mkdtemp(prefix=".replaced-", dir=self.root))
        try:
            for number, target in enumerate(targets):
                with _writing(target):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    if os.path.lexists(target):
                        target.rename(aside / str(number))
            yield
            done = True
        finally:
            for number, target in enumerate(targets):
                if not done and os.path.lexists(aside / str(number)) and not os.path.lexists(target):
                    (aside / str(number)).rename(target)
            shutil.rmtree(aside, ignore_errors=True)

    def publish(self, outputs: tuple[str, ...]) -> None:
        """Take what is there of the outputs to where ``uri`` says; a local folder already holds them."""


@contextmanager
def _writing(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror or error} ({error.filename})"
        raise UsageError(f"cannot write {place}: {reason}; choose another workspace") from None


def local_workspace(folder: str) -> Workspace:
    """Open a folder of this machine.

    Raises:
        UsageError: it is not there, is not a folder, or is an address of an unknown kind.
    """
    if "://" in folder:
        scheme = folder.split("://", 1)[0]
        raise UsageError(
            f"workspace {folder}: {scheme}:// is not supported; pass a folder or s3://BUCKET/PREFIX"
        )
    root = Path(folder).expanduser().resolve()
    if not root.is_dir():
        raise UsageError(f"workspace {folder} is not a folder; make it first or pass another --workspace")
    return Workspace(root=root, uri=str(root))
