"""Serves the stand-in to the engine."""

from local.providers.kubernetes.stand_in import Kubernetes
from local.providers.server import serve

serve(Kubernetes())
