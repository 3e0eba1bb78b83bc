"""What a tenant's own program can use in its machine or pod: `import agent_platform` (docs/agents.md)."""

from services.agent_runtime.context import TenantContext
from services.agent_runtime.files import AbsentError, RefusedPathError
from services.agent_runtime.identity import NotReadyError

__all__ = ["AbsentError", "NotReadyError", "RefusedPathError", "TenantContext"]
