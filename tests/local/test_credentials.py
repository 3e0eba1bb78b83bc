import re
import subprocess
import sys

import pytest

from local import credentials
from local.errors import LocalError
from local.paths import DATA, ROOT

FILE = DATA / "credentials.json"


def test_a_secret_is_made_once_and_private() -> None:
    made = credentials.secret("database")
    assert re.fullmatch(r"[0-9a-f]{48}", made)
    assert credentials.secret("database") == made != credentials.secret("another")
    assert FILE.stat().st_mode & 0o777 == 0o600
    assert DATA.stat().st_mode & 0o077 == 0


def test_issued_secrets_are_kept() -> None:
    assert credentials.kept("token") is None
    credentials.keep({"token": "s.1", "recovery": "r"})
    assert (credentials.kept("token"), credentials.kept("recovery")) == ("s.1", "r")
    assert credentials.secret("token") == "s.1"


def test_processes_agree() -> None:
    command = [sys.executable, "-c", "from local import credentials; print(credentials.secret('shared'))"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) for _ in range(4)]
    assert len({process.communicate()[0] for process in processes}) == 1


@pytest.mark.parametrize("content", ["", "{", "[]", "\x00"])
def test_a_damaged_file_is_told(content: str) -> None:
    whole = FILE.read_bytes() if FILE.exists() else b"{}"
    try:
        FILE.write_text(content)
        with pytest.raises(
            LocalError, match=r"credentials.json: .* start afresh with `make down DATA=delete`"
        ):
            credentials.secret("any")
        assert FILE.read_text() == content
    finally:
        FILE.write_bytes(whole)
