"""A server that speaks S3, on this machine alone."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlcrf.stores.drivers import system


@dataclass(frozen=True)
class S3Bucket:
    """A bucket, and the variables by which it is found."""

    url: str
    variables: dict[str, str]
    client: Any

    def upload(self, folder: Path, *, limit: int | None = None) -> str:
        """The first files of a folder, to one of the same name; its URL."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        for path in files[:limit]:
            key = f"{folder.name}/{path.relative_to(folder).as_posix()}"
            self.client.put_object(Bucket="photos", Key=key, Body=path.read_bytes())
        return f"{self.url}/{folder.name}"

    def read(self, key: str) -> bytes:
        """What is in a file."""
        content: bytes = self.client.get_object(Bucket="photos", Key=key)["Body"].read()
        return content

    def keys(self) -> list[str]:
        """All files."""
        found = self.client.list_objects_v2(Bucket="photos").get("Contents", ())
        return [one["Key"] for one in found]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Bucket]:
    """An empty one, on a server of its own."""
    pytest.importorskip("s3fs", reason="needs mlcrf[s3]")
    boto3 = pytest.importorskip("boto3", reason="needs moto")
    server = pytest.importorskip("moto.server", reason="needs moto").ThreadedMotoServer(
        ip_address="127.0.0.1", port=0, verbose=False
    )
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    system.cache_clear()
    client = boto3.client("s3")
    client.create_bucket(Bucket="photos")
    yield S3Bucket("s3://photos", variables, client)
    httpx.post(f"http://{host}:{port}/moto-api/reset")  # else the next one has what this one had
    server.stop()
    system.cache_clear()
