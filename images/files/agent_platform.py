"""The platform's interface for a tenant's own programs in its machine or pod (docs/agents.md)."""

from services.agent_runtime.context import TenantContext
from services.agent_runtime.files import AbsentError, RefusedPathError
from services.agent_runtime.identity import NotReadyError

__all__ = ["AbsentError", "NotReadyError", "RefusedPathError", "TenantContext"]
