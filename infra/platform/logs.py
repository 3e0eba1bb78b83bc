"""The logs: what every container and every machine's console says, archived in the logs bucket.

A collector of OpenTelemetry on each node reads what the kubelet writes to `/var/log/pods` and puts it, as
gzipped OTLP/JSON, below a prefix that the namespace decides: `tenant_ID/DAY/` for a tenant's,
`platform/NAMESPACE/DAY/` for all others. What a machine says on its console is the log of the container
`guest-console-log` beside it (<https://kubevirt.io/user-guide/user_workloads/guest_console_log/>).

<https://github.com/open-telemetry/opentelemetry-helm-charts/tree/main/charts/opentelemetry-collector>.
Where monitoring is given, so is the collector: it takes its configuration from the ConfigMap `collector` and
its key from the Secret of that name, both in the namespace `monitoring`.
"""

import hashlib
from typing import Any

import pulumi
import pulumi_kubernetes as k8s
import yaml

from infra.cluster.object_storage import ObjectStorage
from infra.platform import charts
from infra.platform.monitoring.scraping import COLLECTOR, COLLECTOR_PORT
from infra.platform.service_pods import LABELS
from infra.platform.storage_keys import (
    CREDENTIALS_FOLDER,
    below,
    credentials_environment,
    storage_credentials,
    storage_key,
)

PLATFORM = "platform/"
"""The prefix of the platform's own logs in the logs bucket."""
TENANT = "tenant_"
"""The beginning of the prefix of each tenant's logs, as of its objects."""

_IMAGE = "ghcr.io/open-telemetry/opentelemetry-collector-releases/opentelemetry-collector-contrib"
_IMAGE_TAG = "0.156.0"
"""The version of the chart; the local collector is built from the same modules."""
_NAME = "collector"
_KEY = "relay"
"""The key of the ConfigMap that the chart mounts."""
_STATE = "/var/lib/otelcol"
"""A node's folder for what is read up to where, and what waits to be put."""
_LINE_BYTES = 64 * 2**10
"""A longer line is cut into several."""
_BATCH = 500
"""Lines in an object at most: of the longest, that is 32 MiB before compression."""
_BATCH_SECONDS = 30
_PUTTING = (
    *("put-object", "create-multipart-upload", "upload-part"),
    *("complete-multipart-upload", "abort-multipart-upload"),
)
"""Its key neither reads, nor lists, nor deletes."""
_QUEUE_BYTES = 256 * 2**20
_MEMORY_MIB = 512

# The namespace decides, which no tenant chooses.
_PREFIX = (
    'resource["k8s.namespace.name"] startsWith "tenant-" '
    f'? "{TENANT}" + resource["k8s.namespace.name"][7:] '
    f': "{PLATFORM}" + resource["k8s.namespace.name"]'
)


def declare_log_collection(
    prefix: str,
    namespace: str,
    storage: ObjectStorage,
    *,
    cluster_name: str,
    managed: bool,
    opts: pulumi.ResourceOptions,
) -> None:
    """Declare the collector in `namespace`: its key, its configuration, and what runs it if it is managed."""
    metadata: k8s.meta.v1.ObjectMetaArgsDict = {"name": _NAME, "namespace": namespace, "labels": LABELS}
    key = storage_key(
        f"{prefix}-storage",
        f"{cluster_name}-{_NAME}",
        "Archives logs",
        [below(_PUTTING, storage.logs, "key", start) for start in (TENANT, PLATFORM)],
        pulumi.ResourceOptions(parent=opts.parent),
    )
    rendered = storage.logs.apply(
        lambda bucket: yaml.safe_dump(
            configuration(storage.endpoint, storage.region, bucket), sort_keys=False, width=1000
        )
    )
    before = [
        k8s.core.v1.Secret(
            f"{prefix}-secret",
            metadata=metadata,
            string_data=storage_credentials(key),
            opts=opts,
        ),
        k8s.core.v1.ConfigMap(f"{prefix}-configuration", metadata=metadata, data={_KEY: rendered}, opts=opts),
    ]
    if managed:
        charts.install(
            f"{prefix}-chart",
            charts.OPENTELEMETRY_COLLECTOR,
            release=COLLECTOR,
            namespace=namespace,
            values=_values(rendered),
            opts=pulumi.ResourceOptions.merge(opts, pulumi.ResourceOptions(depends_on=before)),
        )


