"""The table of rules, docs/policies.md, made from the rules themselves: `python -m policy.table`."""

import json
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

from policy.families import all_rules
from policy.rules import Level, Rule, Severity

FILE = Path(__file__).resolve().parents[1] / "docs" / "policies.md"

_HEAD = """\
# Policies

<!-- Made by `make docs` from the rules in policy/: change them there. -->

Before anything is changed, the engine shows every resource to these {count} rules. A mandatory rule that is
broken stops the preview or the update, an advisory one is told. What a rule needs and nobody can know yet is
told as not judged, and judged in the update ([decision 42](decisions/0042-policies-and-the-unknown.md)).

All rules are mandatory unless the table says otherwise. A stack chooses another level, a rule's settings,
and what may break it, each with the reason why, in `policy/config.STACK.json`. What nobody knows there is
refused.

```json
{{
  "pods-seccomp": "advisory",
  "tenancy-own-nodes": {{"allowed": {{"NAME OF A RESOURCE": "the reason why"}}}}
}}
```

| severity | of a violation |
| --- | --- |
{severities}
"""

_COLUMNS = ("rule", "severity", "what holds", "or else", "remedy", "source")


def main() -> None:
    """Write the file anew."""
    FILE.write_text(page(all_rules()), encoding="utf-8")


def page(rules: Mapping[str, Rule]) -> str:
    """The whole file."""
    severities = "\n".join(f"| {each.word} | {each.meaning} |" for each in Severity)
    head = _HEAD.format(count=len(rules), severities=severities)
    families = groupby(sorted(rules.values(), key=lambda rule: rule.id), key=lambda rule: rule.family)
    return "\n".join([head, *(line for name, members in families for line in _family(name, list(members)))])


def _family(name: str, rules: list[Rule]) -> Iterator[str]:
    yield f"## {name.capitalize()}\n"
    yield _row(*_COLUMNS)
    yield _row(*["---"] * len(_COLUMNS))
    for rule in rules:
        severity = (
            rule.severity.word
            if rule.level is Level.MANDATORY
            else f"{rule.severity.word}, {rule.level.value}"
        )
        yield _row(f"`{rule.id}`", severity, _what(rule), rule.reason, rule.remedy, _source(rule))
    yield ""
    settings = [(rule, name, schema) for rule in rules for name, schema in rule.settings.items()]
    for rule, setting, schema in settings:
        default = json.dumps(schema["default"], ensure_ascii=False)
        yield f"- `{rule.id}`, setting `{setting}`: {schema['description']} (unless set: `{default}`)"
    if settings:
        yield ""


def _what(rule: Rule) -> str:
    """The first line of the function's docstring."""
    return (rule.check.__doc__ or "").strip().splitlines()[0]


def _source(rule: Rule) -> str:
    if not rule.source.startswith("https://"):
        return rule.source
    host = rule.source.removeprefix("https://").partition("/")[0].removeprefix("www.")
    return f"[{host}]({rule.source})"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


if __name__ == "__main__":
    main()
