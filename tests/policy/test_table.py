"""The table of rules in the docs."""

import re

from policy.families import all_rules
from policy.rules import Rule
from policy.table import FILE, page

_SENTENCE = re.compile(r"[A-Z].*\.")


def test_the_committed_table_is_that_of_the_rules() -> None:
    assert FILE.read_text(encoding="utf-8") == page(all_rules()), (
        "run `make docs` and commit docs/policies.md"
    )


def test_every_rule_stands_in_it_once() -> None:
    lines = page(all_rules()).splitlines()

    assert {line.split("`")[1] for line in lines if line.startswith("| `")} == all_rules().keys()
    assert sum(line.startswith("| `") for line in lines) == len(all_rules())


def test_every_rule_says_what_why_how_and_who_says_so() -> None:
    assert [rule.id for rule in all_rules().values() if not _is_told(rule)] == []


def _is_told(rule: Rule) -> bool:
    what = (rule.check.__doc__ or "").strip().partition("\n")[0]
    sourced = rule.source.startswith(("https://", "guide, "))
    return bool(_SENTENCE.fullmatch(what) and rule.reason and rule.remedy and sourced)
