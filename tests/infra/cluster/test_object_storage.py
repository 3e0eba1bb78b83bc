"""The bucket's provider against a real S3 server, and how it travels to the process that runs it."""

import base64
import json
import os
import pickle
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pulumi.dynamic.dynamic import serialize_provider

from infra.cluster.object_storage import BucketProvider, s3_client
from tests.infra.recording import ROOT

KEY = {"EXOSCALE_API_KEY": "EXOtest", "EXOSCALE_API_SECRET": "s3cret"}


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """SeaweedFS with two accounts: ours, which may do everything, and one that may do nothing."""
    folder = tmp_path_factory.mktemp("s3")
    identities = [
        ("owner", KEY["EXOSCALE_API_KEY"], KEY["EXOSCALE_API_SECRET"], ["Admin"]),
        ("reader", "EXOreader", "reader", ["Read:nothing"]),
    ]
    config = {
        "identities": [
            {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
            for name, key, secret, actions in identities
        ]
    }
    (folder / "identities.json").write_text(json.dumps(config))
    (folder / "data").mkdir()
    parts = [f"-{part}.port{kind}" for part in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]
    ports = dict(zip(parts, free_ports(len(parts)), strict=True))
    server = subprocess.Popen(
        [
            str(Path(sysconfig.get_path("scripts")) / "weed"),
            *("server", "-filer", "-s3", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            *(f"{flag}={port}" for flag, port in ports.items()),
            *("-volume.max=0", "-master.volumeSizeLimitMB=64", "-master.electionTimeout=200ms"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"),
            f"-s3.config={folder / 'identities.json'}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{ports['-s3.port']}"
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in KEY.items():
                patch.setenv(name, value)
            _wait_for(url)
        yield url
    finally:
        server.kill()
        server.wait()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            s3_client(url, "ch-gva-2").list_buckets()
            return
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEY.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def props(endpoint: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    name = request.node.name.replace("_", "-")[:60].strip("-")
    return {"name": name, "region": "ch-gva-2", "endpoint": endpoint, "versioned": True}


def test_a_bucket_is_made_private_and_versioned(props: dict[str, Any]) -> None:
    created = BucketProvider().create(props)
    assert created.id == props["name"]
    assert created.outs == props
    client = s3_client(props["endpoint"], "ch-gva-2")
    assert client.get_bucket_versioning(Bucket=created.id)["Status"] == "Enabled"
    grants = client.get_bucket_acl(Bucket=created.id)["Grants"]
    assert not [grant for grant in grants if "AllUsers" in grant["Grantee"].get("URI", "")]


def test_a_bucket_that_is_ours_already_is_adopted(props: dict[str, Any]) -> None:
    s3_client(props["endpoint"], "ch-gva-2").create_bucket(Bucket=props["name"])
    assert BucketProvider().create(props).outs == props
    assert BucketProvider().create(props).id == props["name"]


def test_drift_is_seen_and_mended(props: dict[str, Any]) -> None:
    provider = BucketProvider()
    provider.create(props)
    s3_client(props["endpoint"], "ch-gva-2").put_bucket_versioning(
        Bucket=props["name"], VersioningConfiguration={"Status": "Suspended"}
    )
    seen = provider.read(props["name"], props).outs
    assert seen == {**props, "versioned": False}
    assert provider.diff(props["name"], seen, props).changes
    provider.update(props["name"], seen, props)
    assert provider.read(props["name"], props).outs == props


def test_a_bucket_that_is_gone_is_read_as_gone(props: dict[str, Any]) -> None:
    provider = BucketProvider()
    assert provider.read(props["name"], props).id == ""
    provider.delete(props["name"], props)


def test_a_bucket_that_holds_something_is_kept(props: dict[str, Any]) -> None:
    provider = BucketProvider()
    provider.create(props)
    client = s3_client(props["endpoint"], "ch-gva-2")
    version = client.put_object(Bucket=props["name"], Key="kept", Body=b"x")["VersionId"]
    with pytest.raises(RuntimeError, match=r"could not be deleted: it holds objects or old versions"):
        provider.delete(props["name"], props)
    client.delete_object(Bucket=props["name"], Key="kept")
    with pytest.raises(RuntimeError, match=r"could not be deleted: it holds objects or old versions"):
        provider.delete(props["name"], props)
    for marker in client.list_object_versions(Bucket=props["name"]).get("DeleteMarkers", []):
        client.delete_object(Bucket=props["name"], Key="kept", VersionId=marker["VersionId"])
    client.delete_object(Bucket=props["name"], Key="kept", VersionId=version)
    provider.delete(props["name"], props)
    assert provider.read(props["name"], props).id == ""


@pytest.mark.parametrize(
    ("key", "secret", "reason"),
    [
        ("EXOreader", "reader", "the Exoscale key may not do that"),
        ("EXOnobody", "nothing", "the Exoscale key is unknown"),
        ("EXOtest", "not-the-secret", "the Exoscale secret is wrong"),
    ],
)
def test_a_key_that_does_not_fit_is_explained(
    props: dict[str, Any], monkeypatch: pytest.MonkeyPatch, key: str, secret: str, reason: str
) -> None:
    monkeypatch.setenv("EXOSCALE_API_KEY", key)
    monkeypatch.setenv("EXOSCALE_API_SECRET", secret)
    with pytest.raises(RuntimeError, match=reason) as error:
        BucketProvider().create({**props, "name": "somebody-elses"})
    assert "\n" not in str(error.value)
    assert secret not in str(error.value)


def test_a_key_that_is_missing_is_named(props: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXOSCALE_API_SECRET")
    with pytest.raises(RuntimeError, match="EXOSCALE_API_SECRET: not set"):
        BucketProvider().create(props)


@pytest.mark.parametrize(
    ("changed", "replaces"),
    [
        ({}, []),
        ({"name": "another"}, ["name"]),
        ({"region": "ch-dk-2"}, ["region"]),
        ({"endpoint": "https://elsewhere"}, []),
        ({"versioned": False}, []),
    ],
)
def test_only_name_and_zone_replace_a_bucket(changed: dict[str, Any], replaces: list[str]) -> None:
    old = {"name": "a", "region": "ch-gva-2", "endpoint": "https://sos", "versioned": True}
    result = BucketProvider().diff("a", old, {**old, **changed})
    assert result.changes == bool(changed)
    assert result.replaces == replaces


def test_what_enters_the_state_is_a_name_and_the_same_every_time() -> None:
    serialized = serialize_provider(BucketProvider())
    assert serialized == serialize_provider(BucketProvider())
    assert len(serialized) < 200
    assert isinstance(pickle.loads(base64.b64decode(serialized)), BucketProvider)


def test_the_host_of_dynamic_resources_finds_the_provider_from_the_projects_root() -> None:
    serialized = serialize_provider(BucketProvider())
    program = (
        "import base64, pickle; print(type(pickle.loads(base64.b64decode(input()))).__name__);"
        "import platform; print(platform.python_version())"
    )
    # As `python -m pulumi.dynamic` does: the working directory, and nothing else, is on the path.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=serialized,
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
        check=True,
    )
    name, version = done.stdout.split()
    assert name == "BucketProvider"
    assert version.startswith("3.")
