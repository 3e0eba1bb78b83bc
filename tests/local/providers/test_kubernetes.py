"""The kubernetes stand-in against a real API server, as the official plugin 4.34 behaves."""

import base64
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from rich.console import Console

from local import supervisor, toolchain
from local.providers.kubernetes import managers, manifest
from local.providers.kubernetes.cluster import Cluster
from local.providers.kubernetes.stand_in import Kubernetes
from local.providers.provider import Call, Diff, InitializationError, ProviderError, Resource, State
from local.providers.values import UNKNOWN, Properties, path_text, plain
from local.servers import controller_manager, kubernetes, kubernetes_api

pytestmark = pytest.mark.integration

NAMESPACE = "stand-in"
DEPLOYMENT: Properties = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "web", "namespace": NAMESPACE},
    "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {
                "containers": [
                    {
                        "name": "web",
                        "image": "registry.example/web:1",
                        "env": [{"name": "EMPTY", "value": ""}],
                        "resources": {"limits": {"cpu": "1000m", "memory": "1024Mi"}},
                        "securityContext": {"privileged": False},
                    }
                ]
            },
        },
    },
}


@pytest.fixture(scope="module", autouse=True)
def _api(console: Console) -> Iterator[None]:
    toolchain.ensure(console)
    kubernetes.prepare()
    controller_manager.prepare()
    services = [*kubernetes.services(), *controller_manager.services()]
    for service in services:
        supervisor.start(service, console)
    kubernetes_api.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}])
    yield
    for service in reversed(services):
        supervisor.stop(service.name)


def configured(**config: Any) -> Kubernetes:
    provider = Kubernetes()
    provider.configure({"kubeconfig": kubernetes.KUBECONFIG.read_text(), **config})
    return provider


@pytest.fixture(scope="module")
def provider(_api: None) -> Kubernetes:
    return configured()


class Managed:
    """One resource, through the calls that the engine makes."""

    def __init__(
        self, provider: Kubernetes, inputs: Properties, *, token: str = "", name: str = "it"
    ) -> None:
        api_version, kind = inputs["apiVersion"], inputs["kind"]
        group = api_version if "/" in api_version else f"core/{api_version}"
        self.token = token or f"kubernetes:{group}:{kind}"
        self.name = name
        self.type: Resource = provider.resource(self.token)
        self.given = inputs
        self.inputs = self.checked(inputs)

    def call(self, *, preview: bool = False, timeout: float = 90) -> Call:
        urn = f"urn:pulumi:s::p::{self.token}::{self.name}"
        return Call(urn, self.name, self.token, preview=preview, timeout=timeout, random_seed=b"seed")

    def checked(self, inputs: Properties) -> Properties:
        checked, failures = self.type.check(self.call(), plain(getattr(self, "inputs", {})), inputs)
        assert failures == []
        result: Properties = plain(checked)
        return result

    def preview(self) -> Properties:
        result: Properties = plain(self.type.create(self.call(preview=True), self.inputs)[1])
        return result

    def create(self, timeout: float = 90) -> "Managed":
        self.id, outputs = self.type.create(self.call(timeout=timeout), self.inputs)
        self.outputs: Properties = plain(outputs)
        return self

    @property
    def state(self) -> State:
        return State(self.inputs, self.outputs)

    def diff(self, inputs: Properties) -> Diff:
        return self.type.diff(self.call(), self.id, self.state, self.checked(inputs))

    def changes(self, inputs: Properties) -> set[str]:
        return {path_text(path) for path in self.diff(inputs).changes}

    def update(self, inputs: Properties, *, preview: bool = False) -> Properties:
        inputs = self.checked(inputs)
        call = self.call(preview=preview)
        outputs: Properties = plain(self.type.update(call, self.id, self.state, inputs))
        if not preview:
            self.inputs, self.outputs = inputs, outputs
        return outputs

    def read(self) -> State | None:
        state = self.type.read(self.call(), self.id, self.state)
        return state and State(plain(state.inputs), plain(state.outputs))

    def refresh(self) -> None:
        state = self.read()
        assert state is not None
        self.inputs, self.outputs = state.inputs, state.outputs

    def delete(self) -> None:
        self.type.delete(self.call(), self.id, self.state)

    def live(self) -> dict[str, Any]:
        return kubernetes_api.get(self.outputs_path())

    def outputs_path(self) -> str:
        plural = f"{self.outputs['kind'].lower()}s"
        group = "/api/v1" if self.outputs["apiVersion"] == "v1" else f"/apis/{self.outputs['apiVersion']}"
        return f"{group}/namespaces/{NAMESPACE}/{plural}/{manifest.name(self.outputs)}"


