"""Kubernetes, entered with a token of the account that the attacker's agents run under.

What changes anything is tried with `dryRun`, which authorization knows nothing of. No account of a tenant has
any right here, so all that is tried on others is tried on the attacker's own namespace, too.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import urllib3

from local.attack.attempt import Attack, Refused, Target
from local.attack.tenants import Account, Tenant, issue
from local.servers import certificates, kubernetes_api

_CANARY = "attack-canary"
_DRY = "dryRun=All"
_MERGE = "application/merge-patch+json"
_LET_THROUGH = (
    "a container name must be specified",
    "does not have a host assigned",
    "Upgrade request required",
    "Eviction triggered evacuation",
    "VM is already running",
    "No virt-handler on node",
    "VMI does not have guest agent connected",
    "dialing VM",
    "no such host",
)
"""What only whoever may is told: the request fails later on, for want of a stream, a node or a guest."""


@dataclass(frozen=True)
class Session:
    """A way into the API: a token, or the administrator's certificate."""

    pool: urllib3.PoolManager
    headers: Mapping[str, str]

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """One request; Refused on 403, or on 401: a token that is meant for somebody else."""
        answer = self.pool.request(
            method,
            kubernetes_api.address() + path,
            body=None if body is None else json.dumps(body),
            headers={"Content-Type": "application/json", **self.headers, **(headers or {})},
            timeout=20,
        )
        message = _message(answer.data)
        if answer.status in (HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED):
            raise Refused(message)
        done = HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES
        if not done and not any(text in message for text in _LET_THROUGH):
            raise RuntimeError(f"{answer.status} {message}")
        return _json(answer.data)


def _json(body: bytes) -> dict[str, Any]:
    """The answer; empty if it is no object, as that of a watch or of a server that is not Kubernetes'."""
    with suppress(ValueError):
        parsed = json.loads(body)
        return parsed if isinstance(parsed, dict) else {}
    return {}


def _message(body: bytes) -> str:
    return str(_json(body).get("message") or body.decode(errors="replace")[:300])


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a tenant's agents run; of those without a namespace, the shared runtime's."""

    namespace: str
    account: str
    pod: str
    machine: str


@dataclass(frozen=True, kw_only=True)
class _Request:
    """An attack by one request; the names in the path's braces are those of the victim's `_Place`."""

    name: str
    method: str
    path: str
    body: Any = None
    headers: Mapping[str, str] | None = None

    def attack(self, places: Mapping[Tenant, _Place], *, own: bool) -> Attack[Session]:
        """Make an attack of it, on others or on what is the attacker's own."""

        def run(session: Session, _own: Tenant, victim: Tenant) -> None:
            names = vars(places[victim])
            session.call(
                self.method,
                self.path.format(**names),
                _filled(self.body, names),
                _filled(self.headers, names),
            )

        def spares(attacker: Tenant, victim: Tenant) -> bool:
            lacking = "{machine}" in f"{self.path}{self.body}" and not places[victim].machine
            return lacking or (not own and attacker.account == victim.account)

        return Attack(
            name=f"{self.name}, one's own" if own else self.name,
            tried=f"{self.method} {self.path}",
            run=run,
            on_platform=own,
            by_owner=False,
            spares=spares,
        )


def _on_platform(
    name: str, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> Attack[Session]:
    return Attack(
        name=name,
        tried=f"{method} {path}",
        run=lambda session, _own, _victim: session.call(method, path, body, headers),
        on_platform=True,
    )


def _request(name: str, method: str, path: str, body: Any = None) -> _Request:
    return _Request(name=name, method=method, path=path, body=body)


def _patch(name: str, path: str, body: Any) -> _Request:
    return _Request(
        name=name, method="PATCH", path=f"{path}?{_DRY}", body=body, headers={"Content-Type": _MERGE}
    )


def _object(kind: str, version: str, **parts: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "attack"}, **parts}


def _filled(value: Any, names: Mapping[str, str]) -> Any:
    """Put the names into every text of a body."""
    if isinstance(value, dict):
        return {key: _filled(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, names) for item in value]
    return value.format(**names) if isinstance(value, str) else value


