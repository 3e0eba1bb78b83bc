"""Emulator and S3 server as they run: a key's limits hold, through `kill -9` too; the official names work."""

import os
import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest
import requests
from botocore.config import Config
from botocore.exceptions import ClientError
from exoscale.api.exceptions import ExoscaleAPIAuthException  # type: ignore[import-untyped]
from exoscale.api.v2 import Client  # type: ignore[import-untyped]
from rich.console import Console

from local import ports, supervisor
from local.servers import certificates, exoscale, object_storage
from local.supervisor import NotReady
from tests.local.exoscale.conftest import confined, done, rules

BUCKET, OWN, OTHER = "artifacts", "tenant_acme/", "tenant_bolt/"


@pytest.fixture(scope="module", autouse=True)
def _servers(console: Console) -> Iterator[None]:
    services = [*object_storage.services(), *exoscale.services()]
    for module in (object_storage, exoscale):
        module.prepare()
    for service in services:
        supervisor.start(service, console)
    yield
    for service in reversed(services):
        supervisor.stop(service.name)


def s3(key: str, secret: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=object_storage.url(),
        region_name=object_storage.REGION,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(retries={"mode": "standard"}),
    )


@pytest.fixture(scope="module")
def owner() -> Any:
    storage = s3(*exoscale.owner())
    storage.create_bucket(Bucket=BUCKET)
    storage.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    storage.put_object(Bucket=BUCKET, Key=f"{OTHER}secret", Body=b"another's")
    return storage


def api() -> Client:
    return Client(*exoscale.owner(), url=exoscale.environment()["EXOSCALE_API_ENDPOINT"])


def refused(call: Any, **arguments: Any) -> None:
    with pytest.raises(ClientError) as error:
        call(Bucket=BUCKET, **arguments)
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def is_refused(attempt: Callable[[], Any]) -> bool:
    try:
        attempt()
    except ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 403, error
        return True
    return False


def port_is_free() -> None:
    if not ports.is_free(exoscale.port()):
        raise NotReady("still held")


def check_limits(tenant: Any) -> None:
    tenant.put_object(Bucket=BUCKET, Key=f"{OWN}uploads/a", Body=b"mine")
    assert tenant.get_object(Bucket=BUCKET, Key=f"{OWN}uploads/a")["Body"].read() == b"mine"
    assert [o["Key"] for o in tenant.list_objects_v2(Bucket=BUCKET, Prefix=OWN)["Contents"]] == [
        f"{OWN}uploads/a"
    ]
    upload = tenant.create_multipart_upload(Bucket=BUCKET, Key=f"{OWN}uploads/big")["UploadId"]
    tenant.abort_multipart_upload(Bucket=BUCKET, Key=f"{OWN}uploads/big", UploadId=upload)
    tenant.delete_object(Bucket=BUCKET, Key=f"{OWN}uploads/a")
    refused(tenant.get_object, Key=f"{OTHER}secret")
    refused(tenant.put_object, Key=f"{OTHER}mine", Body=b"")
    refused(tenant.delete_object, Key=f"{OTHER}secret")
    refused(tenant.copy_object, Key=f"{OWN}stolen", CopySource=f"{BUCKET}/{OTHER}secret")
    refused(tenant.list_objects_v2, Prefix=OTHER)
    refused(tenant.list_objects_v2)
    refused(tenant.list_object_versions)


def test_key_is_confined(owner: Any, console: Console) -> None:
    client = api()
    role = done(client, client.create_iam_role(name="tenant-acme", policy=confined(BUCKET, OWN)))
    key = client.create_api_key(name="tenant-acme", role_id=role)
    tenant = s3(key["key"], key["secret"])
    check_limits(tenant)
    usage = client.list_sos_buckets_usage()["sos-buckets-usage"]
    assert [(bucket["name"], bucket["size"]) for bucket in usage] == [(BUCKET, len(b"another's"))]

    pid = supervisor.status(exoscale.services()[0]).pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    supervisor.wait_until(port_is_free, timeout=10, what="the end of the emulator")
    supervisor.start(exoscale.services()[0], console)
    client = api()
    assert client.get_iam_role(id=role)["name"] == "tenant-acme"
    with pytest.raises(ExoscaleAPIAuthException, match="not allowed"):
        Client(
            key["key"], key["secret"], url=exoscale.environment()["EXOSCALE_API_ENDPOINT"]
        ).list_iam_roles()
    check_limits(tenant)

    done(client, client.delete_api_key(id=key["key"]))
    refused(tenant.get_object, Key=f"{OWN}uploads/a")
    done(client, client.delete_iam_role(id=role))


def test_narrower_keys_do_one_thing_each(owner: Any) -> None:
    """A role's policy, as the API takes it, is what the S3 server does; another policy counts at once."""
    client = api()
    target = {"Bucket": BUCKET, "Key": "logs/x"}
    owner.put_object(**target, Body=b"logged")
    where = f"parameters.bucket == '{BUCKET}'"
    below = f"{where} && parameters.key.startsWith('logs/')"
    listing = f"operation == 'list-objects' && {where} && parameters.prefix.startsWith('logs/')"
    kinds = {
        "collector": [f"operation in ['put-object', 'create-multipart-upload'] && {below}"],
        "reader": [f"operation in ['get-object', 'head-object'] && {below}", listing],
        "retention": [f"operation == 'delete-object' && {below}", listing],
    }
    role = done(client, client.create_iam_role(name="narrow", policy=rules(listing)))
    key = client.create_api_key(name="narrow", role_id=role)
    holder = s3(key["key"], key["secret"])
    attempts: dict[str, Callable[[], Any]] = {
        "put": lambda: holder.put_object(**target, Body=b""),
        "begin": lambda: holder.create_multipart_upload(**target),
        "get": lambda: holder.get_object(**target),
        "head": lambda: holder.head_object(**target),
        "list": lambda: holder.list_objects_v2(Bucket=BUCKET, Prefix="logs/"),
        "delete": lambda: holder.delete_object(**target),
    }
    allowed = {}
    for kind, expressions in kinds.items():
        policy = rules(*expressions)
        done(
            client,
            client.update_iam_role_policy(
                id=role,
                default_service_strategy=policy["default-service-strategy"],
                services=policy["services"],
            ),
        )
        allowed[kind] = {name for name, attempt in attempts.items() if not is_refused(attempt)}
    assert allowed == {
        "collector": {"put", "begin"},
        "reader": {"get", "head", "list"},
        "retention": {"list", "delete"},
    }
    done(client, client.delete_api_key(id=key["key"]))
    done(client, client.delete_iam_role(id=role))


def test_official_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the proxy, with the platform's authority only."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in exoscale.proxy_environment().items():
        monkeypatch.setenv(name, value)
    client = Client(*exoscale.owner(), zone="ch-dk-2")
    client.http_client.verify = str(certificates.CA_FILE)
    network = done(client, client.create_private_network(name="main"))
    assert [n["id"] for n in client.list_private_networks()["private-networks"]] == [network]
    other = Client(*exoscale.owner(), zone="ch-gva-2")
    other.http_client.verify = str(certificates.CA_FILE)
    assert other.list_private_networks()["private-networks"] == []
    done(client, client.delete_private_network(id=network))
    for refused_url in ("https://example.com/", "https://api-xx-xxx-1.exoscale.com/v2/zone"):
        with pytest.raises(requests.exceptions.ProxyError, match="403"):
            requests.get(refused_url, timeout=5)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{exoscale.proxy_environment()['HTTPS_PROXY']}/v2/zone")
