"""The comment: complete, within its limit, and nothing that others wrote does anything in it."""

import json
import re
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.paths import ROOT
from review.markdown import LIMIT, MARKER, block, code, refusal, render
from review.model import Finding, TenantFacts
from review.report import failed, review
from tests.review.examples import CLAIM, POLICY, plan, scope, step, tenant, tenant_urn

EVIL = [
    "a|b",
    "`code`",
    "``` three",
    "<script>alert(1)</script>",
    "</details>",
    "[click](http://evil.example)",
    "![x](http://evil.example/x.png)",
    "@everyone",
    "#1 fixes #2",
    "**bold** _it_ ~no~",
    "www.evil.example",
    "line\nbreak",
    "a\u202eevil\u200b",
    "\\| back \\",
    "`",
    " ",
    "<!-- -->",
]


def outside_code(line: str) -> str:
    """What Markdown would interpret of a line."""
    return re.sub(r"(?<!`)(`+)(?!`).*?(?<!`)\1(?!`)", "", line)


@pytest.mark.parametrize("text", EVIL)
def test_foreign_text_is_shown_and_does_nothing(text: str) -> None:
    found = review(
        scope(base=text),
        plan(tenants=(tenant("acme"),)),
        plan(
            step(POLICY, text, "create", parent=tenant_urn("acme")),
            tenants=(tenant("acme", name=text, claims=(text,), overclaims=(text,)),),
            findings=(Finding(policy="a-rule", level="advisory", message=text, urn=f"x::{text}"),),
        ),
    )
    page = render(found)
    if "\n" not in text and "\u202e" not in text and text.strip():
        assert text.replace("|", "\\|") in page
    rest = "\n".join(outside_code(line) for line in page.splitlines()[1:])
    for sign in ("<script", "](", "@everyone", "#1", "**bold", "www.evil", "<!--", "evil"):
        assert sign not in rest
    assert "\u202e" not in page
    assert rest.count("<details>") == rest.count("</details>") == 1
    tables = [line for line in page.splitlines() if line.startswith("| ")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) in (3, 4, 5, 6, 7, 10) for line in tables)


@given(st.text(max_size=40))
def test_a_code_span_is_one_line_and_closes_itself(text: str) -> None:
    span = code(text)
    assert "\n" not in span
    assert "\r" not in span
    fence = re.match("`+", span)
    assert fence
    assert span.endswith(fence[0])
    inner = span[len(fence[0]) : -len(fence[0])]
    assert fence[0] not in re.findall("`+", inner)


@given(st.text(max_size=40))
def test_a_block_is_never_left_by_what_is_in_it(text: str) -> None:
    first, *_, last = block(text).splitlines()
    assert first == f"{last}text"
    assert last not in re.findall("`+", text)