_CORE = "/api/v1/namespaces/{namespace}"
_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_POLICIES = "/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies"
_MACHINES = "/apis/kubevirt.io/v1/namespaces/{namespace}/virtualmachines"
_INSTANCES = "/apis/kubevirt.io/v1/namespaces/{namespace}/virtualmachineinstances"
_SUBRESOURCES = "/apis/subresources.kubevirt.io/v1/namespaces/{namespace}"
_MACHINE = f"{_SUBRESOURCES}/virtualmachines/{{machine}}"
_INSTANCE = f"{_SUBRESOURCES}/virtualmachineinstances/{{machine}}"

_ADMISSION = "/apis/admissionregistration.k8s.io/v1"
_REVIEW = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
_DRY_BODY = {"dryRun": ["All"]}
_ADMIN_ROLE = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
_EVERYBODY = [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:authenticated"}]
_POD_SPEC = {"containers": [{"name": "attack", "image": "attack.example/attack:1"}]}

_REQUESTS = (
    # Secrets and configuration
    _request("read a secret", "GET", f"{_CORE}/secrets/{_CANARY}"),
    _request("list secrets", "GET", f"{_CORE}/secrets"),
    _request("watch secrets", "GET", f"{_CORE}/secrets?watch=1&timeoutSeconds=1"),
    _request("create a secret", "POST", f"{_CORE}/secrets?{_DRY}", _object("Secret", "v1")),
    _patch("change a secret", f"{_CORE}/secrets/{_CANARY}", {"stringData": {"text": "attack"}}),
    _request("delete a secret", "DELETE", f"{_CORE}/secrets/{_CANARY}?{_DRY}"),
    _request("delete all secrets", "DELETE", f"{_CORE}/secrets?{_DRY}"),
    _request("list configuration", "GET", f"{_CORE}/configmaps"),
    _request("list events", "GET", f"{_CORE}/events"),
    # Pods
    _request("list pods", "GET", f"{_CORE}/pods"),
    _request("read a pod", "GET", f"{_CORE}/pods/{{pod}}"),
    _request("delete a pod", "DELETE", f"{_CORE}/pods/{{pod}}?{_DRY}"),
    _request(
        "evict a pod",
        "POST",
        f"{_CORE}/pods/{{pod}}/eviction?{_DRY}",
        {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "{pod}"}},
    ),
    _request("run a program in a pod", "POST", f"{_CORE}/pods/{{pod}}/exec?command=id&stdout=1"),
    _request(
        "run a program in a pod, in the other way", "GET", f"{_CORE}/pods/{{pod}}/exec?command=id&stdout=1"
    ),
    _request("attach to a pod", "POST", f"{_CORE}/pods/{{pod}}/attach?stdout=1"),
    _request("forward a port of a pod", "POST", f"{_CORE}/pods/{{pod}}/portforward?ports=8080"),
    _patch("put a container into a pod", f"{_CORE}/pods/{{pod}}/ephemeralcontainers", {"spec": {}}),
    # Accounts and rights
    _request("list accounts", "GET", f"{_CORE}/serviceaccounts"),
    _request(
        "issue a token of an account",
        "POST",
        f"{_CORE}/serviceaccounts/{{account}}/token?{_DRY}",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": []}},
    ),
    _request("create an account", "POST", f"{_CORE}/serviceaccounts?{_DRY}", _object("ServiceAccount", "v1")),
    _request(
        "give everybody all rights",
        "POST",
        f"{_RBAC}/namespaces/{{namespace}}/rolebindings?{_DRY}",
        _object("RoleBinding", "rbac.authorization.k8s.io/v1", roleRef=_ADMIN_ROLE, subjects=_EVERYBODY),
    ),
    _request("list rights", "GET", f"{_RBAC}/namespaces/{{namespace}}/rolebindings"),
    _Request(
        name="act as an account",
        method="POST",
        path="/apis/authentication.k8s.io/v1/selfsubjectreviews?of={namespace}",
        body=_REVIEW,
        headers={"Impersonate-User": "system:serviceaccount:{namespace}:{account}"},
    ),
    # What bounds the namespace
    _request("read the quota", "GET", f"{_CORE}/resourcequotas"),
    _request("delete the quota", "DELETE", f"{_CORE}/resourcequotas?{_DRY}"),
    _request(
        "create a quota", "POST", f"{_CORE}/resourcequotas?{_DRY}", _object("ResourceQuota", "v1", spec={})
    ),
    _request("delete the limits", "DELETE", f"{_CORE}/limitranges?{_DRY}"),
    _request("list network policies", "GET", _POLICIES),
    _request("delete all network policies", "DELETE", f"{_POLICIES}?{_DRY}"),
    _request(
        "open the network",
        "POST",
        f"{_POLICIES}?{_DRY}",
        _object(
            "NetworkPolicy", "networking.k8s.io/v1", spec={"podSelector": {}, "ingress": [{}], "egress": [{}]}
        ),
    ),
    _request("read the namespace", "GET", _CORE),
    _patch(
        "lower the namespace's pod security",
        _CORE,
        {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}},
    ),
    _request("delete the namespace", "DELETE", f"{_CORE}?{_DRY}"),
    # What runs there
    _request("list deployments", "GET", "/apis/apps/v1/namespaces/{namespace}/deployments"),
    _request(
        "delete all deployments", "DELETE", f"/apis/apps/v1/namespaces/{{namespace}}/deployments?{_DRY}"
    ),
    _request("list volume claims", "GET", f"{_CORE}/persistentvolumeclaims"),
    _request("delete all volume claims", "DELETE", f"{_CORE}/persistentvolumeclaims?{_DRY}"),
    _request(
        "open a way in from outside",
        "POST",
        f"{_CORE}/services?{_DRY}",
        _object("Service", "v1", spec={"type": "ExternalName", "externalName": "attack.example"}),
    ),
    # Machines
    _request("read a machine", "GET", f"{_MACHINES}/{{machine}}"),
    _patch("change a machine", f"{_MACHINES}/{{machine}}", {"metadata": {"labels": {"attack": "attack"}}}),
    _request("delete a machine", "DELETE", f"{_MACHINES}/{{machine}}?{_DRY}"),
    _request("start a machine", "PUT", f"{_MACHINE}/start", _DRY_BODY),
    _request("stop a machine", "PUT", f"{_MACHINE}/stop", _DRY_BODY),
    _request("restart a machine", "PUT", f"{_MACHINE}/restart", _DRY_BODY),
    _request("pause a machine", "PUT", f"{_INSTANCE}/pause", _DRY_BODY),
    _request("read a running machine", "GET", f"{_INSTANCES}/{{machine}}"),
    _request("see a machine's screen", "GET", f"{_INSTANCE}/vnc"),
    _request("use a machine's console", "GET", f"{_INSTANCE}/console"),
    _request("forward a port of a machine", "GET", f"{_INSTANCE}/portforward/22"),
    _request("ask what runs in a machine", "GET", f"{_INSTANCE}/guestosinfo"),
)

