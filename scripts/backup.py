"""Back up PostgreSQL and S3, which hold all that MLflow, its registry and Airflow know; and restore them.

    python scripts/backup.py backup FOLDER
    python scripts/backup.py restore FOLDER

Addresses come from the environment: PGHOST, PGPORT, PGUSER and PGPASSWORD of a superuser, AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. pg_dump, pg_restore, psql and pg_isready, no older than the
server, must be on the PATH.

What refers to something is read before it: Airflow's history, then MLflow's databases, then the bucket.
Artifacts are written before the rows that name them and never change, so a backup of a running system has
no row whose artifact is missing. A restore goes the other way, with MLflow and Airflow stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from components.bucket import Bucket, check_names, open_bucket
from components.s3_client import THREADS
from yolo_core.digest import FileRecord, record_of
from yolo_core.errors import DataError, UnreachableError, UsageError, YoloError

DATABASES = ("airflow", "mlflow_users", "mlflow")
MANIFEST = "backup.json"
OBJECTS = "objects"


def backup(folder: Path, databases: Iterable[str], uri: str) -> str:
    """Write everything to an empty folder, its manifest last; returns what was written, in words."""
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # hashes of passwords are in it
    names = list(databases)
    for name in names:  # whatever is wrong is said before anything takes long
        run_postgres("psql", "--quiet", "--command=select 1", name)
    bucket = open_bucket(uri)
    for name in names:
        say(f"database {name}")
        run_postgres("pg_dump", "--format=custom", f"--file={folder / dump_name(name)}", name)
    copy_objects(bucket, folder / OBJECTS)
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {path.relative_to(folder).as_posix(): record_of(path) for path in found}
    manifest = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "databases": names,
        "files": {name: asdict(record) for name, record in files.items()},
    }
    part = folder / f"{MANIFEST}.part"
    part.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    part.rename(folder / MANIFEST)
    size = sum(record.size for record in files.values())
    return f"{len(names)} databases and {len(files) - len(names)} objects, {size / 1e9:.2f} GB: {folder}"


def copy_objects(bucket: Bucket, folder: Path) -> None:
    """Copy a bucket to a folder, though stages go on.

    What is removed meanwhile, as they do with scratch files, is left out; what is replaced is fetched anew.
    """

    def fetch(key: str, tries: int = 3) -> None:
        try:
            bucket.fetch(key, folder / key)
        except UsageError:
            if bucket.objects(key):
                raise
        except DataError:
            if tries == 1:
                raise
            fetch(key, tries - 1)

    keys = list(bucket.objects())
    check_names(bucket.uri, keys)
    for key in keys:
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(THREADS) as pool:
        running = [pool.submit(fetch, key) for key in keys]
        try:
            for count, done in enumerate(as_completed(running), start=1):
                done.result()
                if count % 1000 == 0 or count == len(running):
                    say(f"{count} of {len(running)} objects")
        finally:
            pool.shutdown(cancel_futures=True)


def restore(folder: Path, uri: str) -> str:
    """Bring a backup into empty databases and an empty bucket; returns what was written, in words.

    Nothing is changed before the backup is known to be whole and every target to be empty.
    """
    databases, files = read_manifest(folder)
    say(f"checking {len(files)} files")
    wrong = [name for name, record in files.items() if not is_same(folder / name, record)]
    if wrong:
        raise DataError(f"{folder}: {len(wrong)} files are missing or damaged, such as {wrong[0]}")
    bucket = open_bucket(uri)
    if bucket.objects():
        raise UsageError(
            f"{bucket.uri} is not empty; restore into a new one, or empty it and make the databases anew"
        )
    owners = {name: owner_of_empty(name) for name in databases}
    start = f"{OBJECTS}/"
    objects = {name.removeprefix(start): one for name, one in files.items() if name.startswith(start)}
    say(f"{len(objects)} objects")
    bucket.upload(folder / OBJECTS, objects)
    arrived = {key: one.size for key, one in bucket.objects().items()}
    if arrived != {key: record.size for key, record in objects.items()}:
        raise UnreachableError(f"{bucket.uri} does not hold what was sent; see the server's log")
    for name in reversed(databases):
        say(f"database {name}")
        words = ("--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges")
        place = (f"--role={owners[name]}", f"--dbname={name}")
        run_postgres("pg_restore", *words, *place, str(folder / dump_name(name)))
    return f"{len(databases)} databases and {len(objects)} objects are restored"


def read_manifest(folder: Path) -> tuple[list[str], dict[str, FileRecord]]:
    """Return the databases of a backup, in the order that they were read, and the record of each file."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = {name: FileRecord(**one) for name, one in manifest["files"].items()}
        return list(manifest["databases"]), files
    except FileNotFoundError:
        raise UsageError(f"{folder} holds no {MANIFEST}: it is no backup, or one that did not end") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / MANIFEST} cannot be read ({error!r}); take another backup") from error


def owner_of_empty(database: str) -> str:
    """Return who owns a database, to whom its tables shall belong; refuses one that holds tables."""
    tables = "select count(*) from pg_tables where schemaname not in ('pg_catalog', 'information_schema')"
    owner = "select pg_get_userbyid(datdba) from pg_database where datname = current_database()"
    query = f"--command=select ({tables}), ({owner})"
    count, _, name = (
        run_postgres("psql", "--tuples-only", "--no-align", query, database).strip().partition("|")
    )
    if count != "0":
        raise UsageError(f"the database {database} is not empty; stop MLflow and Airflow and make it anew")
    return name


def run_postgres(program: str, *words: str) -> str:
    """Run a client of PostgreSQL; address and password are in the environment. Returns its output."""
    if shutil.which(program) is None:
        raise UsageError(f"{program} is not on the PATH; install PostgreSQL's client")
    place = f"PostgreSQL at {os.environ.get('PGHOST', 'this machine')}"
    if subprocess.run(["pg_isready", "--quiet"], check=False).returncode:
        raise UnreachableError(f"{place} does not answer; see PGHOST and PGPORT")
    done = subprocess.run([program, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"{place}: {' '.join(done.stderr.split())[-300:]}")
    return done.stdout


def is_same(path: Path, record: FileRecord) -> bool:
    """Whether a file is there as it was recorded."""
    return path.is_file() and record_of(path) == record


def dump_name(database: str) -> str:
    """Return the file's name of a database."""
    return f"{database}.dump"


def say(line: str) -> None:
    """Tell how far it is."""
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Run the command line; returns 0, or the exit code of the error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("backup", "restore"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bucket", default="s3://yolo-mlops", metavar="URI", help="default: s3://yolo-mlops")
    parser.add_argument(
        "--databases", nargs="+", default=DATABASES, metavar="NAME", help="to back up, in this order"
    )
    options = parser.parse_args()
    try:
        if options.command == "backup":
            print(backup(options.folder, options.databases, options.bucket))
        else:
            print(restore(options.folder, options.bucket))
    except YoloError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {error.filename or options.folder}: {error.strerror}", file=sys.stderr)
        return UsageError.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
