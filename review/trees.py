"""The two trees that are set against each other, taken out of git into a folder of their own.

The head is the checkout as it stands, uncommitted work included, merged with the base's tip: what would
be on the base's branch afterwards. Nothing in the checkout changes; what git writes goes into the folder.
"""

import io
import os
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


def extract(checkout: Path, base: str, folder: Path) -> Trees:
    """Put both trees below `folder`.

    Raises:
        ReviewError: there is no such base, or the head does not merge with it.
    """
    git = _Git(checkout, folder)
    base_commit = git.commit(base)
    head_commit = git.commit("HEAD")
    work = git.commit_work_tree(head_commit)
    merged = git.merge(base, base_commit, work)
    git.unpack(base_commit, folder / "base")
    git.unpack(merged, folder / "head")
    paths = git.lines("diff", "--name-only", "-z", base_commit, merged)
    return Trees(
        base=folder / "base",
        head=folder / "head",
        base_commit=base_commit,
        head_commit=head_commit,
        paths=paths,
    )


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

    def commit_work_tree(self, head: str) -> str:
        """A commit of the checkout as it stands, ignored files apart."""
        self._run("read-tree", head)
        self._run("add", "--all")
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
        tree, *conflicts = done.stdout.decode().rstrip("\0").split("\0")
        if done.returncode == 1:
            names = ", ".join(dict.fromkeys(filter(None, conflicts)))
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

    def unpack(self, tree: str, folder: Path) -> None:
        """Write a tree's files."""
        archive = self._started("archive", "--format=tar", tree, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            members = [member for member in tar.getmembers() if member.name.partition("/")[0] not in _OURS]
            tar.extractall(folder, members, filter="data")

    def lines(self, *command: str) -> tuple[str, ...]:
        """What a command lists with `-z`."""
        return tuple(filter(None, self._run(*command).split("\0")))

    def _run(self, *command: str, env: Mapping[str, str] | None = None) -> str:
        return self._started(*command, check=True, env=env).stdout.decode().strip()

    def _started(
        self, *command: str, check: bool = False, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        arguments: Sequence[str] = ["git", "-C", str(self._checkout), *command]
        environment = os.environ | (self._environment if env is None else dict(env))
        return subprocess.run(arguments, env=environment, capture_output=True, check=check)  # noqa: S603
