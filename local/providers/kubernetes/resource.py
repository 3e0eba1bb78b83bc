"""A Kubernetes object as a resource: any kind, built in or custom, and the Patch of either."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from local.providers.kubernetes import managers, manifest, readiness, replacement
from local.providers.kubernetes.cluster import Cluster, NoMatchError, RefusedError
from local.providers.kubernetes.connection import Connection
from local.providers.kubernetes.manifest import Manifest
from local.providers.kubernetes.readiness import NotReadyError
from local.providers.provider import Call, Diff, Failure, InitializationError, ProviderError, Resource, State
from local.providers.values import Properties, differences, has_unknown

_LOG = logging.getLogger(__name__)

_ATTEMPTS = 5
"""A creation is tried again this often while what stands in its way passes: see `_passes`."""

_REPLACE_UNREADY = "pulumi.com/replaceUnready"
_PROPAGATION = "pulumi.com/deletionPropagationPolicy"

_EXISTS = """

The resource already exists in the cluster. This can happen when:

  - Renaming a Pulumi resource: use an alias to preserve the identity,
    or use deleteBeforeReplace if the resource needs replacement.
  - Managing an existing resource: use a Patch resource (e.g. NamespacePatch)
    to manage specific fields without owning the resource lifecycle.
  - Adopting a resource into Pulumi: use `pulumi import`. Note that
    protected resources (e.g. kube-system) cannot be deleted on destroy.
  - Intentional upsert: set upsertExistingObjects on the provider to allow
    server-side apply to update existing objects on create."""
_CONFLICT_HELP = (
    "https://www.pulumi.com/registry/packages/kubernetes/how-to-guides/"
    "managing-resources-with-server-side-apply/#handle-field-conflicts-on-existing-resources"
)
_FORGET_HELP = (
    "If the cluster was deleted, you can remove this resource from Pulumi state by rerunning the operation "
    'with the PULUMI_K8S_DELETE_UNREACHABLE environment variable set to "true"'
)


class KubernetesObject(Resource):
    """Any kind of object; which one it is stands in the inputs."""

    def __init__(self, connection: Connection) -> None:
        """The objects of one cluster."""
        self._connection = connection
        self._settings = connection.settings

    def check(self, call: Call, old: Properties, new: Properties) -> tuple[Properties, list[Failure]]:
        """The inputs with a name and a namespace, as the server will see them."""
        if self._settings.skip_update_unreachable and self._connection.unreachable:
            call.warn("Cluster is unreachable but skipUpdateUnreachable flag is set to true, skipping...")
            return old, []
        inputs = manifest.normalized(new)
        if manifest.annotation(inputs, manifest.AUTONAMED):
            call.warn(f'ignoring user-specified value for internal annotation "{manifest.AUTONAMED}"')
        readiness.validate(inputs)
        inputs = _named(call, old, inputs)
        default = self._connection.default_namespace
        homeless = not manifest.metadata(inputs).get("namespace")
        if default and homeless and self._connection.namespaced(inputs):
            inputs = manifest.with_namespace(inputs, default)
        if inputs.get("kind") == "CustomResourceDefinition":
            self._connection.declare(inputs)
        return manifest.with_secrets(inputs), []

    def diff(self, call: Call, id: str, old: State, new: Properties) -> Diff:
        """What differs between the live object, as far as the last inputs shaped it, and the new inputs."""
        del id
        old_inputs, old_live = manifest.parse_checkpoint(old.outputs)
        live = manifest.pruned(old_live, manifest.normalized(old_inputs))
        wanted = manifest.normalized(new)
        place = self._connection.namespaced(wanted)
        live = manifest.with_namespace(live, (manifest.namespace(live) or "default") if place else "")
        if not has_unknown(manifest.metadata(wanted).get("namespace")):
            wanted = manifest.with_namespace(
                wanted, (manifest.namespace(wanted) or "default") if place else ""
            )
        fields: tuple[str, ...] = replacement.IDENTITY
        if not _is_patch(call, wanted):
            fields = replacement.fields(
                wanted,
                secret_mutable=self._settings.secret_mutable,
                config_map_mutable=self._settings.config_map_mutable,
            )
        diff = Diff(changes=dict(differences(live, wanted)))
        diff.replaces = {path for path in diff.changes if replacement.replaces(path, fields)}
        self._replace_unready(call, old_live, wanted, diff)
        diff.delete_before_replace = (
            bool(diff.replaces)
            and manifest.is_named(wanted)
            and manifest.annotation(wanted, manifest.AUTONAMED) != "true"
            and manifest.name(wanted) == manifest.name(old_live)
            and manifest.namespace(wanted) == manifest.namespace(old_live)
        )
        return diff

    def _replace_unready(self, call: Call, old_live: Manifest, wanted: Manifest, diff: Diff) -> None:
        if manifest.annotation(wanted, _REPLACE_UNREADY) != "true":
            return
        if wanted.get("kind") != "Job":
            call.warn("replaceUnready annotation is not supported for this resource")
        elif self._connection.unreachable:
            call.warn("Cluster is unreachable, skipping replaceUnready check")
        else:
            job = self._connection.cluster.find(old_live)
            try:
                if job is not None:
                    readiness.check_ready(self._connection.cluster, job, {})
            except NotReadyError:
                path = ("metadata", "annotations", _REPLACE_UNREADY)
                diff.changes[path] = "update"
                diff.replaces.add(path)

    def create(self, call: Call, inputs: Properties) -> tuple[str, Properties]:
        """Make it and wait until it is ready; in a preview the server tells what it would make, if it can."""
        if call.preview and (
            has_unknown(inputs) or _is_patch(call, inputs) or not self._connection.serves(inputs)
        ):
            return "", manifest.with_secrets(inputs)
        cluster = self._connection.cluster
        owner = managers.manager(call.urn, inputs, {})
        try:
            live = self._make(cluster, call, inputs, owner)
        except RefusedError as error:
            if call.preview and (error.forbidden or error.namespace_not_found or error.already_exists):
                return "", manifest.with_secrets(inputs)
            help_text = _EXISTS if error.already_exists else ""
            raise ProviderError(
                f'resource "{call.urn}" was not successfully created by the Kubernetes API server: '
                f"{error}{help_text}"
            ) from error
        except NoMatchError as error:
            raise ProviderError(
                f'creation of resource "{call.urn}" with kind {inputs["apiVersion"]}/{inputs["kind"]} failed '
                "because the Kubernetes API server reported that the apiVersion for this resource does not "
                f"exist. Verify that any required CRDs have been created: {error}"
            ) from error
        if call.preview:
            live.pop("status", None)
            return "", manifest.checkpoint(inputs, live, inputs["apiVersion"], owner)
        failed = (
            f'resource "{call.urn}" was successfully created, but the Kubernetes API server reported that it '
            "failed to fully initialize or become live"
        )
        with _kept(failed, inputs, inputs["apiVersion"], owner):
            live = readiness.wait_ready(cluster, live, inputs, call)
        if inputs.get("kind") == "CustomResourceDefinition":
            cluster.forget_kinds()
        return manifest.identifier(live), manifest.checkpoint(inputs, live, inputs["apiVersion"], owner)

    def _make(self, cluster: Cluster, call: Call, inputs: Properties, owner: str) -> Manifest:
        wanted = manifest.to_server(inputs)
        pause = 1.0
        for attempt in range(_ATTEMPTS + 1):
            try:
                if self._settings.upsert or _is_patch(call, inputs):
                    force = managers.force(
                        inputs, None, always=self._settings.patch_force, preview=call.preview
                    )
                    with _explained_conflict(owner):
                        return cluster.apply(wanted, manager=owner, force=force, dry_run=call.preview)
                return cluster.create(wanted, manager=managers.CREATOR, dry_run=call.preview)
            except (NoMatchError, RefusedError) as error:
                if call.preview or not _passes(error) or attempt == _ATTEMPTS or call.cancelled.wait(pause):
                    raise
                _LOG.debug("%s: tried again after: %s", call.urn, error)
                pause *= 2
        raise AssertionError("the last attempt returns or raises")

    def read(self, call: Call, id: str, state: State) -> State | None:
        """What it is now. The inputs are what of it answers to the last inputs; of an import, all of it."""
        if reason := self._connection.unreachable:
            return self._read_unreachable(call, state, reason)
        namespace, name = manifest.split_identifier(id)
        if not name:
            raise ProviderError(
                "failed to read resource because of a failure to parse resource name from request ID: " + id
            )
        known_inputs, known_live = manifest.parse_checkpoint(state.outputs)
        old_inputs = state.inputs or known_inputs
        sought = _identity(call, {**known_live, **old_inputs}, namespace, name)
        cluster = self._connection.cluster
        live = cluster.find(sought)
        if live is None:
            return None
        imported = not old_inputs.get("kind")
        inputs = _importable(live) if imported else manifest.pruned(live, manifest.normalized(old_inputs))
        owner = managers.manager(call.urn, inputs, state.outputs)
        version = str(state.outputs.get("__initialApiVersion") or inputs["apiVersion"])
        if not imported:
            with _kept("", inputs, version, owner):
                readiness.check_ready(cluster, live, inputs)
        return State(manifest.with_secrets(inputs), manifest.checkpoint(inputs, live, version, owner))

    def _read_unreachable(self, call: Call, state: State, reason: str) -> State | None:
        call.warn(f"configured Kubernetes cluster is unreachable: {reason}")
        if self._settings.delete_unreachable:
            return None
        if self._settings.skip_update_unreachable:
            return state
        raise ProviderError(
            f"failed to read resource state due to unreachable cluster ({reason}). {_FORGET_HELP}"
        )

    def update(self, call: Call, id: str, old: State, inputs: Properties) -> Properties:
        """Apply the new inputs and wait until it is ready again; in a preview the server foretells it."""
        inputs = manifest.normalized(inputs)
        if call.preview and (has_unknown(inputs) or not self._connection.serves(inputs)):
            return manifest.with_secrets(inputs)
        cluster = self._connection.cluster
        old_inputs, old_live = manifest.parse_checkpoint(old.outputs)
        owner = managers.manager(call.urn, inputs, old.outputs)
        former = managers.manager(call.urn, old_inputs, old.outputs)
        version = str(old.outputs.get("__initialApiVersion") or old_inputs.get("apiVersion", ""))
        try:
            live = cluster.get(old_live)
            force = managers.force(inputs, live, always=self._settings.patch_force, preview=call.preview)
            if not call.preview and not _is_patch(call, inputs):
                live = managers.take_over(cluster, live, owner)
            with _explained_conflict(owner):
                live = cluster.apply(inputs, manager=owner, force=force, dry_run=call.preview)
        except RefusedError as error:
            if call.preview and error.forbidden:
                return manifest.with_secrets(inputs)
            raise ProviderError(f'update of resource "{call.urn}" failed: {error}') from error
        except NoMatchError as error:
            raise ProviderError(
                f'update of resource "{call.urn}" failed because the Kubernetes API server reported that the '
                f"apiVersion for this resource does not exist. Verify that any required CRDs have been "
                f"created: {error}"
            ) from error
        if not call.preview:
            failed = (
                f'the Kubernetes API server reported that "{id}" failed to fully initialize or become live'
            )
            with _kept(failed, inputs, version, owner):
                live = readiness.wait_ready(cluster, live, inputs, call)
            if former != owner:
                managers.relinquish(cluster, live, former)
            if inputs.get("kind") == "CustomResourceDefinition":
                cluster.forget_kinds()
        return manifest.checkpoint(inputs, live, version, owner)

    def delete(self, call: Call, id: str, state: State) -> None:
        """Delete it and wait until it is gone. A Patch only gives up its fields."""
        if reason := self._connection.unreachable:
            call.warn(f"configured Kubernetes cluster is unreachable: {reason}")
            if self._settings.delete_unreachable:
                return
            raise ProviderError(f"configured Kubernetes cluster is unreachable. {_FORGET_HELP}")
        inputs, known_live = manifest.parse_checkpoint(state.outputs)
        namespace, name = manifest.split_identifier(id)
        sought = _identity(call, known_live or state.inputs, namespace, name)
        cluster = self._connection.cluster
        live = cluster.find(sought)
        if live is None:
            return
        owner = managers.manager(call.urn, inputs, state.outputs)
        if _is_patch(call, inputs):
            self._release(cluster, live, owner)
            return
        policy = manifest.annotation(inputs, _PROPAGATION).capitalize()
        try:
            cluster.delete(sought, propagation=policy if policy in ("Orphan", "Background") else "Foreground")
        except RefusedError as error:
            if error.not_found:
                return
            raise
        with _kept("", inputs, str(state.outputs.get("__initialApiVersion", "")), owner):
            readiness.wait_gone(cluster, live, inputs, call)
        if inputs.get("kind") == "CustomResourceDefinition":
            cluster.forget_kinds()

    def _release(self, cluster: Cluster, live: Manifest, owner: str) -> None:
        try:
            managers.relinquish(cluster, live, owner)
        except RefusedError as error:
            required = [
                cause.get("field", "")
                for cause in error.details.get("causes", [])
                if cause.get("reason") == "FieldValueRequired"
            ]
            if not required:
                raise
            raise ProviderError(
                "this Patch resource is currently managing a required field, so it can't be deleted "
                "directly. Either set the `retainOnDelete` resource option, or transfer ownership of the "
                f"field before deleting: {required[0]}"
            ) from error


def _passes(error: NoMatchError | RefusedError) -> bool:
    """What it needs is on its way, or the object before it still on its way out."""
    if isinstance(error, NoMatchError):
        return True
    return error.not_found or (error.already_exists and str(error).startswith("object is being deleted"))


def _named(call: Call, old: Properties, inputs: Properties) -> Properties:
    if _is_patch(call, inputs):
        if not manifest.is_named(inputs):
            raise ProviderError("patch resources require the `.metadata.name` field to be set")
        return inputs
    if manifest.is_named(inputs):
        return inputs
    if manifest.metadata(inputs).get("generateName"):
        raise ProviderError("the `.metadata.generateName` field is not supported in Server-Side Apply mode")
    if manifest.annotation(old, manifest.AUTONAMED) == "true":
        return manifest.named(inputs, manifest.name(old))
    return manifest.autonamed(inputs, call.name, call.random_seed)


def _is_patch(call: Call, inputs: Properties) -> bool:
    """The type `NamespacePatch` holds a part of an object of kind `Namespace`."""
    return call.token.rpartition(":")[2] == f"{inputs.get('kind')}Patch"


def _identity(call: Call, known: Properties, namespace: str, name: str) -> Manifest:
    """Enough of an object to find it; an import knows its kind from the type alone."""
    api_version, kind = str(known.get("apiVersion", "")), str(known.get("kind", ""))
    if not kind:
        _, api_version, kind = call.token.split(":")
        api_version = api_version.removeprefix("core/")
        kind = kind.removesuffix("Patch")
    about = {"name": name, "namespace": namespace or manifest.namespace(known)}
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {key: value for key, value in about.items() if value},
    }


_NOT_INPUTS = ("status",)
_NOT_ANNOTATIONS = ("deployment.kubernetes.io/revision", "kubectl.kubernetes.io/last-applied-configuration")


def _importable(live: Manifest) -> Properties:
    """What of a live object a program would write."""
    inputs = {key: value for key, value in live.items() if key not in _NOT_INPUTS}
    inputs = manifest.normalized(inputs)
    annotations = inputs["metadata"].get("annotations")
    if annotations:
        kept = {key: value for key, value in annotations.items() if key not in _NOT_ANNOTATIONS}
        inputs["metadata"] = {**inputs["metadata"], "annotations": kept}
    return inputs


@contextmanager
def _kept(failed: str, inputs: Properties, version: str, owner: str) -> Iterator[None]:
    """An object that is there but not ready goes into the state, with what it waits for."""
    try:
        yield
    except NotReadyError as error:
        message = f"{failed}: {error.message}" if failed else error.message
        raise InitializationError(
            [message, *error.reasons],
            id=manifest.identifier(error.live),
            inputs=manifest.with_secrets(inputs),
            outputs=manifest.checkpoint(inputs, error.live, version, owner),
        ) from error


@contextmanager
def _explained_conflict(owner: str) -> Iterator[None]:
    try:
        yield
    except RefusedError as error:
        if not error.conflict:
            raise
        raise ProviderError(
            f"server-side apply field conflict detected, see {_CONFLICT_HELP} for troubleshooting help\n"
            f"The resource managed by field manager {json.dumps(owner)} had an apply conflict: {error}"
        ) from error
