"""The operators' pages hold: links lead somewhere, and commands name what the program declares."""

import functools
import itertools
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.platform.monitoring.alerts import ALERTS
from infra.platform.monitoring.dashboards import DASHBOARDS
from infra.settings import Settings
from local import toolchain
from local.paths import ROOT
from tests.infra.recording import Recorder, stack
from tests.infra.test_main import run
from tests.runbooks import KINDS, PAGES, Command, calls, commands

INDEX = ROOT / "docs/operations.md"
SECTIONS = ["When", "What it interrupts", "Do", "It worked if", "If not"]
COMMANDS = [command for page in PAGES for command in commands(page)]
PLACEHOLDER = re.compile(r"\$|[A-Z]+$")
"""A word that whoever reads replaces, or that the shell does."""

BY_CHARTS = {
    ("Deployment", "platform-system", "cert-manager"),
    ("Deployment", "activity", "valkey"),
    ("Service", "monitoring", "prometheus-operated"),
    ("DaemonSet", "monitoring", "opentelemetry-collector-agent"),
    ("Pod", "vault", "vault-0"),
    *(("PersistentVolumeClaim", "vault", f"{volume}-vault-0") for volume in ("data", "audit")),
    *((kind, "databases", f"postgres-{n}") for kind in ("Pod", "PersistentVolumeClaim") for n in (1, 2, 3)),
    # Of the cluster that the page itself makes.
    ("Service", "databases", "recovered-rw"),
}
"""What the program does not declare by itself: kind, namespace, name."""
CONTAINERS = {"databases": {"postgres", "plugin-barman-cloud"}}
"""Of pods that charts declare, by namespace."""
WITH_VALUE = {"--raw", "-n", "-o", "-l", "-c", "-p", "-f", "--for", "--type", "--timeout", "--label-columns"}


@pytest.fixture(scope="module")
def production() -> Recorder:
    return run({**stack("prod"), "roster": str(ROOT / "tenants.yaml")})


def each(program: str) -> list[tuple[Command, list[str]]]:
    """The calls of a program in all pages."""
    found = [(command, call) for command in COMMANDS for call in calls(command) if call[0] == program]
    assert found
    return found


def documents() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split() if (ROOT / name).is_file()] + PAGES


