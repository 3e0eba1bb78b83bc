"""The commands of the operators' pages, as the pages have them: `docs/runbooks`."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from local.paths import ROOT

FOLDER = ROOT / "docs/runbooks"
PAGES = sorted(FOLDER.glob("*.md"))
PROGRAMS = (
    "aws",
    "bao",
    "exo",
    "kubectl",
    "make",
    "psql",
    "pulumi",
    "python",
    ".venv/bin/python",
    "redis-cli",
)
"""The clients that are looked at, wherever in a line they stand."""
KINDS = {
    "certificates.cert-manager.io": "Certificate",
    "clusters.postgresql.cnpg.io": "Cluster",
    "configmap": "ConfigMap",
    "configmaps": "ConfigMap",
    "cronjob": "CronJob",
    "cronjobs": "CronJob",
    "daemonset": "DaemonSet",
    "deploy": "Deployment",
    "endpointslices": "EndpointSlice",
    "events": "Event",
    "jobs": "Job",
    "namespaces": "Namespace",
    "node": "Node",
    "nodes": "Node",
    "pod": "Pod",
    "pods": "Pod",
    "pv": "PersistentVolume",
    "pvc": "PersistentVolumeClaim",
    "quota": "ResourceQuota",
    "recurringjobs.longhorn.io": "RecurringJob",
    "scheduledbackups.postgresql.cnpg.io": "ScheduledBackup",
    "secret": "Secret",
    "service": "Service",
    "vm": "VirtualMachine",
    "vmi": "VirtualMachineInstance",
    # Two groups have a Backup, and Longhorn has Nodes of its own: such a kind is named with its group.
    "backups.longhorn.io": "Backup",
    "backups.postgresql.cnpg.io": "Backup",
    "backuptargets.longhorn.io": "BackupTarget",
    "nodes.longhorn.io": "Node",
    "replicas.longhorn.io": "Replica",
    "volumes.longhorn.io": "Volume",
}
"""The kinds that pages name, as kubectl takes them, and what the API calls them."""
_BLOCK = re.compile(r"^( *)```(console|shellsession)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:kubectl|make|pulumi|bao|exo|redis-cli) [^`]+)`")
_COMMENT = re.compile(r"\s+# .*")
_HEREDOC = re.compile(r"<<'?(\w+)'?$")


@dataclass(frozen=True)
class Command:
    """What stands after a `$`, with the lines that go on with it, and the output that the page shows."""

    page: str
    text: str
    tried: bool = False
    """Whether its block is `console`: then a test runs it on the embedded platform."""
    output: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.page}: {self.text.splitlines()[0]}"


def commands(page: Path) -> Iterator[Command]:
    """Yield the commands of a page's blocks, then those within its sentences."""
    text = page.read_text(encoding="utf-8")
    for indent, language, block in _BLOCK.findall(text):
        yield from _of_block(
            page.stem, language == "console", [line[len(indent) :] for line in block.split("\n")]
        )
    for inline in _INLINE.findall(_BLOCK.sub("", text)):
        yield Command(page.stem, " ".join(inline.split()))


def _of_block(page: str, tried: bool, lines: list[str]) -> Iterator[Command]:
    rest = [line for line in lines if line]
    while rest:
        line = rest.pop(0)
        assert line.startswith("$ "), f"{page}: {line!r} belongs to no command"
        said = [line[2:]]
        while said[-1].endswith("\\"):
            said.append(rest.pop(0))
        if heredoc := _HEREDOC.search(said[-1]):
            while said[-1] != heredoc[1]:
                said.append(rest.pop(0))
        shown = []
        while rest and not rest[0].startswith("$ "):
            shown.append(rest.pop(0))
        yield Command(page, "\n".join(said), tried, tuple(shown))


def calls(command: Command) -> Iterator[list[str]]:
    """Yield the programs that a command runs, each with its arguments, and nothing of the shell's own."""
    line = _COMMENT.sub("", command.text.replace("\\\n", " ").split("\n")[0])
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    redirected = False
    for word in [*lexer, ";"]:
        if set(word) <= set("();|&"):
            yield from _program(words)
            words = []
        elif set(word) <= set("<>"):
            redirected = True
        elif redirected:
            redirected = False
        else:
            words.append(word)


def _program(words: list[str]) -> Iterator[list[str]]:
    """Yield what such words run, without what stands before it, such as `xargs` and its options."""
    found = [index for index, word in enumerate(words) if word in PROGRAMS]
    if found:
        yield words[found[0] :]
