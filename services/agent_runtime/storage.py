"""A tenant's part of object storage: folders as files, and addresses that anybody can use for a while."""

from pathlib import Path

from services.agent_runtime.prefix_files import PrefixFiles
from services.agent_runtime.vault import Vault


class Storage:
    """Folders of the tenant's prefix; nothing outside of it can be named."""

    def __init__(self, vault: Vault, scratch: Path) -> None:
        """Reach nothing yet; parts of large objects are held in `scratch`."""
        self.uploads = PrefixFiles(vault, scratch, "uploads/")
        """The tenant's files for its agents."""
        self.artifacts = PrefixFiles(vault, scratch, "artifacts/")
        """The agents' files for their tenant."""