@functools.cache
def sections(page: Path) -> list[str]:
    """The fragments by which GitHub knows a page's headings."""
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def broken(page: Path) -> Iterator[str]:
    for target in re.findall(r"\]\(([^()\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, fragment = target.partition("#")
        other = (page.parent / name) if name else page
        if not other.exists() or (fragment and fragment not in sections(other)):
            yield target


def test_every_link_leads_to_a_page_and_a_section() -> None:
    assert {page.name: list(broken(page)) for page in documents() if list(broken(page))} == {}


def test_what_the_programs_say_of_a_page_is_there() -> None:
    files = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    named = {
        (name, page)
        for name in files.stdout.split()
        if (ROOT / name).is_file()
        for page in re.findall(r"(?<![\w/])docs/[\w/-]+\.md\b", (ROOT / name).read_text(encoding="utf-8"))
    }
    assert len(named) > 10
    assert [each for each in named if not (ROOT / each[1]).is_file()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_page_has_the_same_shape(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    parts = re.split(r"^## .+$", text, flags=re.MULTILINE)
    assert all(part.strip() for part in parts)
    assert "(credentials.md)" in parts[0] or page.stem == "credentials"


def test_the_index_has_every_page() -> None:
    linked = re.findall(r"\(runbooks/([\w-]+)\.md\)", INDEX.read_text(encoding="utf-8"))
    assert set(linked) == {page.stem for page in PAGES}


def test_every_alert_has_its_page_which_says_when_it_fires_and_how_urgent_it_is() -> None:
    told = {
        (name, page.stem, severity)
        for page in PAGES
        for name, severity in re.findall(
            r"^(?:- )?Alert `(\w+)` \((page|ticket|never wakes anybody)\)",
            page.read_text(encoding="utf-8").partition("## When\n")[2].partition("\n## ")[0],
            re.MULTILINE,
        )
    }
    never = {"none": "never wakes anybody"}
    assert told == {
        (alert.name, alert.runbook, never.get(alert.severity, alert.severity)) for alert in ALERTS
    }
    rows = re.findall(
        r"^\| \[.+\]\(runbooks/([\w-]+)\.md\) \| (.+) \|$", INDEX.read_text(encoding="utf-8"), re.MULTILINE
    )
    listed = sorted((name, page) for page, names in rows for name in names.split(", "))
    assert listed == sorted((alert.name, alert.runbook) for alert in ALERTS)


def test_every_dashboard_and_panel_that_a_page_names_exists() -> None:
    text = "\n".join(" ".join(page.read_text(encoding="utf-8").split()) for page in PAGES)
    panels = {panel.title for dashboard in DASHBOARDS.values() for panel in dashboard.panels}
    titles = {dashboard.title for dashboard in DASHBOARDS.values()}
    assert set(re.findall(r"[Dd]ashboard \*([^*]+)\*", text)) <= titles
    named = {
        name
        for words in re.findall(r"[Pp]anels? (\*[^*]+\*(?: and \*[^*]+\*)?)", text)
        for name in re.findall(r"\*([^*]+)\*", words)
    }
    assert named and named <= panels


def test_every_make_target_takes_its_variables_and_the_command_behind_it_its_arguments() -> None:
    from local.__main__ import _parser

    for command, (_, target, *variables) in each("make"):
        dry = ["make", "--dry-run", "--old-file=.venv/.ready", target]
        plain, said = (
            subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
            for words in (dry, [*dry, *variables])
        )
        assert said.returncode == 0, f"{command}: {said.stderr}"
        unused = [word for word in variables if word.partition("=")[2] not in said.stdout]
        assert not unused, f"{command}: {target} does nothing with it"
        if variables:
            assert plain.stdout != said.stdout
            for program, *words in calls(Command("", said.stdout.strip())):
                assert (program, words[:2]) == (".venv/bin/python", ["-m", "local"])
                _parser().parse_args(words[2:])


@functools.cache
def help_of(program: Path, *words: str) -> str:
    shown = subprocess.run([program, *words, "--help"], cwd=ROOT, capture_output=True, text=True, check=False)
    return shown.stdout + shown.stderr


def test_every_module_takes_its_options() -> None:
    for command, (_, flag, *rest) in [*each("python"), *each(".venv/bin/python")]:
        if flag != "-m":
            continue
        module, *words = rest
        options = [word for word in words if word.startswith("--")]
        assert (ROOT / module.replace(".", "/")).exists() or (
            ROOT / f"{module.replace('.', '/')}.py"
        ).exists()
        if options:
            shown = help_of(Path(sys.executable), "-m", module)
            assert [option for option in options if option not in shown] == [], command


def test_every_command_of_pulumi_and_bao_exists_and_takes_its_options() -> None:
    pods = [(command, call[call.index("bao") :]) for command, call in each("kubectl") if "bao" in call]
    pulumi, bao = toolchain.tool("pulumi"), Path(sys.prefix) / "bin/bao"
    for program, found in ((pulumi, each("pulumi")), (bao, [*each("bao"), *pods])):
        for command, (_, *words) in found:
            verbs = tuple(itertools.takewhile(lambda word: not word.startswith("-"), words))
            # With a word that is no command, the help is that of the command before it.
            while verbs and help_of(program, *verbs) == help_of(program, *verbs[:-1]):
                verbs = verbs[:-1]
            assert verbs, f"{command}: {program.name} has no such command"
            known = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", help_of(program, *verbs)))
            options = {word.partition("=")[0] for word in words if word.startswith("-")}
            assert options <= known, f"{command}: {program.name} {' '.join(verbs)} has no such option"


def test_what_pulumi_is_to_replace_or_target_is_a_resource_of_the_program(production: Recorder) -> None:
    chosen = [
        (command, pattern)
        for command, call in each("pulumi")
        for option, pattern in itertools.pairwise(call)
        if option in ("--replace", "--target")
    ]
    assert chosen
    for command, pattern in chosen:
        # As the engine has it: `**` stands for any part of a URN, which ends in the type and the name.
        wanted = re.compile(re.escape(pattern).replace(r"\*\*", ".*"))
        found = [one for one in production.registered.values() if wanted.fullmatch(f"{one.type}::{one.name}")]
        assert found, f"{command}: the program registers no such resource"
    for command in COMMANDS:
        for name in re.findall(r"urn:[^ ]*::([\w-]+)\$'", command.text):
            assert name in production.registered, f"{command}: the program registers no {name}"


def test_every_setting_that_is_set_exists() -> None:
    known = Settings.model_json_schema(by_alias=True)["properties"]
    named = [
        (command, word.removeprefix("agent-platform:").split(".")[0])
        for command, call in each("pulumi")
        for word in call
        if word.startswith("agent-platform:")
    ]
    assert named
    assert [told for told in named if told[1] != "NAME" and told[1] not in known] == []


def test_exo_is_asked_for_the_cluster_the_zone_and_the_pools_of_production(production: Recorder) -> None:
    cluster = stack("prod")["cluster"]
    pools = {one.inputs["name"] for one in production.of_type("exoscale:index/sksNodepool:SksNodepool")}
    for command, call in each("exo"):
        if "--zone" in call:
            assert call[call.index("--zone") + 1] == cluster["zone"], command
        if call[1:4] == ["compute", "sks", "kubeconfig"]:
            assert call[4] == cluster["name"], command
        if call[1:4] == ["compute", "sks", "nodepool"]:
            assert (call[5], call[6] in pools) == (cluster["name"], True), command


def declared(recorder: Recorder) -> dict[str, set[tuple[str, str]]]:
    """What the program puts on the cluster: of each kind its namespaces and names."""
    found: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for one in recorder.registered.values():
        metadata = one.inputs.get("metadata")
        if one.type.startswith("kubernetes:") and metadata:
            kind = one.type.rpartition(":")[2]
            found[kind].add((metadata.get("namespace", ""), metadata["name"]))
            if kind == "Certificate":
                found["Secret"].add((metadata["namespace"], one.inputs["spec"]["secretName"]))
    for kind, namespace, name in BY_CHARTS:
        found[kind].add((namespace, name))
    found["VirtualMachineInstance"] = found["VirtualMachine"]
    return found


def made(command: Command) -> set[str]:
    """What the manifests in the command's own page are called."""
    return {
        name
        for other in COMMANDS
        if other.page == command.page
        for name in re.findall(r"metadata: \{name: ([\w-]+)", other.text)
    }


def targets(call: list[str]) -> tuple[str, list[str], list[tuple[str, str]]]:
    """The namespace, the kinds and the named objects, as (kind, name), that a call of kubectl is about."""
    namespace, words = "", []
    rest = iter(call[1 : call.index("--")] if "--" in call else call[1:])
    for word in rest:
        if word == "-n":
            namespace = next(rest)
        elif word in WITH_VALUE:
            next(rest)
        elif word.startswith("--from="):
            words.append(word.removeprefix("--from="))
        elif not word.startswith("-"):
            words.append(word)
    verb, *words = words
    if verb == "rollout":
        words = words[1:]
    if verb == "create" and words:
        # The job's own name is new.
        words = [word for word in words if "/" in word]
    if verb in ("logs", "exec", "port-forward"):
        words = [word if "/" in word else f"pod/{word}" for word in words[:1]]
    if verb == "drain":
        words = ["node", *words]
    slashed = [(kind, name) for kind, slash, name in (word.partition("/") for word in words) if slash]
    if slashed or not words:
        return namespace, [kind for kind, _ in slashed], slashed
    kinds = words[0].split(",")
    return namespace, kinds, [(kinds[0], name) for name in words[1:]]


def test_kubectl_is_asked_for_what_the_program_declares(production: Recorder) -> None:
    there = declared(production)
    namespaces = {name for _, name in there["Namespace"]}
    for command, call in each("kubectl"):
        namespace, kinds, named = targets(call)
        if not PLACEHOLDER.match(namespace) and namespace:
            assert namespace in namespaces, f"{command}: the program declares no namespace {namespace}"
        assert set(kinds) <= KINDS.keys(), f"{command}: no such kind"
        for kind, name in named:
            if not PLACEHOLDER.search(name) and name not in made(command):
                found = there[KINDS[kind]]
                assert (namespace, name) in found, f"{command}: the program declares no {kind} {name} there"


def test_a_list_is_sorted_where_it_is_of_one_kind() -> None:
    """Kubectl sorts no list of several kinds: it answers with an error."""
    for command, call in each("kubectl"):
        if any(word.startswith("--sort-by") for word in call):
            assert len(targets(call)[1]) == 1, command


def test_every_container_whose_log_is_read_is_declared(production: Recorder) -> None:
    there = defaultdict(set, CONTAINERS)
    for one in production.of_type("kubernetes:apps/v1:Deployment"):
        pod = one.inputs["spec"]["template"]["spec"]
        there[one.inputs["metadata"]["namespace"]] |= {
            container["name"] for container in [*pod["containers"], *pod.get("initContainers", ())]
        }
    read = [(command, call) for command, call in each("kubectl") if "-c" in call]
    assert read
    for command, call in read:
        container, namespace = call[call.index("-c") + 1], call[call.index("-n") + 1]
        assert PLACEHOLDER.match(container) or container in there[namespace], command


def test_what_is_tried_only_reads() -> None:
    tried = [command for command in COMMANDS if command.tried]
    assert tried
    for command in tried:
        (call, *piped) = calls(command)
        reads = {
            "kubectl": not {"get", "describe", "logs"}.isdisjoint(call),
            "psql": re.match(r"--command=(SELECT|SHOW) ", call[-1]),
            "make": call[1] in ("status", "costs"),
            "bao": call[1:3] == ["kv", "get"],
        }
        assert reads.get(call[0]), command
        assert all(other[:2] == [".venv/bin/python", "-c"] for other in piped), command