_ON_PLATFORM = (
    _on_platform("list all namespaces", "GET", "/api/v1/namespaces"),
    _on_platform("create a namespace", "POST", f"/api/v1/namespaces?{_DRY}", _object("Namespace", "v1")),
    _on_platform("list all secrets", "GET", "/api/v1/secrets"),
    _on_platform("list all pods", "GET", "/api/v1/pods"),
    _on_platform("list all machines", "GET", "/apis/kubevirt.io/v1/virtualmachines"),
    _on_platform(
        "create a pod elsewhere",
        "POST",
        f"/api/v1/namespaces/default/pods?{_DRY}",
        _object("Pod", "v1", spec=_POD_SPEC),
    ),
    _on_platform("list nodes", "GET", "/api/v1/nodes"),
    _on_platform("list volumes", "GET", "/api/v1/persistentvolumes"),
    _on_platform("list storage classes", "GET", "/apis/storage.k8s.io/v1/storageclasses"),
    _on_platform(
        "give everybody all rights everywhere",
        "POST",
        f"{_RBAC}/clusterrolebindings?{_DRY}",
        _object(
            "ClusterRoleBinding", "rbac.authorization.k8s.io/v1", roleRef=_ADMIN_ROLE, subjects=_EVERYBODY
        ),
    ),
    _on_platform("list everybody's rights", "GET", f"{_RBAC}/clusterrolebindings"),
    _on_platform(
        "act as an administrator",
        "POST",
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        _REVIEW,
        {"Impersonate-User": "attack", "Impersonate-Group": "system:masters"},
    ),
    _on_platform(
        "ask whose a token is",
        "POST",
        "/apis/authentication.k8s.io/v1/tokenreviews",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "attack"}},
    ),
    _on_platform("list admission webhooks", "GET", f"{_ADMISSION}/mutatingwebhookconfigurations"),
    _on_platform(
        "have every object pass through a webhook",
        "POST",
        f"{_ADMISSION}/mutatingwebhookconfigurations?{_DRY}",
        _object("MutatingWebhookConfiguration", "admissionregistration.k8s.io/v1", webhooks=[]),
    ),
    _on_platform("list kinds of objects", "GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"),
    _on_platform("list Longhorn's volumes", "GET", "/apis/longhorn.io/v1beta2/volumes"),
    _on_platform("read the API server's figures", "GET", "/metrics"),
)