def config_map(name: str | None = None, **data: str) -> Properties:
    about = {"namespace": NAMESPACE, **({"name": name} if name else {})}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "data": data}


def changed(inputs: Properties, change: Callable[[Any], None]) -> Properties:
    copy: Properties = plain(inputs)
    change(copy)
    return copy


def test_a_life(provider: Kubernetes) -> None:
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "life", "namespace": NAMESPACE, "labels": {"a.b/c": "1"}},
    }
    managed = Managed(provider, account)
    assert managed.preview()["metadata"]["name"] == "life"
    managed.create()
    assert managed.id == f"{NAMESPACE}/life"
    assert managed.outputs["__initialApiVersion"] == "v1"
    assert managed.outputs["__fieldManager"].startswith("pulumi-kubernetes-")
    assert managed.diff(account).changes == {}
    wanted = changed(account, lambda new: new["metadata"]["labels"].update({"a.b/c": "2"}))
    assert managed.changes(wanted) == {'metadata.labels["a.b/c"]'}
    assert managed.update(wanted, preview=True)["metadata"]["labels"] == {"a.b/c": "2"}
    assert managed.live()["metadata"]["labels"] == {"a.b/c": "1"}
    managed.update(wanted)
    without = changed(wanted, lambda new: new["metadata"].pop("labels"))
    managed.update(without)
    assert "labels" not in managed.live()["metadata"]
    managed.delete()
    assert managed.read() is None
    managed.delete()


def test_a_preview_changes_nothing(provider: Kubernetes) -> None:
    managed = Managed(provider, config_map("preview", a="1"))
    assert managed.preview()["metadata"]["uid"]
    managed.create()
    managed.update(config_map("preview", a="2"), preview=True)
    assert managed.live()["data"] == {"a": "1"}


def test_a_preview_with_unknowns_or_without_its_namespace_gives_the_inputs_back(provider: Kubernetes) -> None:
    unknown = Managed(provider, config_map("unknown") | {"data": {"a": UNKNOWN}})
    assert unknown.preview() == unknown.inputs
    homeless = config_map("homeless", a="1")
    homeless["metadata"]["namespace"] = "not-there-yet"
    managed = Managed(provider, homeless)
    assert managed.preview() == managed.inputs


def test_an_unnamed_object_is_named_and_keeps_its_name(provider: Kubernetes) -> None:
    managed = Managed(provider, config_map(a="1"), name="auto").create()
    name = manifest.name(managed.outputs)
    assert name.startswith("auto-")
    assert len(name) == len("auto-") + 8
    assert manifest.name(managed.checked(config_map(a="2"))) == name


def test_an_object_without_a_namespace_goes_where_the_provider_says() -> None:
    provider = configured(namespace=NAMESPACE)
    inputs = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "default-namespace"}}
    assert Managed(provider, inputs).create().id == f"{NAMESPACE}/default-namespace"
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "r"}}
    assert "namespace" not in Managed(provider, role).inputs["metadata"]


def test_changed_data_replaces_unless_they_may_change() -> None:
    managed = Managed(configured(), config_map("data", a="1")).create()
    diff = managed.diff(config_map("data", a="2"))
    assert diff.replaces == {("data", "a")}
    assert diff.delete_before_replace
    mutable = Managed(configured(enableConfigMapMutable=True), config_map("data-2", a="1")).create()
    assert mutable.diff(config_map("data-2", a="2")).replaces == set()


