"""The tenant's way into its machine: WireGuard, whose private key is in the tenant's part of Vault.

The platform writes everything else into the machine's `/etc/wireguard/wg0.conf` (docs/decisions/0035).
"""

import os
import time
from http import HTTPStatus
from pathlib import Path

from services.agent_runtime import identity, remote
from services.agent_runtime.credentials import Account
from services.agent_runtime.guest import system
from services.agent_runtime.settings import ACCOUNT_TOKEN
from services.agent_runtime.vault import Vault

_SECRET = "vpn"  # noqa: S105 — where it is, in the tenant's part of Vault
_PATIENCE = 2.0


def bring_up(
    configuration: Path, identity_file: Path = identity.FILE, account_token: Path = ACCOUNT_TOKEN
) -> None:
    """Fetch the key, however long Vault is away, and set up the interface that `configuration` describes.

    The key goes to a file of the same name that ends in `.key`, where the configuration has it taken from.
    Raises FailedError if Vault has no key or the interface cannot be set up.
    """
    private_key = _private_key(identity_file, account_token)
    key = configuration.with_suffix(".key")
    key.touch(mode=0o600)
    key.write_text(private_key)
    os.environ["PATH"] = os.defpath + ":/usr/sbin:/sbin"
    system.run("/usr/bin/wg-quick", "up", configuration.stem)


def _private_key(identity_file: Path, account_token: Path) -> str:
    while True:
        try:
            known = identity.read(identity_file)
            account = Account(account_token, known.tenant)
            key = Vault(known, account).secret(_SECRET).get("private_key")
        except (identity.NotReadyError, OSError):
            time.sleep(_PATIENCE)
        except remote.RefusedError as error:
            if error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                raise system.FailedError(f"Vault refuses its key ({error.status})") from None
            time.sleep(_PATIENCE)
        else:
            if key is None:
                raise system.FailedError(f"Vault has no private_key in {known.secrets}/{_SECRET}")
            return f"{key}\n"
