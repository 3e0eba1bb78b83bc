"""Object storage, entered with the attacker's key."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import boto3
import urllib3
from botocore.config import Config
from botocore.exceptions import ClientError

from local import credentials
from local.attack.attempt import Attack, Refused, Target
from local.attack.tenants import Tenant
from local.servers import object_storage

_FOLDER = "attack/"
_CANARY = f"{_FOLDER}canary"
_UPLOAD = f"{_FOLDER}upload"
_HTTP = urllib3.PoolManager(retries=False)


@dataclass(frozen=True)
class Session:
    """A key."""

    s3: Any
    """A client that signs with it."""

    def call(self, operation: str, **parameters: Any) -> Any:
        """One operation of S3; Refused where the server denies access."""
        try:
            return getattr(self.s3, operation)(**parameters)
        except ClientError as error:
            # The answer to HEAD has no body, hence no code but the status.
            if error.response["Error"]["Code"] in ("AccessDenied", "403"):
                raise Refused(error.response["Error"]["Message"]) from None
            raise

    def presigned(self, operation: str, bucket: str, key: str) -> str:
        """An address that carries this key's signature."""
        url: str = self.s3.generate_presigned_url(operation, {"Bucket": bucket, "Key": key}, ExpiresIn=60)
        return url


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A tenant's part of the bucket and what is planted there, or a bucket of the platform's."""

    bucket: str
    prefix: str = ""
    version: str = ""
    """The first of two that the canary has."""
    upload: str = ""
    """An unfinished upload, with one part."""
    part: str = ""
    spare_upload: str = ""
    """Another one, which may be aborted."""

    @property
    def canary(self) -> str:
        """The planted object's key."""
        return f"{self.prefix}{_CANARY}"

    @property
    def new(self) -> str:
        """A key that nothing stands under."""
        return f"{self.prefix}{_CANARY}-new"


_Run = Callable[[Session, _Place, _Place], object]


@dataclass(frozen=True, kw_only=True)
class _Operation:
    """An attack by S3's operations, on a tenant's place or on the platform's."""

    name: str
    tried: str
    run: _Run
    by_owner: bool = True
    on_platform: bool = False

    def attack(self, places: Mapping[Tenant, _Place]) -> Attack[Session]:
        """Make an attack of it."""
        return Attack(
            name=self.name,
            tried=self.tried,
            run=lambda session, own, victim: self.run(session, places[own], places[victim]),
            by_owner=self.by_owner,
            on_platform=self.on_platform,
        )


def _on_object(name: str, operation: str, *, by_owner: bool = True, **parameters: Any) -> _Operation:
    """One operation on the victim's canary."""

    def run(session: Session, _own: _Place, victim: _Place) -> object:
        return session.call(operation, Bucket=victim.bucket, Key=victim.canary, **parameters)

    return _Operation(name=name, tried=f"{operation} VICTIM/{_CANARY}", run=run, by_owner=by_owner)


def _on_listing(name: str, operation: str) -> _Operation:
    """A listing of what is below the victim's prefix."""

    def run(session: Session, _own: _Place, victim: _Place) -> object:
        return session.call(operation, Bucket=victim.bucket, Prefix=victim.prefix)

    return _Operation(name=name, tried=f"{operation} VICTIM/", run=run)


def _on_tenant(name: str, tried: str, run: _Run, *, by_owner: bool = True) -> _Operation:
    return _Operation(name=name, tried=tried, run=run, by_owner=by_owner)


def _on_bucket(name: str, operation: str, bucket: str, **parameters: Any) -> Attack[Session]:
    """One operation on a bucket; in its name, {} is the attacker's id."""
    return Attack(
        name=name,
        tried=f"{operation} {bucket}",
        run=lambda session, own, _victim: session.call(operation, Bucket=bucket.format(own.id), **parameters),
        on_platform=True,
    )


def _fetch(method: str, url: str, **options: Any) -> None:
    """An HTTP request; Refused where the server denies access."""
    answer = _HTTP.request(method, url, timeout=30, **options)
    if answer.status == HTTPStatus.FORBIDDEN and b"<Code>AccessDenied</Code>" in answer.data:
        raise Refused("Access Denied")
    if answer.status >= HTTPStatus.BAD_REQUEST:
        raise RuntimeError(f"{answer.status} {answer.data.decode()}")


def _get_unsigned(session: Session, own: _Place, victim: _Place) -> None:
    """Get an object by its bare address; its owner adds its signature."""
    signed = session.presigned("get_object", victim.bucket, victim.canary)
    _fetch("GET", signed if own == victim else signed.partition("?")[0])