def test_everything_a_reviewer_needs_is_there() -> None:
    moved = tenant("corvus", "professional")
    found = review(
        scope(paths=("infra/platform/redis.py",)),
        plan(
            step(POLICY, "late", "update"),
            tenants=(tenant("acme"), tenant("corvus"), tenant("bluebird", "starter")),
        ),
        plan(
            step(POLICY, "late", "update"),
            step(
                POLICY,
                "operators",
                "update",
                changed=("policy",),
                was={"policy": "a"},
                inputs={"policy": "b"},
            ),
            step(CLAIM, "corvus-workspace", "delete", parent=tenant_urn("corvus")),
            step(POLICY, "new-policy", "create", parent=tenant_urn("new")),
            tenants=(
                tenant("acme", state="offboarding"),
                moved,
                tenant("bluebird", "starter"),
                tenant("new"),
            ),
            findings=(Finding(policy="data-kept", level="advisory", message="think", urn="urn::x"),),
        ),
    )
    page = render(found)
    assert page.startswith(MARKER)
    assert "✅ May be merged once approved" in page
    assert "1 offboarding, 1 moved, 1 added" in page
    assert "| `corvus` | **DELETE** | `corvus-workspace` | the volume and every file on it |" in page
    assert "`it@corvus.example`" in page
    assert "⚠️ kernel" in page
    assert "`policy` `a` → `b`" in page
    assert "1 other tenant" in page
    assert "Not from this change, yet part of the next update: 1" in page
    assert "| advisory | `data-kept` | `x` | `think` |" in page
    order = [page.index(title) for title in ("🚨 Data goes", "Who must approve", "### Tenants", "### Cost")]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ("added", "shown"),
    [
        (
            tenant("umbrella", "private-cloud", cpu=12, vpn=True, own_database=True),
            "private-cloud, 12 CPU, 4 GiB memory, 20 GiB workspace, VPN, own database",
        ),
        (tenant("umbrella", "starter", cpu=0, memory_gib=0, workspace_gib=0), "starter"),
        (
            tenant("umbrella", "professional", workspace_gib=0, state="suspended"),
            "professional, 2 CPU, 4 GiB memory, suspended",
        ),
    ],
)
def test_a_tenant_that_comes_or_goes_is_shown_with_its_sizes(added: TenantFacts, shown: str) -> None:
    for base, head in ((plan(), plan(tenants=(added,))), (plan(tenants=(added,)), plan())):
        page = render(review(scope(), base, head))
        assert re.search(rf"\| `umbrella` \| `Umbrella` \| (added|\*\*removed\*\*) \| {shown} \|", page)


def test_claims_beyond_the_tier_must_not_be_merged() -> None:
    head = plan(tenants=(tenant("acme", overclaims=("Private cloud",)),))
    found = review(scope(), plan(tenants=(tenant("acme"),)), head)
    assert found.problems == (
        'acme: the claim "Private cloud" is more than tier enterprise delivers, so the customer would be '
        "told what is not true; remove the claim, or move the tenant to a tier that allows it "
        "(infra/tenants/tiers.py)",
    )
    assert "⛔ Must not be merged" in render(found)


def test_mandatory_findings_must_not_be_merged_and_advisory_ones_may() -> None:
    rule = Finding(policy="pods-x", level="mandatory", message="no", urn="u::a")
    found = review(scope(), plan(), plan(findings=(rule, rule)))
    assert found.problems == ("policy pods-x is violated (2 times); see the findings",)
    advisory = Finding(policy="pods-x", level="advisory", message="no", urn="u::a")
    assert review(scope(), plan(), plan(findings=(advisory,))).problems == ()


def test_a_preview_that_failed_is_its_message_and_nothing_else() -> None:
    page = render(failed(scope(), "the preview failed. Nothing was changed.\nerror: half way ``` there"))
    assert "half way ``` there" in page
    assert "Cost" not in page
    assert "Who must approve" not in page


def test_a_change_of_a_thousand_tenants_still_fits_a_comment() -> None:
    tenants = tuple(tenant(f"t{number:04}") for number in range(1000))
    steps = [step(POLICY, f"{one.id}-policy", "create", parent=tenant_urn(one.id)) for one in tenants]
    page = render(review(scope(), plan(), plan(*steps, tenants=tenants)))
    assert len(page) <= LIMIT
    assert "1000 added" in page


LONG = "`" * 400 + "|" * 70_000


def test_sixty_tenants_with_findings_fit_a_comment_and_the_mandatory_ones_are_first() -> None:
    tenants = tuple(tenant(f"t{number:04}") for number in range(60))
    why = "a rule of the platform is broken by this resource, which would do harm in a way told here; " * 5
    findings = tuple(
        Finding(policy=f"rule-{level}", level=level, message=why, urn=f"u::{one.id}-{number}")
        for one in tenants
        for number, level in enumerate(("advisory", "advisory", "mandatory"))
    )
    page = render(review(scope(), plan(), plan(tenants=tenants, findings=findings)))

    assert len(page) <= LIMIT
    assert page.index("### Policy findings") < page.index("### Tenants")
    assert page.index("rule-mandatory`") < page.index("### Who must approve")
    assert re.search(r"… and \d+ more, in `review\.json`\.", page)


