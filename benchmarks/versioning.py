"""A dataset as files and as shards: DVC's add and push to S3 (SeaweedFS), and `dvc repro`.

Run ``python benchmarks/versioning.py [--images 20000]`` from the repository's root; it takes a quarter of an
hour (a few minutes with ``--skip-push``) and two gigabytes of the disk. Images are JPEGs of 5 to 10 kB, each
different. Both ways are timed one after the other, each in a repository and a bucket of its own. For
`dvc repro` the project's own dvc.yaml is used, with small files standing in for what its later stages write;
the best of three runs counts.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import yaml

from yolo_core.data.coco import DetectionDataset, SourceBox, SourceImage, class_table, write_dataset
from yolo_core.data.shards import SHARD_BYTES

REPO = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
KEY, SECRET = "bench", "bench-secret"
PORTS = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")
REPRO_RUNS = 3


def draw_images(count: int) -> Iterator[SourceImage]:
    """Yield small JPEGs with one box each; a comment in each makes its bytes differ from all others'."""
    rng = np.random.default_rng(0)
    pictures = []
    for size in rng.integers(12, 26, 200):
        noise = rng.integers(0, 255, (size * 3 // 4, size, 3), np.uint8)
        pictures.append(cv2.imencode(".jpg", cv2.resize(noise, (240, 180)))[1].tobytes())
    for number in range(count):
        picture = pictures[number % len(pictures)]
        comment = b"\xff\xfe\x00\x0e" + f"{number:012}".encode()
        box = SourceBox(class_index=number % 3, box=(10.0, 10.0, 100.0, 80.0))
        yield SourceImage(
            file_name=f"{number:06}.jpg", content=picture[:2] + comment + picture[2:], boxes=[box]
        )


@contextmanager
def seaweed(folder: Path) -> Iterator[str]:
    """Run SeaweedFS and yield its S3 address."""
    identity = {
        "name": "bench",
        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
        "actions": ["Admin"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
    ports = {name: server.getsockname()[1] for name, server in zip(PORTS, sockets, strict=True)}
    for server in sockets:
        server.close()
    flags = [
        f"-{name.replace('.', '.port.') if '.' in name else name + '.port'}={port}"
        for name, port in ports.items()
    ]
    flags += [
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-dir={folder}",
        f"-s3.config={folder}/s3.json",
        "-filer",
        "-s3",
    ]
    flags += ["-volume.max=100", "-master.volumeSizeLimitMB=256", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    with (folder / "log").open("w") as log:
        command = [str(BIN / "weed"), "-logtostderr=true", "server", "-master.telemetry=false", *flags]
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        yield f"http://127.0.0.1:{ports['s3']}"
    finally:
        process.kill()
        process.wait()


def make_bucket(endpoint: str, name: str) -> None:
    """Make a bucket, once the server is up."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client("s3", endpoint_url=endpoint)
    deadline = time.monotonic() + 60
    while True:
        try:
            client.create_bucket(Bucket=name)
            client.put_object(Bucket=name, Key="ready", Body=b"")
        except (BotoCoreError, ClientError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)
        else:
            return


def seconds(root: Path, *words: str) -> float:
    """Run DVC in a folder and return how long it took, once the disk is quiet."""
    os.sync()
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words, "-q"], cwd=root, capture_output=True, text=True
    )
    taken = time.monotonic() - began
    if done.returncode:
        raise SystemExit(f"dvc {' '.join(words)}: {done.stdout}{done.stderr}")
    return taken


def new_repository(root: Path) -> None:
    """Make an empty repository of Git and DVC."""
    root.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    seconds(root, "init")
    seconds(root, "config", "core.analytics", "false")


def time_reading(dataset: DetectionDataset) -> float:
    """Return the processor seconds that reading the bytes of every image takes, in random order."""
    samples = dataset.samples("train")
    order = np.random.default_rng(0).permutation(len(samples))
    began = time.process_time()
    for index in order:
        samples[index].read_bytes()
    return time.process_time() - began


def time_add_and_push(root: Path, dataset: Path, endpoint: str) -> tuple[float, float]:
    """Return the seconds that adding and pushing the dataset take in a new repository."""
    new_repository(root)
    dataset.rename(root / "dataset")
    make_bucket(endpoint, root.name)
    seconds(root, "remote", "add", "-d", "store", f"s3://{root.name}/dvc")
    seconds(root, "remote", "modify", "store", "endpointurl", endpoint)
    times = seconds(root, "add", "dataset"), seconds(root, "push")
    (root / "dataset").rename(dataset)
    return times


def time_repro(root: Path, dataset: Path) -> tuple[float, float]:
    """Time `dvc repro` in a copy of the project that is up to date: seconds, and those of the processor."""
    new_repository(root)
    listed = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        if (REPO / name).is_file() and not name.startswith((".dvc", "tests/", "docs/")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPO / name, root / name)
    (root / "data").mkdir(exist_ok=True)
    dataset.rename(root / "data" / "dataset")
    variants = yaml.safe_load((root / "params.yaml").read_text())["variants"]
    for stage in yaml.safe_load((root / "dvc.yaml").read_text())["stages"].values():
        body = stage.get("do", stage)
        for out in [item for key in ("outs", "metrics", "plots") for item in body.get(key, ())]:
            for variant in variants:
                path = root / (out if isinstance(out, str) else next(iter(out))).replace("${item}", variant)
                if not path.exists():
                    path = path if path.suffix else path / "stand-in"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text("{}")
    seconds(root, "commit", "--force")
    times = []
    for _ in range(REPRO_RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        wall = seconds(root, "repro")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append((wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    (root / "data" / "dataset").rename(dataset)
    return min(times)


def main() -> None:
    """Measure and print a line per step."""
    parser = argparse.ArgumentParser(description="A dataset as files and as shards, under DVC.")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--shard-bytes", type=int, default=SHARD_BYTES)
    parser.add_argument("--skip-push", action="store_true", help="leave out DVC's add and push")
    options = parser.parse_args()
    os.environ.update(AWS_ACCESS_KEY_ID=KEY, AWS_SECRET_ACCESS_KEY=SECRET, AWS_DEFAULT_REGION="us-east-1")
    os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    table: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch, seaweed(Path(scratch)) as endpoint:
        for way, shard_bytes in (("files", None), ("shards", options.shard_bytes)):
            target = Path(scratch) / f"dataset-{way}"
            os.sync()
            began = time.monotonic()
            dataset = write_dataset(
                target,
                {"train": draw_images(options.images)},
                class_table("abc"),
                name="bench",
                source="drawn",
                shard_bytes=shard_bytes,
            )
            table[way] = {"write_dataset": time.monotonic() - began, "read all, CPU": time_reading(dataset)}
            if not options.skip_push:
                added, pushed = time_add_and_push(Path(scratch) / f"pushed-{way}", target, endpoint)
                table[way] |= {"dvc add": added, "dvc push": pushed, "add and push": added + pushed}
            repro, cpu = time_repro(Path(scratch) / f"repro-{way}", target)
            table[way] |= {"dvc repro, no change": repro, "dvc repro, CPU": cpu}
            print(f"{way}: {dataset.shards} shards, digest {dataset.digest[:19]}", flush=True)
    for step, files in table["files"].items():
        shards = table["shards"][step]
        print(f"{step:22} files {files:7.2f} s   shards {shards:7.2f} s   ratio {files / shards:5.1f}")


if __name__ == "__main__":
    main()