def test_an_object_that_others_write_meanwhile_is_taken_over_all_the_same(provider: Kubernetes) -> None:
    settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "busy", "namespace": NAMESPACE}}
    managed = Managed(provider, {**settings, "data": {"a": "1"}}).create()
    assert provider._connection
    cluster = provider._connection.cluster
    read = cluster.get(settings)
    # As a controller does between the provider's look and its write.
    cluster.json_patch(settings, [{"op": "add", "path": "/data/b", "value": "2"}])

    taken = managers.take_over(cluster, read, "somebody")

    assert taken["data"] == {"a": "1", "b": "2"}
    assert "somebody" in {entry["manager"] for entry in taken["metadata"]["managedFields"]}
    managed.delete()


def test_what_the_server_rewrites_or_leaves_out_is_no_change(provider: Kubernetes) -> None:
    inputs = changed(
        DEPLOYMENT, lambda new: new["metadata"].update(annotations={"pulumi.com/skipAwait": "true"})
    )
    managed = Managed(provider, inputs).create()
    assert managed.outputs["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] == "1"
    assert managed.changes(inputs) == set()
    image = changed(inputs, lambda new: new["spec"]["template"]["spec"]["containers"][0].update(image="x:2"))
    assert managed.changes(image) == {"spec.template.spec.containers[0].image"}
    managed.update(image)
    selector = changed(image, lambda new: new["spec"]["selector"]["matchLabels"].update(app="other"))
    assert managed.diff(selector).replaces == {("spec", "selector", "matchLabels", "app")}
    managed.delete()


@pytest.mark.parametrize("kind", ["ResourceQuota", "LimitRange"])
def test_inputs_spell_quantities_as_the_server_does(provider: Kubernetes, kind: str) -> None:
    given = {"requests.cpu": "1000m", "requests.memory": "1024Mi", "pods": 1000, "limits.cpu": "0.5"}
    spelt = {"requests.cpu": "1", "requests.memory": "1Gi", "pods": "1k", "limits.cpu": "500m"}
    specs: dict[str, Any] = {
        "ResourceQuota": ({"hard": given}, {"hard": spelt}),
        "LimitRange": (
            {"limits": [{"type": "Container", "default": {"cpu": "1.50", "memory": "1.5Gi"}}]},
            {"limits": [{"type": "Container", "default": {"cpu": "1500m", "memory": "1536Mi"}}]},
        ),
    }
    about = {"name": "spelling", "namespace": NAMESPACE}
    inputs = {"apiVersion": "v1", "kind": kind, "metadata": about, "spec": specs[kind][0]}
    managed = Managed(provider, inputs).create()
    assert managed.inputs["spec"] == specs[kind][1]
    assert manifest.pruned(managed.outputs["spec"], managed.inputs["spec"]) == specs[kind][1]
    assert managed.changes(inputs) == set()


def test_a_secret_is_secret_and_its_text_becomes_data(provider: Kubernetes) -> None:
    inputs = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s", "namespace": NAMESPACE},
        "stringData": {"password": "hunter2"},
    }
    managed = Managed(provider, inputs)
    assert managed.inputs["data"] == {"password": base64.b64encode(b"hunter2").decode()}
    raw_inputs, _ = managed.type.check(managed.call(), {}, inputs)
    _, raw_outputs = managed.type.create(managed.call(), plain(raw_inputs))
    for shown in (raw_inputs, raw_outputs, raw_outputs["__inputs"]):
        assert "aHVudGVyMg" not in repr(shown)


def test_drift_is_seen_by_a_refresh_and_mended(provider: Kubernetes) -> None:
    forcing = configured(enablePatchForce=True)
    inputs = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "drift", "namespace": NAMESPACE},
        "automountServiceAccountToken": False,
    }
    managed = Managed(provider, inputs).create()
    managed.refresh()
    assert managed.changes(inputs) == set()
    kubernetes_api.merge(managed.outputs_path(), {"automountServiceAccountToken": True})
    managed.refresh()
    assert managed.changes(inputs) == {"automountServiceAccountToken"}
    with pytest.raises(ProviderError, match="field conflict"):
        managed.update(inputs)
    managed.type = forcing.resource(managed.token)
    managed.update(inputs)
    assert managed.live()["automountServiceAccountToken"] is False


