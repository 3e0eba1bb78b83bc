"""The two trees that are set against each other, taken out of git into a folder of their own.

The head is the checkout as it stands, uncommitted work included, merged with the base's tip: what would
be on the base's branch afterwards. Nothing in the checkout changes; what git writes goes into the folder.
Untracked files are part of it, except those that git or a plan could not take: these are left out by name.
"""

import io
import os
import stat
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from review.errors import ReviewError

_OURS = ("local", "policy", "review")
"""What reads and judges the trees is this checkout's, for both of them."""
_ROSTER = "tenants.yaml"
_LARGEST = 1024 * 1024
"""Bytes of an untracked file; a larger one is data that lies about, and no source that a plan reads."""
_NOBODY = {
    "GIT_AUTHOR_NAME": "review",
    "GIT_AUTHOR_EMAIL": "review@localhost",
    "GIT_COMMITTER_NAME": "review",
    "GIT_COMMITTER_EMAIL": "review@localhost",
}


@dataclass(frozen=True, kw_only=True)
class Trees:
    """Both trees on disk, and where they come from."""

    base: Path
    head: Path
    base_commit: str
    head_commit: str
    paths: tuple[str, ...]
    """The files in which they differ."""
    left_out: tuple[str, ...]
    """The files of the checkout that are in neither of them, each with the reason."""


def extract(checkout: Path, base: str, folder: Path) -> Trees:
    """Put both trees below `folder`.

    Raises:
        ReviewError: there is no such base, or the head does not merge with it.
    """
    git = _Git(checkout, folder)
    base_commit = git.commit(base)
    head_commit = git.commit("HEAD")
    usable, left_out = _sorted_out(checkout, git.lines("ls-files", "--others", "--exclude-standard", "-z"))
    work = git.commit_work_tree(head_commit, usable)
    merged = git.merge(base, base_commit, work)
    git.unpack(base_commit, folder / "base")
    outside = git.unpack(merged, folder / "head")
    paths = git.lines("diff", "--name-only", "-z", base_commit, merged)
    return Trees(
        base=folder / "base",
        head=folder / "head",
        base_commit=base_commit,
        head_commit=head_commit,
        paths=tuple(map(_shown, paths)),
        left_out=tuple(_shown(line) for line in (*left_out, *outside)),
    )


def _sorted_out(checkout: Path, untracked: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the untracked files that belong into the head, and the others with the reason."""
    usable, left_out = [], []
    for name in untracked:
        reason = _unusable(checkout / name)
        if reason:
            left_out.append(f"{name}: {reason}")
        else:
            usable.append(name)
    return usable, left_out


def _unusable(path: Path) -> str:
    """Return the reason why an untracked file is left out; empty if there is none."""
    try:
        found = path.lstat()
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
    if stat.S_ISLNK(found.st_mode):
        return ""
    if stat.S_ISDIR(found.st_mode):
        return "is a repository of its own"
    if not stat.S_ISREG(found.st_mode):
        return "is no file"
    if found.st_size > _LARGEST:
        return f"is larger than {_LARGEST // 1024} KiB"
    return "" if os.access(path, os.R_OK) else "cannot be read"


def _shown(name: str) -> str:
    """Return a name that any output can hold: a file's name is bytes, of whatever encoding."""
    return os.fsencode(name).decode(errors="replace")


class _Git:
    def __init__(self, checkout: Path, folder: Path) -> None:
        self._checkout = checkout
        try:
            objects = self._run("rev-parse", "--path-format=absolute", "--git-path", "objects", env={})
        except subprocess.CalledProcessError:
            raise ReviewError(
                f"{checkout} is no git repository, so there is no base to compare with; work in a clone."
            ) from None
        (folder / "objects").mkdir()
        self._environment = {
            **_NOBODY,
            "GIT_INDEX_FILE": str(folder / "index"),
            "GIT_OBJECT_DIRECTORY": str(folder / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
        }

    def commit(self, name: str) -> str:
        """The commit that a name stands for."""
        try:
            return self._run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        except subprocess.CalledProcessError:
            raise ReviewError(
                f"BASE={name}: git knows no such commit, branch or tag here, so there is nothing to compare "
                "with; fetch it (`git fetch origin`) or name another base, such as BASE=origin/main."
            ) from None

    def commit_work_tree(self, head: str, untracked: Sequence[str]) -> str:
        """A commit of the checkout as it stands: what is tracked, and these untracked files."""
        self._run("read-tree", head)
        self._run("add", "--update")
        names = b"".join(os.fsencode(name) + b"\0" for name in untracked)
        self._started("update-index", "--add", "-z", "--stdin", check=True, given=names)
        return self._run(
            "commit-tree", self._run("write-tree"), "-p", head, "-m", "The checkout as it stands"
        )

    def merge(self, base: str, base_commit: str, head: str) -> str:
        """The tree of both together."""
        done = self._started(
            "merge-tree", "--write-tree", "--name-only", "-z", "--no-messages", base_commit, head
        )
        if done.returncode > 1:
            raise ReviewError(
                f"BASE={base}: git cannot merge it with this checkout, so there is nothing to review: "
                f"{done.stderr.decode().strip()}"
            )
        tree, *conflicts = os.fsdecode(done.stdout).rstrip("\0").split("\0")
        if done.returncode == 1:
            names = ", ".join(map(_shown, dict.fromkeys(filter(None, conflicts))))
            twice = self._ids_added_twice(base_commit, head) if _ROSTER in conflicts else []
            both = f" Both add the id {', '.join(twice)}: ids are never shared." if twice else ""
            raise ReviewError(
                f"This change and BASE={base} both changed {names} since they parted; git cannot merge them "
                f"and nothing was planned.{both} Merge or rebase onto {base}, mend that, and review again."
            )
        return tree

    def _ids_added_twice(self, base: str, head: str) -> list[str]:
        origin = self._ids(self._run("merge-base", base, head))
        return sorted((self._ids(base) - origin) & (self._ids(head) - origin))

    def _ids(self, commit: str) -> set[str]:
        """The ids in a commit's roster, as far as it can be read."""
        try:
            document = yaml.safe_load(self._run("show", f"{commit}:{_ROSTER}"))
            return {str(entry["id"]) for entry in document["tenants"]}
        except (subprocess.CalledProcessError, yaml.YAMLError, KeyError, TypeError):
            return set()

    def unpack(self, tree: str, folder: Path) -> list[str]:
        """Write a tree's files; returns what would lead out of the folder, which is not written."""
        archive = self._started("archive", "--format=tar", tree, check=True).stdout
        outside = []

        def inside(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
            try:
                return tarfile.data_filter(member, path)
            except tarfile.FilterError:
                outside.append(f"{member.name}: leads out of the checkout")
                return None

        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            members = [member for member in tar.getmembers() if member.name.partition("/")[0] not in _OURS]
            tar.extractall(folder, members, filter=inside)  # noqa: S202 — what leads out is left out
        return outside

    def lines(self, *command: str) -> tuple[str, ...]:
        """What a command lists with `-z`."""
        return tuple(filter(None, self._run(*command).split("\0")))

    def _run(self, *command: str, env: Mapping[str, str] | None = None) -> str:
        return os.fsdecode(self._started(*command, check=True, env=env).stdout).strip()

    def _started(
        self, *command: str, check: bool = False, env: Mapping[str, str] | None = None, given: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        arguments: Sequence[str] = ["git", "-C", str(self._checkout), *command]
        environment = os.environ | (self._environment if env is None else dict(env))
        return subprocess.run(  # noqa: S603
            arguments, env=environment, input=given, capture_output=True, check=check
        )
