"""A drill destroys everything only where that is asked for by name."""

import subprocess

import pytest

from local.paths import ROOT


@pytest.mark.parametrize(
    ("given", "loses"), [((), False), (("DATA=delete",), False), (("DATA=",), False), (("DATA=lose",), True)]
)
def test_everything_is_lost_only_where_data_lose_says_so(given: tuple[str, ...], loses: bool) -> None:
    # Only printed, and as if all were installed.
    command = ["make", "--dry-run", "--old-file=.venv/.ready", "drill", *given]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "-m local drill" in told
    assert ("--lose-data" in told) is loses