@pytest.mark.parametrize("mistakes", [1, 1_000, 20_000])
def test_a_roster_of_many_mistakes_is_told_as_far_as_a_comment_goes(mistakes: int) -> None:
    lines = [f"  - tenants.yaml:{number}: acme: " + "does not fit; " * 9 for number in range(mistakes)]
    message = "\n".join(["The roster has mistakes; nothing was changed.", *lines])
    for page in (render(failed(scope(), message)), refusal(message)):
        assert len(page) <= LIMIT
        assert "tenants.yaml:0:" in page
        shown = page.count("tenants.yaml:")
        assert (f"… and {mistakes - shown} more line" in page) == (shown < mistakes)


def test_a_page_of_nothing_but_long_texts_fits_a_comment() -> None:
    tenants = tuple(
        tenant(f"t{number:04}", name=LONG, owner=LONG, overclaims=(LONG,)) for number in range(60)
    )
    findings = (Finding(policy=LONG, level="mandatory", message=LONG, urn=f"u::{LONG}"),) * 60
    steps = [
        step(CLAIM, f"{number}{LONG}", "delete", parent=tenant_urn(f"t{number:04}")) for number in range(60)
    ]
    found = review(
        scope(base=LONG, paths=(LONG,) * 60), plan(tenants=tenants), plan(*steps, findings=findings)
    )
    page = render(found)

    assert len(page) <= LIMIT
    assert "🚨 Data goes with 60 resources" in page


def test_where_even_few_rows_do_not_fit_the_last_sections_are_cut_by_name() -> None:
    tenants = (tenant("acme"),)
    found = review(scope(), plan(tenants=tenants), plan(tenants=(tenant("acme", state="suspended"),)))
    message = "first\n" + "a line of a long message\n" * 2_000
    page = render(replace(found, problems=(message,) * 3))

    assert len(page) <= LIMIT
    assert page.count("first\n") == 2
    assert "### Who must approve" in page
    assert page.splitlines()[-1] == "**Too long for a comment, in `review.json`:** `a problem`."


@pytest.mark.parametrize("limit", [10, 240])
def test_a_long_text_keeps_its_end(limit: int) -> None:
    assert code("b" + "x" * 1_000 + "end", limit).endswith("end`")
    assert code("x" * limit, limit) == f"`{'x' * limit}`"


def test_the_json_says_the_same_rounded_to_the_centime() -> None:
    found = review(scope(), plan(tenants=(tenant("acme"),)), plan(tenants=(tenant("acme"), tenant("new"))))
    data = json.loads(json.dumps(found.as_data()))
    assert data["passes"] is True
    assert [one["id"] for one in data["tenants"]] == ["new"]
    assert data["cost"]["before"] == float(round(found.cost.before if found.cost else Decimal(), 2))


def test_the_example_in_the_documentation_is_what_is_written_today() -> None:
    """Its numbers are of its day; its parts are today's."""
    example = (ROOT / "docs/review-example.md").read_text(encoding="utf-8")
    data = json.loads((ROOT / "docs/review-example.json").read_text(encoding="utf-8"))
    today = review(
        scope(),
        plan(tenants=(tenant("dufour", "private-cloud"),)),
        plan(
            step(CLAIM, "dufour-workspace", "delete", parent=tenant_urn("dufour")),
            step(POLICY, "operators", "update"),
            tenants=(tenant("dufour", "professional"), tenant("umbrella")),
        ),
    )

    def parts(page: str) -> list[str]:
        return re.findall(r"^### (?:🚨 )?(\w+)", page, re.MULTILINE)

    assert parts(example) == parts(render(today))
    assert data.keys() == today.as_data().keys()
    assert data["tenants"][0].keys() == today.as_data()["tenants"][0].keys()
    assert {one["fate"] for one in data["tenants"]} == {"added", "moved", "offboarding"}
    assert data["platform"]
    assert data["losses"]
    assert data["pending"]
