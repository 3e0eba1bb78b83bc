"""The real Pulumi engine over the program, with the embedded platform as its cloud.

The Automation API hosts the program inline, so no language plugin is needed; an official `pulumi` or provider
plugin found on PATH is used instead of ours, one by one.
"""

import importlib.metadata
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pulumi
import yaml
from pulumi import automation as auto

from infra.tenants import retired
from infra.tenants.roster import load_roster
from local import credentials, losses, recovery, servers, store, toolchain
from local.errors import LocalError
from local.paths import DATA, ROOT
from policy.configuration import PolicyConfigurationError, check_file
from policy.families import all_rules
from policy.rules import Level

PROJECT = "agent-platform"
LOCAL_STACK = "local"

PROVIDERS = ("kubernetes", "exoscale", "postgresql", "vault")
"""The plugins that the program needs; for each we have a stand-in (`local.providers`)."""

_DISTRIBUTIONS = {"exoscale": "pulumiverse-exoscale", "pulumi-python": "pulumi", "policy-python": "pulumi"}
"""The SDKs that are not named `pulumi-PROVIDER`."""

_HOME = DATA / "pulumi"
_PLUGINS = _HOME / "plugins"
_BIN = DATA / "bin"
_PACK = ROOT / "policy"
_PYTHON = (sys.executable, "-u", "-m")
_PLANNING = {"EXOSCALE_API_KEY": "none-to-plan", "EXOSCALE_API_SECRET": "none-to-plan"}
"""A plan from nothing asks Exoscale nothing, yet its provider wants credentials; these open no account."""

_RESOURCE = re.compile(r"^ *\S{0,2} +(?!pulumi:pulumi:Stack)[\w-]+:[\w./-]+:\w+ ")
"""A line of the engine's display that shows a step of a resource other than the stack itself."""

_OF_A_CHECK = re.compile(r"^error: \S+ resource '[^']*': property .*? has a problem: ")
"""What the engine puts before the reason for which a resource's inputs are refused."""

_COLOR = re.compile("\x1b\\[[0-9;]*m")

_ECHO = re.compile(r"error: .*resource \S+ \[\S+\] failed to register\s*$")
"""The program's own error after a resource failed; the engine gives the reason with the resource."""
_END_OF_ECHO = "pulumi.runtime.stack.ResourceRegistrationFailed: "

_WRAPPED = re.compile("an unhandled error occurred: |Exception calling application: ")
"""Put before an error by the engine, and by the process in which a dynamic provider runs."""

_STEPS = ("create", "update", "replace", "delete", "same")


class UpdateError(LocalError):
    """An update that failed; whatever does not depend on the resources that failed is up to date."""

    def __init__(self, message: str, tenants: Iterable[str]) -> None:
        """Take the message and the ids of the tenants with a resource that failed."""
        super().__init__(message)
        self.tenants = frozenset(tenants)


class _InterruptedError(LocalError):
    """The user interrupted the engine."""


@dataclass(frozen=True)
class Plugins:
    """Which plugins the engine gets: `official[NAME]` is a path, or None where our stand-in serves."""

    official: Mapping[str, Path | None]

    def describe(self) -> str:
        """One line for the user."""
        return ", ".join(f"{name} ({path or 'stand-in'})" for name, path in self.official.items())


def install_plugins(stack_name: str, *, official_only: bool, tree: Path = ROOT) -> Plugins:
    """Put the engine and a launcher for each missing plugin into one folder, which leads the engine's PATH.

    `tree` is the checkout whose program runs; plugins that import the program find it there.

    Raises `LocalError` when `official_only` and a plugin is missing.
    """
    plugins = Plugins({name: toolchain.official(f"pulumi-resource-{name}") for name in PROVIDERS})
    missing = [name for name, path in plugins.official.items() if path is None]
    if official_only and missing:
        raise LocalError(
            f"PLUGINS=official, but {', '.join(f'pulumi-resource-{name}' for name in missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not on PATH, so a stand-in would serve; nothing "
            "was started. Install the official plugin (`pulumi plugin install resource NAME VERSION`, then "
            "put its folder on PATH) or run without PLUGINS=official."
        )
    shutil.rmtree(_BIN, ignore_errors=True)
    shutil.rmtree(_PLUGINS, ignore_errors=True)
    store.private_folder(_BIN)
    store.private_folder(_HOME)
    (_BIN / "pulumi").symlink_to(toolchain.tool("pulumi"))
    for program in ("pg_dump", "pg_restore"):  # of the server's version; this machine's may be older
        (_BIN / program).symlink_to(servers.postgres.BIN / program)
    for name in missing:
        _launcher(_installed(name), [*_PYTHON, f"local.providers.{name}"], tree)
    # With an inline program there is no language plugin to start these two.
    _launcher(_installed("pulumi-python"), [*_PYTHON, "local.plugin_host", "pulumi.dynamic"], tree)
    _launcher(_installed("policy-python", "analyzer"), [*_PYTHON, "local.plugin_host", "policy"], ROOT)
    exoscale = plugins.official["exoscale"]
    if exoscale and stack_name == LOCAL_STACK:
        # Some of its resources call the official names whatever the endpoint; a proxy answers it alone.
        _launcher(
            _BIN / "pulumi-resource-exoscale", [str(exoscale)], tree, servers.exoscale.proxy_environment()
        )
    return plugins


