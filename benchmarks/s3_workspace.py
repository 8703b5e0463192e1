"""What the S3 workspace's checked transfers cost beside a plain parallel copy with boto3.

Run ``python benchmarks/s3_workspace.py``; it takes some minutes and six gigabytes of the disk. Files like a
dataset's, many small images and a few large shards, go to SeaweedFS on this machine and back. *Plain* is
``upload_file`` and ``download_file`` in as many threads as the workspace has requests, and checks nothing.
Both ways take turns. The server shares the processors, so what counts is the wall clock.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import numpy as np
from botocore.config import Config
from timing import compare
from versioning import KEY, SECRET, make_bucket, seaweed

from components.bucket import open_bucket
from components.s3_client import THREADS

BUCKET = "bench"
SMALL_BYTES, LARGE_BYTES = 100_000, 64_000_000
TARGET = 0.7


def write_files(folder: Path, small: int, large: int) -> list[str]:
    """Write files of random bytes and return their names."""
    rng = np.random.default_rng(0)
    sizes = {f"data/dataset/images/{number:06}.jpg": SMALL_BYTES for number in range(small)}
    sizes |= {f"data/dataset/shards/{number:03}.tar": LARGE_BYTES for number in range(large)}
    for name, size in sizes.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(rng.bytes(size))
    return list(sizes)


def plain_ways(source: Path, names: list[str], new_folder: Callable[[], Path]) -> tuple[Any, Any]:
    """Return a plain upload and a plain download."""
    client = boto3.client("s3", config=Config(max_pool_connections=2 * THREADS))

    def each(work: Callable[[str], None]) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(work, names))

    def upload() -> None:
        each(lambda name: client.upload_file(str(source / name), BUCKET, f"plain/{name}"))

    def download() -> None:
        target = new_folder()
        for folder in {(target / name).parent for name in names}:
            folder.mkdir(parents=True, exist_ok=True)
        each(lambda name: client.download_file(BUCKET, f"plain/{name}", str(target / name)))

    return upload, download


def main() -> None:
    """Measure both directions and print megabytes per second and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", type=int, default=1000, help=f"files of {SMALL_BYTES} bytes")
    parser.add_argument("--large", type=int, default=3, help=f"files of {LARGE_BYTES} bytes")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="s3-workspace-") as name:
        root = Path(name)
        (root / "server").mkdir()
        names = write_files(root / "source", options.small, options.large)
        with seaweed(root / "server") as endpoint:
            os.environ |= {
                "AWS_ENDPOINT_URL": endpoint,
                "AWS_ACCESS_KEY_ID": KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_DEFAULT_REGION": "us-east-1",
            }
            make_bucket(endpoint, BUCKET)
            measure(root, names, options.rounds)


def measure(root: Path, names: list[str], rounds: int) -> None:
    """Let both ways take turns, first there, then back."""
    numbers = count()
    bucket = open_bucket(f"s3://{BUCKET}/workspace")
    upload, download = plain_ways(root / "source", names, lambda: root / f"target-{next(numbers)}")
    files = bucket.upload(root / "source", names)

    def download_checked() -> None:
        broken = bucket.download(root / f"target-{next(numbers)}", files)
        if broken:
            raise SystemExit(f"{broken[0]} came damaged")

    ways = {
        "upload": {"plain": upload, "workspace": lambda: bucket.upload(root / "source", names)},
        "download": {"plain": download, "workspace": download_checked},
    }
    megabytes = sum(record.size for record in files.values()) / 1e6
    for title, both in ways.items():
        times = compare(both, rounds=rounds)
        rates = ", ".join(f"{name} {megabytes / times.seconds(name):.0f} MB/s" for name in both)
        ratio = times.ratio("plain", "workspace")
        print(f"{title}: {rates}; workspace at {ratio:.2f} of plain (target {TARGET})", flush=True)


if __name__ == "__main__":
    main()
