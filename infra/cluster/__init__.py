"""What Exoscale sells us: SKS, its nodes and network, object storage."""

from infra.cluster.cluster import Cluster, KubernetesApi
from infra.cluster.object_storage import Bucket, ObjectStorage

__all__ = ["Bucket", "Cluster", "KubernetesApi", "ObjectStorage"]