def configuration(endpoint: str, region: str, bucket: str) -> dict[str, Any]:
    """Return the collector's configuration. <https://opentelemetry.io/docs/collector/configuration/>."""
    return {
        "extensions": {
            "health_check": {"endpoint": "${env:MY_POD_IP}:13133"},
            "file_storage": {
                "directory": _STATE,
                # A node that loses power would leave a file that the collector cannot read.
                "fsync": True,
                "compaction": {
                    "directory": _STATE,
                    "on_start": True,
                    "on_rebound": True,
                    "cleanup_on_start": True,
                },
            },
        },
        # A poll reads all files of a receiver to their ends: a loud tenant holds up none of the platform's.
        "receivers": {
            "file_log": _receiver("/var/log/pods/tenant-*"),
            "file_log/platform": _receiver(
                "/var/log/pods/*",
                "/var/log/pods/tenant-*/*/*",
                # Its own lines about what it reads would be lines to read.
                f"/var/log/pods/monitoring_{COLLECTOR}-*/*/*",
            ),
        },
        "processors": {
            "memory_limiter": {
                "check_interval": "1s",
                "limit_mib": _MEMORY_MIB * 8 // 10,
                "spike_limit_mib": _MEMORY_MIB * 2 // 10,
            },
            "batch": {
                "timeout": f"{_BATCH_SECONDS}s",
                "send_batch_size": _BATCH,
                "send_batch_max_size": _BATCH,
            },
            # Lines of one container under one resource.
            "groupbyattrs": {},
        },
        "exporters": {
            "awss3": {
                "s3uploader": {
                    "endpoint": endpoint,
                    "region": region,
                    "s3_bucket": bucket,
                    # For what is not the kubelet's; no namespace is called so.
                    "s3_prefix": f"{PLATFORM}_unknown",
                    "s3_partition_format": "%Y-%m-%d",
                    "s3_partition_timezone": "UTC",
                    "s3_force_path_style": True,
                    "disable_ssl": endpoint.startswith("http://"),
                    "compression": "gzip",
                    "unique_key_func_name": "uuidv7",
                },
                "resource_attrs_to_s3": {"s3_prefix": "archive.prefix"},
                "marshaler": "otlp_json",
                "timeout": "60s",
                # What is refused for a day is given up, so that it does not hold up the others for ever.
                "retry_on_failure": {"max_elapsed_time": "24h"},
                # It must not batch: it is behind where tenants are parted, and a batch has one prefix.
                "sending_queue": {
                    "storage": "file_storage",
                    "sizer": "bytes",
                    "queue_size": _QUEUE_BYTES,
                    "num_consumers": 4,
                    "block_on_overflow": True,
                },
            }
        },
        "service": {
            "extensions": ["health_check", "file_storage"],
            "pipelines": {
                "logs": {
                    "receivers": ["file_log", "file_log/platform"],
                    "processors": ["memory_limiter", "batch", "groupbyattrs"],
                    "exporters": ["awss3"],
                }
            },
            "telemetry": {
                "logs": {"encoding": "json"},
                "metrics": {
                    "readers": [
                        {
                            "pull": {
                                "exporter": {
                                    "prometheus": {"host": "${env:MY_POD_IP}", "port": COLLECTOR_PORT}
                                }
                            }
                        }
                    ]
                },
            },
        },
    }


def _receiver(pods: str, *excluded: str) -> dict[str, Any]:
    """Return the receiver of what the kubelet keeps below the folders of some pods, but for `excluded`."""
    return {
        # With what was rotated away, which the kubelet compresses after the next rotation.
        "include": [f"{pods}/*/*.log", f"{pods}/*/*.log.*"],
        "exclude": [f"{pods}/*/*.gz", f"{pods}/*/*.tmp", *excluded],
        "include_file_path": True,
        "include_file_name": False,
        "start_at": "beginning",
        "storage": "file_storage",
        "poll_interval": "1s",
        "max_log_size": _LINE_BYTES,
        "preserve_leading_whitespaces": True,
        "preserve_trailing_whitespaces": True,
        # A line that does not end is put as it stands.
        "force_flush_period": "5s",
        # What cannot be passed on now is read again later.
        "retry_on_failure": {"enabled": True, "max_elapsed_time": "0s"},
        "operators": [
            {"type": "container", "id": "container", "max_log_size": _LINE_BYTES},
            {"type": "add", "field": 'resource["archive.prefix"]', "value": f"EXPR({_PREFIX})"},
            {"type": "remove", "field": 'attributes["log.file.path"]'},
        ],
    }


def _values(rendered: pulumi.Output[str]) -> dict[str, Any]:
    """Return the chart's values: one collector on each node, also on those of a tenant's own."""
    closed = {"enabled": False}
    return {
        "mode": "daemonset",
        "fullnameOverride": COLLECTOR,
        "image": {"repository": _IMAGE, "tag": _IMAGE_TAG},
        "command": {"name": "otelcol-contrib"},
        "configMap": {"create": False, "existingName": _NAME},
        "podAnnotations": {
            "checksum/configuration": rendered.apply(lambda text: hashlib.sha256(text.encode()).hexdigest())
        },
        "serviceAccount": {"automountServiceAccountToken": False},
        # The kubelet's files are root's.
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": [{"operator": "Exists"}],
        "ports": {
            **dict.fromkeys(
                ("otlp", "otlp-http", "jaeger-compact", "jaeger-thrift", "jaeger-grpc", "zipkin"), closed
            ),
            "metrics": {"enabled": True, "containerPort": COLLECTOR_PORT},
        },
        "extraEnvs": [{"name": name, "value": value} for name, value in credentials_environment().items()],
        "extraVolumes": [
            {"name": "pods", "hostPath": {"path": "/var/log/pods"}},
            {"name": "state", "hostPath": {"path": _STATE, "type": "DirectoryOrCreate"}},
            {"name": "storage", "secret": {"secretName": _NAME, "defaultMode": 0o400}},
        ],
        "extraVolumeMounts": [
            {"name": "pods", "mountPath": "/var/log/pods", "readOnly": True},
            {"name": "state", "mountPath": _STATE},
            {"name": "storage", "mountPath": CREDENTIALS_FOLDER, "readOnly": True},
        ],
        "resources": {
            "requests": {"cpu": "50m", "memory": "128Mi"},
            "limits": {"memory": f"{_MEMORY_MIB}Mi"},
        },
    }
