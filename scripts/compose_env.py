"""Generate infra/compose/.env and secrets/ once, closed to others: passwords, the group of Docker's socket.

Services run as other users than this one, so files of secrets get the permissions that Docker's mounts need.
"""

from __future__ import annotations

import argparse
import base64
import json
import secrets
import subprocess
import sys
from pathlib import Path

DOCKER_SOCKET = Path("/var/run/docker.sock")
FOLDER = Path(__file__).resolve().parents[1] / "infra" / "compose"
NAMES = (
    "POSTGRES_PASSWORD",
    "MLFLOW_DATABASE_PASSWORD",
    "AIRFLOW_DATABASE_PASSWORD",
    "MLFLOW_PASSWORD",
    "MLFLOW_SECRET_KEY",
    "AIRFLOW_PASSWORD",
    "AIRFLOW_API_SECRET",
    "AIRFLOW_JWT_SECRET",
    "S3_KEY",
    "S3_SECRET",
    "RAY_TOKEN",
)


def generate(folder: Path, commit: str) -> bool:
    """Write what is not there yet; returns whether anything was written."""
    env = folder / ".env"
    if env.exists():
        return False
    values = {name: secrets.token_hex(24) for name in NAMES}
    values["AIRFLOW_FERNET_KEY"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    values["GIT_COMMIT"] = commit
    if DOCKER_SOCKET.exists():
        values["DOCKER_GROUP"] = str(DOCKER_SOCKET.stat().st_gid)
    files = folder / "secrets"
    files.mkdir(mode=0o700, exist_ok=True)
    for name, text in secret_files(values).items():
        (files / name).write_text(text, encoding="utf-8")
        (files / name).chmod(0o644)  # the folder is closed; in the container the service's user must read it
    env.touch(mode=0o600)
    env.write_text("".join(f"{name}={value}\n" for name, value in values.items()), encoding="utf-8")
    return True


def secret_files(values: dict[str, str]) -> dict[str, str]:
    """Return the files that services read their users from."""
    database = f"postgresql+psycopg2://mlflow:{values['MLFLOW_DATABASE_PASSWORD']}@postgres/mlflow_users"
    auth = {
        "default_permission": "READ",
        "database_uri": database,
        "admin_username": "admin",
        "admin_password": values["MLFLOW_PASSWORD"],
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        "auth_cache_ttl_seconds": "60",  # else each of a stage's many calls waits for a slow hash
    }
    user = {
        "name": "pipeline",
        "credentials": [{"accessKey": values["S3_KEY"], "secretKey": values["S3_SECRET"]}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    return {
        "basic_auth.ini": "[mlflow]\n" + "".join(f"{key} = {value}\n" for key, value in auth.items()),
        "airflow_passwords.json": json.dumps({"admin": values["AIRFLOW_PASSWORD"]}),
        "s3.json": json.dumps({"identities": [user]}),
    }


def main() -> int:
    """Generate, and say where the passwords are."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=FOLDER, capture_output=True, text=True, check=False
    )
    made = generate(FOLDER, found.stdout.strip() or "unknown")
    print(f"{FOLDER / '.env'} " + ("holds new passwords" if made else "is there already; kept"))
    print("users: admin of MLflow (MLFLOW_PASSWORD) and of Airflow (AIRFLOW_PASSWORD)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
