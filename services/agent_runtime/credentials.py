"""The credential for Vault: the token of a tenant's own account, or the gateway's words for its requests."""

import threading
from pathlib import Path
from typing import Protocol

from services.agent_runtime import remote
from services.agent_runtime.identity import NotReadyError, Server


class Credential(Protocol):
    """Something that Vault's login takes."""

    def shown(self) -> str:
        """A JWT that is good now; NotReadyError if there is none."""
        ...


class Account:
    """The token of an account of the tenant's own, which the platform renews in its file."""

    def __init__(self, file: Path, tenant: str) -> None:
        """Read `file` whenever it is shown."""
        self._file = file
        self._tenant = tenant

    def shown(self) -> str:
        """The token; NotReadyError if there is none."""
        try:
            return self._file.read_text().strip()
        except OSError as error:
            raise NotReadyError(
                f"{self._file}: {error.strerror}, so Vault does not let {self._tenant} in; the "
                "account's token comes with the pod or with the machine's disk `service-account`."
            ) from None


class Assertion:
    """The gateway's word, renewed by the replica that has the request."""

    def __init__(self, text: str, gateway: Server) -> None:
        """Show `text` first, and what `gateway` gives for it from then on."""
        self._text = text
        self._gateway = gateway
        self._shown = False

    def shown(self) -> str:
        """One that is good for a minute; NotReadyError if the request is over."""
        if self._shown:
            self._text = self._renewed()
        self._shown = True
        return self._text

    def _renewed(self) -> str:
        shown = {"Authorization": f"Bearer {self._text}"}
        try:
            return str(remote.call(self._gateway, "POST", "/v1/assertions", headers=shown)["assertion"])
        except remote.RefusedError as error:
            raise NotReadyError(
                f"The gateway does not renew what lets this run into Vault ({error}), so the run ends; it "
                "renews it while the request is in flight and the tenant is active."
            ) from None
        except OSError as error:
            raise NotReadyError(
                f"The gateway at {self._gateway.address} does not answer ({error}), so Vault does not let "
                "this run in any longer, and it ends."
            ) from None


class Assertions:
    """The gateway's words for those requests of a tenant's that are in flight: any of them does."""

    def __init__(self, tenant: str) -> None:
        """None is yet."""
        self._tenant = tenant
        self._lock = threading.Lock()
        self._words: list[Assertion] = []

    def add(self, word: Assertion) -> None:
        """A request has begun."""
        with self._lock:
            self._words.append(word)

    def remove(self, word: Assertion) -> None:
        """A request is over."""
        with self._lock:
            self._words.remove(word)

    def shown(self) -> str:
        """The newest that can be had; NotReadyError if there is none."""
        with self._lock:
            words = self._words[::-1]
        failure = NotReadyError(
            f"No request of {self._tenant}'s is in flight, so the gateway says nothing that lets its run "
            "into Vault any longer, and it ends; a run that is followed goes on for longer."
        )
        for word in words:
            try:
                return word.shown()
            except NotReadyError as error:
                failure = error
        raise failure
