"""A real MLflow and a real S3 server for tests in environments that have neither: they run in .venv.

``python -m tests.servers`` starts both, prints the variables that lead stages to them as a line of JSON, and
ends them when its stdin is closed.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.s3_server import BUCKET, KEY, SECRET, s3_server

REPO = Path(__file__).resolve().parents[1]


@contextmanager
def servers() -> Iterator[dict[str, str]]:
    """Run both; yields the variables of a stage's environment."""
    command = [str(REPO / ".venv/bin/python"), "-m", "tests.servers"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=REPO) as process:
        assert process.stdin and process.stdout
        try:
            said = process.stdout.readline()
            assert said, f"{' '.join(command)} did not start; see above"
            yield json.loads(said)
        finally:
            process.stdin.close()


def objects(variables: dict[str, str], prefix: str) -> dict[str, str]:
    """Return the ETag of every object below a prefix of the bucket, by its key without that."""
    program = (
        "import boto3, json\n"
        "pages = boto3.client('s3').get_paginator('list_objects_v2')"
        f".paginate(Bucket={BUCKET!r}, Prefix={prefix!r})\n"
        "print(json.dumps({one['Key']: one['ETag'] for page in pages for one in page.get('Contents', ())}))"
    )
    command = [str(REPO / ".venv/bin/python"), "-c", program]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True, timeout=60)
    return {key.removeprefix(prefix): tag for key, tag in json.loads(done.stdout).items()}


def main() -> None:
    """Run the servers until nobody holds the other end of stdin, or this process is asked to end."""
    from tests.integration.mlflow_server import free_port, start_server, stop_server

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory() as folder, s3_server(Path(folder, "s3")) as s3:
        port = free_port()
        mlflow = start_server(Path(folder), port)
        try:
            variables = {
                "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}",
                "AWS_ENDPOINT_URL": s3.endpoint,
                "AWS_ACCESS_KEY_ID": KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "AWS_REGION": "us-east-1",
            }
            sys.stdout.write(json.dumps(variables) + "\n")
            sys.stdout.flush()
            sys.stdin.read()
        finally:
            stop_server(mlflow)


if __name__ == "__main__":
    main()