def _post_form(session: Session, _own: _Place, victim: _Place) -> None:
    """Upload as a browser does, with a form that is signed beforehand."""
    form = session.s3.generate_presigned_post(victim.bucket, victim.new, ExpiresIn=60)
    _fetch("POST", form["url"], fields={**form["fields"], "file": ("attack", b"attack")})


def _delete_many(session: Session, _own: _Place, victim: _Place) -> None:
    """Delete by a list in the request's body; a refusal stands in the answer's."""
    answer = session.call("delete_objects", Bucket=victim.bucket, Delete={"Objects": [{"Key": victim.new}]})
    for error in answer.get("Errors", []):
        if error["Code"] == "AccessDenied":
            raise Refused(error["Message"])
        raise RuntimeError(str(error))


def _copy_part(session: Session, own: _Place, victim: _Place) -> None:
    """Copy the victim's object into an upload of one's own."""
    session.call(
        "upload_part_copy",
        Bucket=own.bucket,
        Key=f"{own.prefix}{_UPLOAD}",
        UploadId=own.upload,
        PartNumber=2,
        CopySource={"Bucket": victim.bucket, "Key": victim.canary},
    )


def _complete(session: Session, _own: _Place, victim: _Place) -> None:
    """Finish the victim's upload."""
    session.call(
        "complete_multipart_upload",
        Bucket=victim.bucket,
        Key=f"{victim.prefix}{_UPLOAD}",
        UploadId=victim.upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": victim.part}]},
    )