def test_an_existing_object_is_not_taken_over_unless_wanted(provider: Kubernetes) -> None:
    Managed(provider, config_map("taken", a="1")).create()
    again = Managed(provider, config_map("taken", a="2"))
    with pytest.raises(ProviderError, match=r"already exists(.|\n)*upsertExistingObjects"):
        again.create()
    upserting = Managed(
        configured(upsertExistingObjects=True, enablePatchForce=True), config_map("new", a="1")
    )
    upserting.create()
    upserting.create()
    assert upserting.live()["data"] == {"a": "1"}


def test_an_unknown_field_is_named(provider: Kubernetes) -> None:
    wrong = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "wrong", "namespace": NAMESPACE},
        "spec": {"ports": [{"port": 80, "prot": "TCP"}]},
    }
    with pytest.raises(ProviderError, match=r'unknown field "spec.ports\[0\].prot"'):
        Managed(provider, wrong).preview()


def test_a_custom_resource_waits_for_its_definition(provider: Kubernetes) -> None:
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {
            "group": "example.com",
            "scope": "Cluster",
            "names": {"plural": "widgets", "singular": "widget", "kind": "Widget"},
            "versions": [
                {
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {
                        "openAPIV3Schema": {"type": "object", "x_kubernetes_preserve_unknown_fields": True}
                    },
                }
            ],
        },
    }
    widget = {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "size": 1.5}
    crd = Managed(provider, definition)
    managed = Managed(provider, widget)
    assert "namespace" not in managed.inputs["metadata"]
    assert managed.preview() == managed.inputs
    creation = threading.Thread(target=managed.create)
    creation.start()
    crd.create()
    creation.join()
    assert managed.outputs["size"] == 1.5
    assert crd.changes(definition) == set()
    crd.refresh()
    assert crd.changes(definition) == set()
    crd.delete()
    assert managed.read() is None
    managed.delete()


def test_an_import_reads_inputs_that_a_program_would_write(provider: Kubernetes) -> None:
    inputs = config_map("imported", a="1")
    Managed(provider, inputs).create()
    token = "kubernetes:core/v1:ConfigMap"
    call = Call("urn:pulumi:s::p::kubernetes:core/v1:ConfigMap::i", "i", token)
    state = provider.resource(token).read(call, f"{NAMESPACE}/imported", State({}, {}))
    assert state is not None
    assert plain(state.inputs) == inputs
    assert provider.resource(token).diff(call, "", state, inputs).changes == {}
    assert provider.resource(token).read(call, f"{NAMESPACE}/missing", State({}, {})) is None


def test_a_patch_adds_its_fields_and_gives_them_up(provider: Kubernetes) -> None:
    whole = Managed(provider, config_map("whole", a="1")).create()
    part = config_map("whole") | {"data": {"b": "2"}}
    patch = Managed(provider, part, token="kubernetes:core/v1:ConfigMapPatch")
    assert patch.preview() == patch.inputs
    patch.create()
    assert whole.live()["data"] == {"a": "1", "b": "2"}
    assert patch.changes(part) == set()
    patch.delete()
    assert whole.live()["data"] == {"a": "1"}


def test_a_claim_waits_until_it_is_bound_unless_it_binds_late(provider: Kubernetes) -> None:
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "late"},
        "provisioner": "example.com/none",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    Managed(provider, storage_class).create()
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "late", "namespace": NAMESPACE},
        "spec": {
            "storageClassName": "late",
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1024Mi"}},
        },
    }
    late = Managed(provider, claim).create()
    assert late.changes(claim) == set()
    now = changed(claim, lambda new: new["metadata"].update(name="now"))
    now["spec"]["storageClassName"] = "missing"
    with pytest.raises(InitializationError, match="timed out waiting to be Ready"):
        Managed(provider, now).create(timeout=1)


def test_what_never_becomes_ready_is_kept_with_the_reason(provider: Kubernetes) -> None:
    inputs = changed(DEPLOYMENT, lambda new: new["metadata"].update(name="unready"))
    managed = Managed(provider, inputs)
    with pytest.raises(InitializationError) as failed:
        managed.create(timeout=1)
    assert failed.value.id == f"{NAMESPACE}/unready"
    assert failed.value.outputs["metadata"]["uid"]
    assert "'unready' timed out waiting to be Ready" in failed.value.reasons[0]