@contextmanager
def entered(tenants: Sequence[Tenant]) -> Iterator[Target[Session]]:
    """Plant a secret in every namespace, have every tenant's account attack, and remove it again."""
    administrator = _administrator()
    pods = {
        each["metadata"]["namespace"]: each["metadata"]["name"]
        for each in administrator.call("GET", "/api/v1/pods")["items"]
    }
    places = {
        tenant: _Place(
            namespace=tenant.account.namespace,
            account=tenant.account.name,
            pod=pods.get(tenant.account.namespace, ""),
            machine=tenant.machine,
        )
        for tenant in tenants
    }
    canary = _object("Secret", "v1", metadata={"name": _CANARY}, stringData={"text": "canary"})
    with ExitStack() as stack:
        for namespace in {place.namespace for place in places.values()}:
            secrets = f"/api/v1/namespaces/{namespace}/secrets"
            # A run that was killed has left one.
            administrator.call("DELETE", f"{secrets}?fieldSelector=metadata.name={_CANARY}")
            administrator.call("POST", secrets, canary)
            stack.callback(administrator.call, "DELETE", f"{secrets}/{_CANARY}")
        yield Target(
            server="Kubernetes",
            sessions={tenant: _session(issue(tenant.account, []), tenant.account) for tenant in tenants},
            victims=tenants,
            administrator=administrator,
            attacks=[
                *(request.attack(places, own=False) for request in _REQUESTS),
                *(request.attack(places, own=True) for request in _REQUESTS),
                *_ON_PLATFORM,
                _with_the_token_for_vault(places),
            ],
        )


def _with_the_token_for_vault(places: Mapping[Tenant, _Place]) -> Attack[Session]:
    """Where the agents' token is meant for Vault, the API server must not even know whose it is."""

    def run(session: Session, own: Tenant, _victim: Tenant) -> None:
        headers = {"Authorization": f"Bearer {own.account_token}"} if session.headers else {}
        session.call("GET", f"/api/v1/namespaces/{places[own].namespace}/pods", headers=headers)

    return Attack(
        name="use the token for Vault", tried="GET /api/v1/namespaces/OWN/pods", run=run, on_platform=True
    )


def bearing(token: str) -> Session:
    """Enter with a token, whoever's it is."""
    pool = urllib3.PoolManager(ca_certs=str(certificates.CA_FILE), retries=False)
    return Session(pool, {"Authorization": f"Bearer {token}"})


def _session(token: str, account: Account) -> Session:
    """Enter with a token, and see that the API server takes it for the account's."""
    session = bearing(token)
    told = session.call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", _REVIEW)
    user = told["status"]["userInfo"]["username"]
    if user != f"system:serviceaccount:{account.namespace}:{account.name}":
        raise RuntimeError(f"the token of {'/'.join(account)} is taken for {user}'s")
    return session


def _administrator() -> Session:
    pair = str(certificates.path(kubernetes_api.ADMIN))
    pool = urllib3.PoolManager(
        ca_certs=str(certificates.CA_FILE), cert_file=pair, key_file=pair, retries=False
    )
    return Session(pool, {})
