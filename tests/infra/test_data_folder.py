"""Tests leave a platform alone that runs in the same checkout."""

from local.paths import DATA, ROOT


def test_no_test_works_on_the_data_of_a_platform_that_runs_here() -> None:
    assert not DATA.is_relative_to(ROOT)