def _installed(name: str, kind: str = "resource") -> Path:
    """Where the engine looks for its own copy of a plugin, of the SDK's version; of one on PATH it warns."""
    distribution = _DISTRIBUTIONS.get(name, f"pulumi-{name}")
    version = importlib.metadata.version(distribution)
    return _PLUGINS / f"{kind}-{name}-v{version}" / f"pulumi-{kind}-{name}"


def _launcher(
    path: Path, command: Sequence[str], tree: Path, environment: Mapping[str, str] | None = None
) -> None:
    """An executable that becomes `command`; a module is imported from `tree`, or else from this checkout."""
    exports = {
        "PYTHONPATH": os.pathsep.join(dict.fromkeys([str(tree), str(ROOT)])),
        **(environment or {}),
    }
    lines = [f"export {variable}={shlex.quote(value)}" for variable, value in exports.items()]
    store.write_text(path, "\n".join(["#!/bin/sh", *lines, f'exec {shlex.join(command)} "$@"', ""]))
    path.chmod(0o700)


def stack(
    name: str,
    *,
    program: Callable[[], None] | None = None,
    settings: Mapping[str, Any] | None = None,
    tree: Path = ROOT,
    backend: str | None = None,
) -> auto.Stack:
    """Select stack `name`, made on first use in a file backend below the data folder.

    `program` and `settings` (over those of the committed file) are for measuring; `tree` is the checkout
    whose roster and settings count.

    `local` gets the endpoints and credentials of the running servers; any other stack is read from its
    committed file alone and lives in a backend that is emptied first: its preview is the plan from nothing.
    With `backend`, the URL of the one that keeps its real state, it is read there, with the environment's own
    credentials.

    Raises `LocalError` when there is no such stack, or the backend does not let us in.
    """
    settings_file = tree / f"Pulumi.{name}.yaml"
    if not settings_file.is_file():
        raise LocalError(f"There is no {settings_file.name}, so there is no stack {name!r} to show.")
    home = _home(name)
    if name != LOCAL_STACK:
        shutil.rmtree(home, ignore_errors=True)
    store.private_folder(_backend(name))
    local = name == LOCAL_STACK
    secrets = servers.stack_secrets() if local else {}
    document = yaml.safe_load(settings_file.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or not isinstance(document.get("config"), dict):
        raise LocalError(f"{settings_file.name} has no `config:` mapping, so the stack has no settings.")
    overlay = {
        "agent-platform:roster": str(tree / "tenants.yaml"),
        **(servers.stack_settings() if local else {}),
    }
    document["config"] = _merged(document["config"], {**overlay, **(settings or {})})
    if secrets:
        _keep_encrypted(document, home / settings_file.name, secrets)
    store.write_text(home / settings_file.name, yaml.safe_dump(document, sort_keys=False))
    ours = {
        "PULUMI_BACKEND_URL": _backend(name).as_uri(),
        "PULUMI_CONFIG_PASSPHRASE": credentials.secret("pulumi-passphrase"),
        # The servers are on loopback, whatever proxy this machine uses.
        "NO_PROXY": "127.0.0.1,localhost",
        **(servers.exoscale.environment() if local else _PLANNING),
    }
    select = auto.select_stack if backend else auto.create_or_select_stack
    try:
        selected = select(
            stack_name=name,
            project_name=PROJECT,
            program=_Program(program or _infra),
            opts=_workspace(home, {"PULUMI_BACKEND_URL": backend} if backend else ours),
        )
        _set_secrets(selected, secrets)
    except auto.CommandError as error:
        raise LocalError(
            "\n".join(
                [
                    f"The stack {name!r} cannot be read from its backend; nothing was planned.",
                    *_reasons(error),
                ]
            )
        ) from None
    return selected


def _keep_encrypted(document: dict[str, Any], before: Path, secrets: Iterable[str]) -> None:
    """Take over from the file of an earlier run, if it is whole, what the engine encrypted then."""
    try:
        known = yaml.safe_load(before.read_text(encoding="utf-8"))
        encrypted = {key: known["config"][key] for key in secrets}
        document["encryptionsalt"] = known["encryptionsalt"]
    except (FileNotFoundError, yaml.YAMLError, KeyError, TypeError):
        return
    document["config"] |= encrypted


def _set_secrets(selected: auto.Stack, secrets: Mapping[str, str]) -> None:
    """Give the engine the secrets that it does not have yet by its standard input.

    `Stack.set_config` would put them on a command line, which every user of the machine can read.
    """
    known = selected.get_all_config() if secrets else {}
    workspace = selected.workspace
    for key, value in secrets.items():
        if key in known and known[key].value == value:
            continue
        done = subprocess.run(
            [_BIN / "pulumi", "config", "set", key, "--secret", "--raw", "--non-interactive"],
            cwd=workspace.work_dir,
            env={
                **os.environ,
                **workspace.env_vars,
                "PULUMI_HOME": str(_HOME),
                "PULUMI_STACK": selected.name,
            },
            input=value,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LocalError(f"{key} cannot be set; nothing was changed.\n{done.stderr.strip()}")


def beside(
    selected: auto.Stack, name: str, config: Mapping[str, Any], *, program: Callable[[], None] | None = None
) -> auto.Stack:
    """A stack in the backend of `selected`, with that configuration: one of some layers, or of one slice."""
    home = _home(selected.name) / "beside" / name
    document = yaml.safe_dump({"config": dict(config)}, sort_keys=False)
    store.write_text(home / f"Pulumi.{name}.yaml", document)
    return auto.create_or_select_stack(
        stack_name=name,
        project_name=PROJECT,
        program=_Program(program or _infra),
        opts=_workspace(home, selected.workspace.env_vars),
    )


@contextmanager
def unprotected(selected: auto.Stack) -> Iterator[auto.Stack]:
    """A copy of a stack in which nothing is protected, for a preview of what is not going to be done."""
    exported = selected.export_stack()
    for resource in (exported.deployment or {}).get("resources", ()):
        resource.pop("protect", None)
    with tempfile.TemporaryDirectory(dir=DATA) as folder:
        home = Path(folder)
        settings = f"Pulumi.{selected.name}.yaml"
        shutil.copy(_home(selected.name) / settings, home / settings)
        backend = home / "state"
        backend.mkdir()
        copied = auto.create_or_select_stack(
            stack_name=selected.name,
            project_name=PROJECT,
            program=_Program(_infra),
            opts=_workspace(home, {**selected.workspace.env_vars, "PULUMI_BACKEND_URL": backend.as_uri()}),
        )
        copied.import_stack(exported)
        yield copied


def _workspace(home: Path, environment: Mapping[str, str]) -> auto.LocalWorkspaceOptions:
    return auto.LocalWorkspaceOptions(
        work_dir=str(home),
        pulumi_home=str(_HOME),
        pulumi_command=auto.PulumiCommand(root=str(DATA), skip_version_check=True),
        project_settings=auto.ProjectSettings(name=PROJECT, runtime="python"),
        env_vars={
            "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            **environment,
        },
    )


def _home(name: str) -> Path:
    return DATA / "stacks" / name


def _backend(name: str) -> Path:
    return _home(name) / "state"


class _Program:
    """The program, remembering the user's mistake that stopped it: the engine would tell it three times."""

    def __init__(self, run: Callable[[], None]) -> None:
        self._run = run
        self.mistake: pulumi.RunError | None = None

    def __call__(self) -> None:
        try:
            self._run()
        except pulumi.RunError as mistake:
            self.mistake = mistake
            raise


def _infra() -> None:
    runpy.run_module("infra", run_name="__main__")


def _merged(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in overlay.items():
        below = merged.get(key)
        merged[key] = _merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def up(selected: auto.Stack, *, output: Callable[[str], None]) -> dict[str, int]:
    """Bring the stack to what the program declares; an interrupted update before this one is mended first.

    Returns the number of resources per step, as `changes`. Raises `UpdateError` when the update fails: what
    it had made is in the state, and the next run goes on from there. Retired tenants are removed even then.
    """
    recovery.recover(
        selected,
        backend=_backend(selected.name),
        environment=selected.workspace.env_vars,
        output=output,
    )
    preview(selected, output=lambda _line: None)  # refused here, an update has touched nothing
    consequence = "What it had made is kept, and the next `make up` goes on from there."
    refusals: list[str] = []
    failed: set[str] = set()

    def watch(event: auto.EngineEvent) -> None:
        failure = event.res_op_failed_event
        if failure and (owner := retired.part_of(failure.metadata.urn)):
            failed.add(owner[0])

    try:
        with _told(selected, output, "update", consequence, refusals) as display:
            result = selected.up(
                on_output=display,
                color=_color(),
                suppress_outputs=True,
                suppress_progress=True,
                # What is wrong with one tenant keeps nobody else from being brought up to date.
                continue_on_error=True,
                **_guard_rails(selected.name, refusals, watch),
            )
    except _InterruptedError:
        raise
    except LocalError as error:
        removals = _remove_retired(selected, failed, output)
        raise UpdateError("\n".join([str(error), *removals]), failed) from None
    return changes({str(step): count for step, count in (result.summary.resource_changes or {}).items()})


def _remove_retired(
    selected: auto.Stack, failed: Collection[str], output: Callable[[str], None]
) -> Iterator[str]:
    """Remove who has left, which an update with a failure does not; yield how that went.

    A tenant in `failed` is left alone: its removal is what failed.
    """
    left = retired.remaining(
        selected.export_stack().deployment or {}, load_roster(_roster(_config(selected)))
    )
    for tenant in sorted(left.keys() - failed):
        output(f"Removing {tenant} by itself, since the update failed for another reason …")
        try:
            with _told(selected, output, f"removal of {tenant}", "The next `make up` goes on.") as display:
                selected.destroy(
                    target=left[tenant],
                    on_output=display,
                    color=_color(),
                    suppress_outputs=True,
                    suppress_progress=True,
                )
        except LocalError as error:
            yield str(error)
        else:
            yield f"{tenant}: has left, and is removed all the same."


def preview(
    selected: auto.Stack,
    *,
    output: Callable[[str], None],
    on_event: Callable[[auto.EngineEvent], None] | None = None,
) -> dict[str, int]:
    """What `up` would change, as `changes`; `output` gets the engine's own display, `on_event` its events."""
    refusals: list[str] = []
    with _told(selected, output, "preview", "Nothing was changed.", refusals) as display:
        result = selected.preview(
            on_output=display,
            color=_color(),
            suppress_outputs=True,
            suppress_progress=True,
            **_guard_rails(selected.name, refusals, on_event),
        )
    return changes({str(step): count for step, count in result.change_summary.items()})


def refresh(selected: auto.Stack) -> None:
    """Ask the servers what is there, and leave out of the state what is gone. Raises `LocalError`."""
    with _told(selected, lambda _line: None, "refresh", "The state is as it was.") as display:
        selected.refresh(on_output=display, color=_color(), suppress_outputs=True, suppress_progress=True)


def _guard_rails(
    stack_name: str, refusals: list[str], on_event: Callable[[auto.EngineEvent], None] | None = None
) -> dict[str, Any]:
    """What has the engine judge every resource by the policy pack, as the stack configures it.

    What must not ship is added to `refusals`; every event goes on to `on_event`. Raises `LocalError` when the
    configuration has mistakes, part of which the engine would let pass.
    """
    configuration = _PACK / f"config.{stack_name}.json"
    given = configuration.is_file()
    if given:
        try:
            check_file(configuration, all_rules())
        except PolicyConfigurationError as error:
            raise LocalError(str(error)) from None

    def watch(event: auto.EngineEvent) -> None:
        finding = event.policy_event
        if finding and finding.enforcement_level == Level.MANDATORY.value:
            refusals.append(finding.message.strip())
        if on_event:
            on_event(event)

    return {
        "policy_packs": [str(_PACK)],
        "policy_pack_configs": [str(configuration)] if given else None,
        "on_event": watch,
    }


def changes(summary: Mapping[str, int]) -> dict[str, int]:
    """The engine's summary as the five counts of the command's JSON; a step that did not occur counts 0."""
    return {step: summary.get(step, 0) for step in _STEPS}


def _color() -> str:
    return "always" if sys.stderr.isatty() else "never"


@contextmanager
def _told(
    selected: auto.Stack,
    output: Callable[[str], None],
    what: str,
    consequence: str,
    refusals: Sequence[str] = (),
) -> Iterator[Callable[[str], None]]:
    """Pass the engine's display on, and make one message of a failure: what `refusals` holds, if anything.

    What the display says of the stack alone is held back until the first resource shows: a mistake that stops
    the program before that is the only thing to tell. Ctrl-C reaches the engine itself, which ends its steps
    and writes its state; here it is acknowledged.
    """
    held: list[str] | None = []
    echoed = _Echo()
    interrupted = False

    def release() -> None:
        nonlocal held
        lines, held = held or [], None
        for line in lines:
            output(line)

    def display(line: str) -> None:
        if held is not None and not _RESOURCE.match(_COLOR.sub("", line)):
            held.append(line)
            return
        release()
        if not echoed(line):
            output(line)

    def acknowledge(_signal: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        output("Interrupted: waiting for the engine to finish the steps under way (again: end at once).")

    previous = signal.signal(signal.SIGINT, acknowledge)
    try:
        yield display
        release()
    except auto.CommandError as error:
        program = selected.workspace.program
        if isinstance(program, _Program) and program.mistake:
            raise LocalError(str(program.mistake)) from None
        release()
        reasons = refusals or _losses(selected, str(error)) or _reasons(error)
        failure = _InterruptedError if interrupted else LocalError
        raise failure("\n".join([f"the {what} failed. {consequence}", *reasons])) from None
    finally:
        signal.signal(signal.SIGINT, previous)


def _losses(selected: auto.Stack, told: str) -> list[str]:
    """Whose data the engine refused to delete, where that is what it told."""
    config = _config(selected)
    return list(losses.reasons(told, _roster(config), config.get("agent-platform:shard")))


def _config(selected: auto.Stack) -> dict[str, str]:
    return {key: setting.value for key, setting in selected.get_all_config().items()}


def _roster(config: Mapping[str, str]) -> Path:
    return ROOT / config.get("agent-platform:roster", "tenants.yaml")


def _reasons(error: auto.CommandError) -> list[str]:
    """What the engine's output calls errors, each once; all of it where nothing is called one."""
    lines = (
        _WRAPPED.sub("", _OF_A_CHECK.sub("error: ", line.strip().removeprefix("stderr: ")), 1)
        for line in str(error).splitlines()
    )
    errors = dict.fromkeys(line for line in lines if line.startswith("error:"))
    reasons = [line for line in errors if not (_ECHO.search(line) or line == "error: update failed")]
    return reasons or list(errors) or [str(error)]


class _Echo:
    """Recognizes the lines with which the program repeats, with a traceback, that a resource failed."""

    def __init__(self) -> None:
        self._echoed = self._in_traceback = False

    def __call__(self, line: str) -> bool:
        """Return whether the next line of the engine's display is one of them."""
        text = _COLOR.sub("", line).strip()
        if self._in_traceback:
            self._in_traceback = not text.startswith(_END_OF_ECHO)
            return True
        self._in_traceback = self._echoed and text.startswith("Traceback ")
        self._echoed = bool(_ECHO.search(text))
        return self._echoed or self._in_traceback


def tenants(stack_name: str) -> list[dict[str, Any]]:
    """The tenants that the last update declared, none before the first: the program's `tenants` output.

    Read from the backend's own file: the engine takes seconds to answer what `status` asks often.
    """
    resources = exported(stack_name)["deployment"].get("resources", [])
    root: dict[str, Any] = next((item for item in resources if item["type"] == "pulumi:pulumi:Stack"), {})
    return list(root.get("outputs", {}).get("tenants", []))


def exported(stack_name: str) -> dict[str, Any]:
    """The state as `pulumi stack export` tells it; one without resources before the first update."""
    file = _backend(stack_name) / ".pulumi" / "stacks" / PROJECT / f"{stack_name}.json"
    if not file.is_file():
        return {"version": 3, "deployment": {}}
    kept = json.loads(file.read_text(encoding="utf-8"))
    return {"version": kept["version"], "deployment": kept["checkpoint"].get("latest") or {}}


def as_json(value: object) -> str:
    """One line of JSON for scripts."""
    return json.dumps(value, separators=(", ", ": "))