def test_an_interrupt_ends_the_wait(provider: Kubernetes) -> None:
    inputs = changed(DEPLOYMENT, lambda new: new["metadata"].update(name="interrupted"))
    managed = Managed(provider, inputs)
    call = managed.call(timeout=60)
    threading.Timer(0.5, call.cancelled.set).start()
    started = time.monotonic()
    with pytest.raises(InitializationError, match="cancelled"):
        managed.type.create(call, managed.inputs)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("jsonpath={.data.a}=1", True),
        ("jsonpath={.data['a']}", True),
        ("jsonpath={.data.a}=2", False),
        (r"jsonpath={.data.a\.b}=1", True),
        (r"jsonpath={.data['a\.b']}=1", True),
        ("jsonpath={.data.a.b}=1", False),
        ("condition=Ready", False),
        ('["jsonpath={.data.a}=1", "jsonpath={.kind}=ConfigMap"]', True),
    ],
)
def test_wait_for(provider: Kubernetes, expression: str, holds: bool) -> None:
    inputs = config_map(None, **{"a": "1", "a.b": "1"})
    inputs["metadata"]["annotations"] = {"pulumi.com/waitFor": expression}
    managed = Managed(provider, inputs, name=f"wait-{abs(hash(expression))}")
    if holds:
        managed.create()
    else:
        with pytest.raises(InitializationError):
            managed.create(timeout=1)


def test_a_condition_that_cannot_be_read_is_refused_before_anything_is_made(provider: Kubernetes) -> None:
    inputs = config_map("unreadable")
    inputs["metadata"]["annotations"] = {"pulumi.com/waitFor": "jsonpath={.data[?(@.a)]}"}
    with pytest.raises(ProviderError, match="cannot be read"):
        Managed(provider, inputs)


def test_what_was_made_is_kept_while_the_api_is_away(provider: Kubernetes, console: Console) -> None:
    inputs = config_map("away", a="1")
    inputs["metadata"]["annotations"] = {"pulumi.com/waitFor": "jsonpath={.data.b}"}
    managed = Managed(provider, inputs)
    creation = threading.Thread(target=managed.create, kwargs={"timeout": 90})
    creation.start()
    time.sleep(1)
    api = next(service for service in kubernetes.services() if service.name == "kube-apiserver")
    supervisor.stop(api.name)
    time.sleep(1)
    supervisor.start(api, console)
    kubernetes_api.merge(f"/api/v1/namespaces/{NAMESPACE}/configmaps/away", {"data": {"b": "2"}})
    creation.join()
    assert managed.outputs["data"] == {"a": "1", "b": "2"}


def test_a_busy_api_is_asked_again() -> None:
    asked = []

    class Busy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            busy = len(asked) == 1
            body = b"{}" if busy else b'{"gitVersion": "v1"}'
            self.send_response(HTTPStatus.TOO_MANY_REQUESTS if busy else HTTPStatus.OK)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            return None

    server = HTTPServer(("127.0.0.1", 0), Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    kubeconfig = {
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "c", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    }
    assert Cluster(kubeconfig, None).version() == "v1"
    assert len(asked) == 2
    server.shutdown()
    server.server_close()


def test_a_token_secret_is_there_when_it_is_created(provider: Kubernetes) -> None:
    account = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "robot", "namespace": NAMESPACE},
    }
    Managed(provider, account).create()
    token = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/service-account-token",
        "metadata": {
            "name": "robot",
            "namespace": NAMESPACE,
            "annotations": {"kubernetes.io/service-account.name": "robot"},
        },
    }
    assert Managed(provider, token).create().outputs["data"]["token"]


def test_a_namespace_is_deleted_with_all_that_is_in_it(provider: Kubernetes) -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "short-lived"}}
    managed = Managed(provider, namespace).create()
    inside = config_map("inside", a="1")
    inside["metadata"]["namespace"] = "short-lived"
    content = Managed(provider, inside).create()
    managed.delete()
    assert managed.read() is None
    assert content.read() is None


