"""The two trees, out of a real repository, which stays as it is."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from review.errors import ReviewError
from review.trees import Trees, extract

ROSTER = "tenants:\n  - id: acme\n    name: Acme\n\n  - id: corvus\n    name: Corvus\n"


class Repository:
    """A checkout with one commit on `main`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self.git("init", "-q", "-b", "main")
        self.write("tenants.yaml", ROSTER)
        self.write("infra/__init__.py", "")
        self.write("review/__init__.py", "")
        self.write("local/__init__.py", "")
        self.write(".gitignore", "/.local/\n")
        self.commit("first")

    def git(self, *command: str) -> str:
        identity = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
        who = ["-c", "user.name=t", "-c", "user.email=t@t"]
        return subprocess.run(
            ["git", "-C", str(self.root), *who, *command],
            env=os.environ | identity,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "-q", "-m", message)

    def fingerprint(self) -> str:
        """Every byte of the checkout and of its `.git`."""
        digest = hashlib.sha256()
        for path in sorted(self.root.rglob("*")):
            digest.update(str(path.relative_to(self.root)).encode())
            digest.update(path.read_bytes() if path.is_file() else b"")
        return digest.hexdigest()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "checkout")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "trees").mkdir()
    return tmp_path / "trees"


def take(repository: Repository, folder: Path, base: str = "main") -> Trees:
    return extract(repository.root, base, folder)


def test_uncommitted_and_new_files_are_reviewed_ignored_ones_are_not(
    repository: Repository, folder: Path
) -> None:
    repository.write("tenants.yaml", ROSTER + "# more\n")
    repository.write("infra/new.py", "")
    repository.write(".local/secret", "")
    both = take(repository, folder)
    assert both.paths == ("infra/new.py", "tenants.yaml")
    assert (both.base / "tenants.yaml").read_text() == ROSTER
    assert (both.head / "tenants.yaml").read_text() == ROSTER + "# more\n"
    assert not (both.head / ".local").exists()


def test_the_trees_carry_no_code_that_would_read_them(repository: Repository, folder: Path) -> None:
    both = take(repository, folder)
    assert sorted(path.name for path in both.head.iterdir()) == [".gitignore", "infra", "tenants.yaml"]


def test_the_checkout_and_its_repository_stay_as_they_are(repository: Repository, folder: Path) -> None:
    repository.write("tenants.yaml", ROSTER + "# more\n")
    before = repository.fingerprint()
    take(repository, folder)
    assert repository.fingerprint() == before


def test_what_the_base_got_meanwhile_is_in_both(repository: Repository, folder: Path) -> None:
    repository.git("switch", "-q", "-c", "change")
    repository.write("tenants.yaml", ROSTER.replace("Acme", "Acme Ltd"))
    repository.commit("rename")
    repository.git("switch", "-q", "main")
    repository.write("infra/meanwhile.py", "")
    repository.commit("meanwhile")
    repository.git("switch", "-q", "change")
    both = take(repository, folder)
    assert both.paths == ("tenants.yaml",)
    assert (both.head / "infra/meanwhile.py").exists()


def branch_off_with(repository: Repository, before: str, after: str) -> None:
    """`change` and `main` each add the id umbrella, in the places given."""
    entry = "\n  - id: umbrella\n    name: Umbrella\n"
    repository.git("switch", "-q", "-c", "change")
    repository.write("tenants.yaml", ROSTER.replace(before, before + entry))
    repository.commit("ours")
    repository.git("switch", "-q", "main")
    repository.write("tenants.yaml", ROSTER.replace(after, after + entry.replace("Umbrella", "Other")))
    repository.commit("theirs")
    repository.git("switch", "-q", "change")


def test_two_changes_that_add_the_same_id_in_the_same_place_are_one_message(
    repository: Repository, folder: Path
) -> None:
    branch_off_with(repository, "name: Corvus\n", "name: Corvus\n")
    with pytest.raises(ReviewError, match=r"both changed tenants\.yaml .* Both add the id umbrella:"):
        take(repository, folder)


def test_two_changes_that_add_the_same_id_elsewhere_merge_into_a_roster_that_has_it_twice(
    repository: Repository, folder: Path
) -> None:
    branch_off_with(repository, "name: Acme\n", "name: Corvus\n")
    assert (take(repository, folder).head / "tenants.yaml").read_text().count("id: umbrella") == 2


@pytest.mark.parametrize("base", ["no-such-branch", "--help", "0" * 40, "main:tenants.yaml", ""])
def test_a_base_that_is_no_commit_is_refused(repository: Repository, folder: Path, base: str) -> None:
    with pytest.raises(ReviewError, match=r"BASE=.*git knows no such commit"):
        take(repository, folder, base)


def test_histories_without_a_common_commit_are_refused(repository: Repository, folder: Path) -> None:
    repository.git("switch", "-q", "--orphan", "other")
    repository.write("other", "")
    repository.commit("other")
    with pytest.raises(ReviewError, match="git cannot merge it"):
        take(repository, folder)


def test_a_folder_without_a_repository_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ReviewError, match="no git repository"):
        extract(tmp_path, "main", folder)


def test_whatever_lies_untracked_in_a_checkout_does_not_stop_a_review(
    repository: Repository, folder: Path
) -> None:
    root = repository.root
    repository.write("infra/new.py", "")
    (root / "outside").symlink_to("/etc/passwd")
    (root / "dangling").symlink_to("nowhere")
    os.mkfifo(root / "pipe")
    (root / "disk.img").write_bytes(b"\0" * (1024 * 1024 + 1))
    (root / "nested").mkdir()
    subprocess.run(["git", "init", "-q", root / "nested"], check=True)
    (root / os.fsdecode(b"latin-\xe9.py")).write_text("")
    (root / "line\nbreak.py").write_text("")
    (root / "infra" / "gone.py").symlink_to(root / "infra" / "new.py")

    both = take(repository, folder)

    assert sorted(both.left_out) == [
        "disk.img: is larger than 1024 KiB",
        "infra/gone.py: leads out of the checkout",
        "nested/: is a repository of its own",
        "outside: leads out of the checkout",
        # git itself passes over a pipe.
    ]
    assert {"infra/new.py", "line\nbreak.py", "latin-\ufffd.py", "dangling"} <= set(both.paths)
    assert (both.head / "infra/new.py").exists()
    assert not (both.head / "disk.img").exists()


def test_a_tracked_link_out_of_the_checkout_does_not_stop_a_review(
    repository: Repository, folder: Path
) -> None:
    (repository.root / "link").symlink_to("/etc")
    repository.commit("link")
    repository.write("infra/new.py", "")

    both = take(repository, folder)

    assert both.left_out == ("link: leads out of the checkout",)
    assert both.paths == ("infra/new.py",)


def test_an_untracked_file_that_cannot_be_read_is_left_out(
    repository: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.write("private", "")
    # Root, as whom CI runs the tests, may read whatever the file's mode says.
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path).name != "private")

    assert take(repository, folder).left_out == ("private: cannot be read",)


def test_a_tracked_file_that_is_deleted_is_gone_from_the_head(repository: Repository, folder: Path) -> None:
    (repository.root / "tenants.yaml").unlink()

    assert take(repository, folder).paths == ("tenants.yaml",)