def _put_policy(session: Session, own: Tenant, _victim: Tenant) -> None:
    bucket = _SPARE.format(own.id)
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{bucket}/*",
    }
    policy = {"Version": "2012-10-17", "Statement": [statement]}
    session.call("put_bucket_policy", Bucket=bucket, Policy=json.dumps(policy))


def _list_buckets(session: Session, _own: Tenant, _victim: Tenant) -> None:
    if not session.call("list_buckets")["Buckets"]:
        raise Refused("nothing is shown")


_OPERATIONS = (
    # Reading
    _on_object("get an object", "get_object"),
    _on_object("get an object's head", "head_object"),
    _on_object(
        "get an object's attributes",
        "get_object_attributes",
        by_owner=False,
        ObjectAttributes=["ObjectSize"],
    ),
    _on_object("get an object's tags", "get_object_tagging", by_owner=False),
    _on_object("get an object's access list", "get_object_acl", by_owner=False),
    _on_tenant(
        "get an old version",
        f"get_object VICTIM/{_CANARY} of a version",
        lambda key, _own, victim: key.call(
            "get_object", Bucket=victim.bucket, Key=victim.canary, VersionId=victim.version
        ),
    ),
    _on_tenant("get an object unsigned", f"GET VICTIM/{_CANARY}", _get_unsigned),
    _on_tenant(
        "get an object by an address signed with one's own key",
        f"GET VICTIM/{_CANARY}?X-Amz-Signature=…",
        lambda key, _own, victim: _fetch("GET", key.presigned("get_object", victim.bucket, victim.canary)),
    ),
    _on_tenant(
        "copy an object from the victim",
        f"copy_object VICTIM/{_CANARY} to OWN/{_CANARY}-new",
        lambda key, own, victim: key.call(
            "copy_object",
            Bucket=own.bucket,
            Key=own.new,
            CopySource={"Bucket": victim.bucket, "Key": victim.canary},
        ),
    ),
    _on_tenant(
        "copy a part from the victim", f"upload_part_copy VICTIM/{_CANARY} to OWN/{_UPLOAD}", _copy_part
    ),
    _on_listing("list objects", "list_objects_v2"),
    _on_listing("list objects in the old way", "list_objects"),
    _on_listing("list versions", "list_object_versions"),
    _on_listing("list uploads", "list_multipart_uploads"),
    # Writing
    _on_object("overwrite an object", "put_object", Body=b"attack"),
    _on_object("set an object's tags", "put_object_tagging", by_owner=False, Tagging={"TagSet": []}),
    _on_object("delete an object's tags", "delete_object_tagging", by_owner=False),
    _on_object("set an object's access list", "put_object_acl", by_owner=False, ACL="private"),
    _on_tenant(
        "put a new object",
        f"put_object VICTIM/{_CANARY}-new",
        lambda key, _own, victim: key.call(
            "put_object", Bucket=victim.bucket, Key=victim.new, Body=b"attack"
        ),
    ),
    _on_tenant(
        "put an object by an address signed with one's own key",
        f"PUT VICTIM/{_CANARY}-new?X-Amz-Signature=…",
        lambda key, _own, victim: _fetch(
            "PUT", key.presigned("put_object", victim.bucket, victim.new), body=b"attack"
        ),
    ),
    _on_tenant("put an object by a form", f"POST VICTIM/{_CANARY}-new", _post_form, by_owner=False),
    _on_tenant(
        "copy an object to the victim",
        f"copy_object OWN/{_CANARY} to VICTIM/{_CANARY}-new",
        lambda key, own, victim: key.call(
            "copy_object",
            Bucket=victim.bucket,
            Key=victim.new,
            CopySource={"Bucket": own.bucket, "Key": own.canary},
        ),
    ),
    _on_tenant(
        "begin an upload",
        f"create_multipart_upload VICTIM/{_CANARY}-new",
        lambda key, _own, victim: key.call("create_multipart_upload", Bucket=victim.bucket, Key=victim.new),
    ),
    _on_tenant(
        "list an upload's parts",
        f"list_parts VICTIM/{_UPLOAD}",
        lambda key, _own, victim: key.call(
            "list_parts", Bucket=victim.bucket, Key=f"{victim.prefix}{_UPLOAD}", UploadId=victim.upload
        ),
    ),
    _on_tenant(
        "add a part to the victim's upload",
        f"upload_part VICTIM/{_UPLOAD}",
        lambda key, _own, victim: key.call(
            "upload_part",
            Bucket=victim.bucket,
            Key=f"{victim.prefix}{_UPLOAD}",
            UploadId=victim.upload,
            PartNumber=3,
            Body=b"attack",
        ),
    ),
    _on_tenant("complete the victim's upload", f"complete_multipart_upload VICTIM/{_UPLOAD}", _complete),
    _on_tenant(
        "abort the victim's upload",
        f"abort_multipart_upload VICTIM/{_UPLOAD}",
        lambda key, _own, victim: key.call(
            "abort_multipart_upload",
            Bucket=victim.bucket,
            Key=f"{victim.prefix}{_UPLOAD}",
            UploadId=victim.spare_upload,
        ),
    ),
    # Deleting, last: the canary goes.
    _on_tenant("delete many objects", f"delete_objects VICTIM/{_CANARY}-new", _delete_many),
    _on_object("delete an object", "delete_object"),
    _on_tenant(
        "delete an old version",
        f"delete_object VICTIM/{_CANARY} of a version",
        lambda key, _own, victim: key.call(
            "delete_object", Bucket=victim.bucket, Key=victim.canary, VersionId=victim.version
        ),
    ),
)


_SPARE = "attack-{}"
"""A bucket for each attacker, named by its id, that may be spoilt."""

_VERSIONED = {"Status": "Enabled"}
_EXPIRING = {
    "Rules": [{"ID": "attack", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}]
}
_SHARED = {"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}]}

_ON_ARTIFACTS: Sequence[tuple[str, str, Mapping[str, Any]]] = (
    ("list all tenants' objects", "list_objects_v2", {}),
    ("list all tenants", "list_objects_v2", {"Prefix": "tenant_", "Delimiter": "/"}),
    ("list all tenants' versions", "list_object_versions", {}),
    ("list all tenants' uploads", "list_multipart_uploads", {}),
    ("see whether a bucket exists", "head_bucket", {}),
    ("get where a bucket is", "get_bucket_location", {}),
    ("get a bucket's access list", "get_bucket_acl", {}),
    ("get a bucket's versioning", "get_bucket_versioning", {}),
    # To what they are anyway.
    ("set a bucket's access list", "put_bucket_acl", {"ACL": "private"}),
    ("set a bucket's versioning", "put_bucket_versioning", {"VersioningConfiguration": _VERSIONED}),
)
_ON_SPARE: Sequence[tuple[str, str, Mapping[str, Any]]] = (
    ("get a bucket's policy", "get_bucket_policy", {}),
    ("delete a bucket's policy", "delete_bucket_policy", {}),
    ("let objects expire", "put_bucket_lifecycle_configuration", {"LifecycleConfiguration": _EXPIRING}),
    ("open a bucket to web pages", "put_bucket_cors", {"CORSConfiguration": _SHARED}),
    ("delete a bucket", "delete_bucket", {}),
    ("create a bucket", "create_bucket", {}),
)


def _on_platform(artifacts: str, others: Sequence[str]) -> Iterator[Attack[Session]]:
    """What concerns whole buckets: the tenants', the platform's other ones, and one that may be spoilt."""
    yield Attack(name="list buckets", tried="list_buckets", run=_list_buckets, on_platform=True)
    for name, operation, parameters in _ON_ARTIFACTS:
        yield _on_bucket(name, operation, artifacts, **parameters)
    for bucket in others:
        yield _on_bucket("list another bucket", "list_objects_v2", bucket)
        yield _on_bucket("get from another bucket", "get_object", bucket, Key=_CANARY)
        yield _on_bucket("put into another bucket", "put_object", bucket, Key=_CANARY, Body=b"attack")
        yield _on_bucket("delete from another bucket", "delete_object", bucket, Key=_CANARY)
    yield Attack(
        name="put a bucket's policy", tried=f"put_bucket_policy {_SPARE}", run=_put_policy, on_platform=True
    )
    for name, operation, parameters in _ON_SPARE:
        yield _on_bucket(name, operation, _SPARE, **parameters)


@contextmanager
def entered(tenants: Sequence[Tenant]) -> Iterator[Target[Session]]:
    """Plant canaries below every prefix and in every bucket, have each tenant's key attack, remove it all."""
    boto = boto3.Session()
    owner = client(boto, credentials.secret("exoscale-api-key"), credentials.secret("exoscale-api-secret"))
    artifacts = tenants[0].key["bucket"]
    spares = [_SPARE.format(tenant.id) for tenant in tenants]
    names = [each["Name"] for each in owner.list_buckets()["Buckets"]]
    others = [name for name in names if name not in (artifacts, *spares)]
    sessions = {
        tenant: Session(client(boto, tenant.key["access_key"], tenant.key["secret_key"]))
        for tenant in tenants
    }
    with ExitStack() as stack:
        for bucket in others:
            stack.callback(_purge, owner, bucket, _FOLDER)
            owner.put_object(Bucket=bucket, Key=_CANARY, Body=b"canary")
        for bucket in spares:
            if bucket not in names:
                owner.create_bucket(Bucket=bucket)
            stack.callback(owner.delete_bucket, Bucket=bucket)
        places = {}
        for tenant, session in sessions.items():
            stack.callback(_purge, owner, artifacts, f"{tenant.prefix}{_FOLDER}")
            places[tenant] = _planted(session.s3, artifacts, tenant.prefix)
        yield Target(
            server="Object storage",
            sessions=sessions,
            victims=tenants,
            administrator=Session(owner),
            attacks=[
                *(operation.attack(places) for operation in _OPERATIONS),
                *_on_platform(artifacts, others),
            ],
        )


def client(boto: boto3.Session, access_key: str, secret_key: str) -> Any:
    """Return what uses the server with a key."""
    return boto.client(
        "s3",
        endpoint_url=object_storage.url(),
        region_name=object_storage.REGION,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        config=Config(
            s3={"addressing_style": "path"},
            signature_version="s3v4",
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # Of a refusal there is no second one: it may close a connection when it is busy.
            retries={"total_max_attempts": 3},
        ),
    )


def _planted(s3: Any, bucket: str, prefix: str) -> _Place:
    """Two versions of the canary, an unfinished upload, and another one to spare."""
    version = s3.put_object(Bucket=bucket, Key=f"{prefix}{_CANARY}", Body=b"canary")["VersionId"]
    s3.put_object(Bucket=bucket, Key=f"{prefix}{_CANARY}", Body=b"canary")
    upload, spare = (
        s3.create_multipart_upload(Bucket=bucket, Key=f"{prefix}{_UPLOAD}")["UploadId"] for _ in range(2)
    )
    part = s3.upload_part(
        Bucket=bucket, Key=f"{prefix}{_UPLOAD}", UploadId=upload, PartNumber=1, Body=b"canary"
    )
    return _Place(
        bucket=bucket, prefix=prefix, version=version, upload=upload, part=part["ETag"], spare_upload=spare
    )


def _purge(s3: Any, bucket: str, prefix: str) -> None:
    """Delete all below a prefix: unfinished uploads, versions, delete markers."""
    for upload in s3.list_multipart_uploads(Bucket=bucket, Prefix=prefix).get("Uploads", []):
        s3.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    listed = s3.list_object_versions(Bucket=bucket, Prefix=prefix)
    for found in (*listed.get("Versions", []), *listed.get("DeleteMarkers", [])):
        s3.delete_object(Bucket=bucket, Key=found["Key"], VersionId=found["VersionId"])