def test_yaml_is_decoded_as_the_api_reads_it(provider: Kubernetes) -> None:
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {day: 2020-01-01}\n---\n# nothing\n"
    call = Call("", "", "")
    arguments = {"text": text, "defaultNamespace": NAMESPACE}
    assert provider.invoke(call, "kubernetes:yaml:decode", arguments)["result"] == [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "a", "namespace": NAMESPACE},
            "data": {"day": "2020-01-01"},
        }
    ]
    with pytest.raises(ProviderError, match="error converting YAML"):
        provider.invoke(call, "kubernetes:yaml:decode", {"text": "a: [\n"})


def test_a_release_is_previewed_and_not_installed(provider: Kubernetes) -> None:
    token = "kubernetes:helm.sh/v3:Release"
    release = provider.resource(token)
    call = Call("urn:pulumi:s::p::kubernetes:helm.sh/v3:Release::l", "l", token, preview=True)
    inputs, failures = release.check(call, {}, {"chart": "longhorn", "namespace": "longhorn-system"})
    assert failures == []
    assert release.create(call, inputs)[1]["status"] is UNKNOWN
    with pytest.raises(ProviderError, match="official pulumi-resource-kubernetes"):
        release.create(Call(call.urn, "l", token), inputs)
    assert release.check(call, {}, {"chart": "x", "chartt": "y"})[1]


@pytest.mark.parametrize(
    "token",
    ["kubernetes:core/v1:ConfigMapList", "kubernetes:helm.sh/v4:Chart", "kubernetes:kustomize/v2:Directory"],
)
def test_what_it_does_not_have_is_refused(provider: Kubernetes, token: str) -> None:
    with pytest.raises(ProviderError):
        provider.resource(token)


@pytest.mark.parametrize("key", ["kubeconfigg", "renderYamlToDirectory"])
def test_a_configuration_that_it_cannot_follow_is_refused(key: str) -> None:
    assert Kubernetes().check_config(Call("", "k", ""), {key: "x"})[1]


def test_without_server_side_apply_it_refuses() -> None:
    assert Kubernetes().check_config(Call("", "k", ""), {"enableServerSideApply": "false"})[1]


def test_the_configuration_stays_as_the_official_plugin_keeps_it() -> None:
    given = {"deleteUnreachable": "false", "enableServerSideApply": "true", "kubeconfig": "{}"}

    assert Kubernetes().check_config(Call("", "k", ""), given) == (given, [])


def test_the_cluster_identifier_alone_decides_on_a_new_cluster() -> None:
    provider = Kubernetes()
    one = kubernetes.KUBECONFIG.read_text()
    other = one.replace("https://127.0.0.1", "https://192.0.2.1")
    renewed = one.replace('"kubernetes-admin"', '"renewed"')
    assert provider.diff_config({"kubeconfig": one}, {"kubeconfig": renewed}).replaces == set()
    assert provider.diff_config({"kubeconfig": one}, {"kubeconfig": other}).replaces == {("kubeconfig",)}
    assert provider.diff_config({"kubeconfig": one}, {"kubeconfig": UNKNOWN}).replaces == {("kubeconfig",)}
    same = {"clusterIdentifier": "a"}
    assert provider.diff_config({"kubeconfig": one} | same, {"kubeconfig": other} | same).replaces == set()
    changed_identifier = provider.diff_config(same, {"clusterIdentifier": "b"})
    assert changed_identifier.replaces == {("clusterIdentifier",)}


def test_an_unreachable_cluster_allows_a_preview_and_nothing_else() -> None:
    provider = configured(kubeconfig=kubernetes.KUBECONFIG.read_text().replace("https://127", "https://126"))
    managed = Managed(provider, config_map("far", a="1"))
    assert managed.preview() == managed.inputs
    for act in (managed.create, lambda: managed.type.read(managed.call(), "x/y", State({}, {}))):
        with pytest.raises(ProviderError, match=r"(?i)unreachable"):
            act()
    forgiving = configured(kubeconfig="{", deleteUnreachable=True)
    assert Managed(forgiving, config_map("far")).type.read(managed.call(), "x/y", State({}, {})) is None
