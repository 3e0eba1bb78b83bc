"""The roster is read strictly: each mistake is told with its line, and what is accepted fits everywhere."""

import json
import re
import string
import time
import unicodedata
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ConfigurationError
from infra.tenants.roster import TenantEntry, load_roster
from infra.tenants.roster_rules import RESERVED
from infra.tenants.roster_text import MAXIMUM_BYTES
from infra.tenants.tiers import TIERS, Size
from tests.infra.recording import ROOT

GOOD = "  - {id: acme, name: Acme, tier: starter, owner: ops@acme.example}\n"


def load(folder: Path, text: str | bytes) -> tuple[TenantEntry, ...]:
    path = folder / "tenants.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_roster(path).tenants


def mistakes(folder: Path, text: str | bytes) -> list[str]:
    with pytest.raises(ConfigurationError) as told:
        load(folder, text)
    first, *lines = str(told.value).splitlines()
    assert re.fullmatch(r"The roster has (a mistake|\d+ mistakes); nothing was changed\.", first)
    return [line.removeprefix("  - tenants.yaml:") for line in lines]


def test_the_sample_roster_has_a_tenant_of_each_tier() -> None:
    assert [entry.tier for entry in load_roster(ROOT / "tenants.yaml").tenants].sort() == list(TIERS).sort()


DIGEST = f"sha256:{'0123456789abcdef' * 4}"


@pytest.mark.parametrize("tag", ["", ":1.2"])
def test_an_entry_gets_its_tiers_size_except_where_it_says_otherwise(tmp_path: Path, tag: str) -> None:
    image = f"registry.example.ch:5000/agent{tag}@{DIGEST}"
    text = (
        "tenants:\n"
        "  - {id: acme, name: Acme, tier: enterprise, owner: ops@acme.example, sizes: {cpu: 6},"
        f" state: suspended, overrides: {{image: '{image}'}}}}\n"
    )

    (entry,) = load(tmp_path, text)

    sold = TIERS["enterprise"].default
    assert entry.size == Size(6, sold.memory_gib, sold.workspace_gib)
    assert (entry.state, entry.overrides.image) == ("suspended", image)


def test_a_roster_without_tenants_has_to_say_so(tmp_path: Path) -> None:
    assert load(tmp_path, "tenants: []\n") == ()


@pytest.mark.parametrize("tier", TIERS)
def test_no_tier_is_sold_above_its_maximum(tier: str) -> None:
    sold = next(value for name, value in TIERS.items() if name == tier)
    for part in ("cpu", "memory_gib", "workspace_gib"):
        assert 0 <= getattr(sold.default, part) <= getattr(sold.maximum, part)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ("colour: red", "`colour` is no key"),
        ("sizes: {disk: 5}", "`sizes.disk` is no key"),
        ("sizes: {memoryGiB: 2}", "did you mean memoryGib?"),
        ("overrides: {picture: x}", "`overrides.picture` is no key"),
        ("sizes: {cpu: 0}", "`sizes.cpu`: 0 does not fit"),
        ("sizes: {cpu: 1.5}", "`sizes.cpu`: 1.5 does not fit"),
        ("sizes: {cpu: true}", "`sizes.cpu`: true does not fit"),
        ("sizes: {cpu: '2'}", '`sizes.cpu`: "2" does not fit'),
        ("sizes: [1]", "`sizes`: a list does not fit"),
        ("sizes:", "`sizes`: nothing does not fit"),
        ("idleSeconds: 900", "has no machine, and only a machine sleeps"),
        ("state: asleep", '`state`: "asleep" does not fit'),
        ("keep: workspace", '`keep`: "workspace" does not fit'),
        ("keep: [machine]", '`keep[0]`: "machine" does not fit'),
        ("keep: [workspace]", "`sizes.workspaceGib` is missing"),
        ("discard: [schema]", '`discard[0]`: "schema" does not fit'),
        ("discard: [workspace, workspace]", '`discard` names "workspace" twice'),
        ("claims: yes", "`claims`: true does not fit"),
        ("claims: ['']", "`claims[0]`"),
        ("claims: [5]", "`claims[0]`: 5 does not fit"),
        ("claims: [Swiss-hosted, Swiss-hosted]", '`claims` names "Swiss-hosted" twice'),
        ("vpn:", "`vpn` has no value"),
        ("ownDatabase: 'true'", '`ownDatabase`: "true" does not fit'),
        ("ownDatabase: true", "tier starter has no database of its own"),
        ("state: offboarding", "`offboarding` is missing"),
        ("offboarding: {backup: final}", "stands with a tenant that is to stay"),
    ],
)
def test_a_mistake_in_an_entry_names_line_and_tenant(tmp_path: Path, fields: str, told: str) -> None:
    text = (
        f"tenants:\n  - id: acme\n    name: Acme\n    tier: starter\n    owner: o@a.example\n    {fields}\n"
    )

    (message,) = mistakes(tmp_path, text)

    assert message.startswith("6: acme: ")
    assert told in message


@pytest.mark.parametrize(
    "written",
    ["010", "09", "1:40", "15:00", "0x10", "0b11", "0o17", "1_000", "+4", "1e3", "4.", ".inf", "1:30.5"],
)
def test_a_number_that_yaml_readers_take_for_different_ones_is_refused(tmp_path: Path, written: str) -> None:
    for fields in (f"sizes: {{cpu: {written}}}", f"idleSeconds: {written}", f"claims: [{written}]"):
        (message,) = mistakes(tmp_path, "tenants:\n" + entry_of("enterprise", fields))
        assert f": {written} is one number for some readers of YAML" in message
        assert message.startswith("2: acme: `")


@pytest.mark.parametrize("written", ["8", "'010'", '"1:40"', "2026-11-28T10:00"])
def test_a_plain_number_and_text_in_quotes_are_clear(tmp_path: Path, written: str) -> None:
    text = f"tenants:\n{GOOD}retired: [{written}]\n"
    assert not [message for message in mistakes(tmp_path, text) if "readers of YAML" in message]


@pytest.mark.parametrize(
    ("escape", "character"), [("\\u200b", "U+200B"), ("\\u202e", "U+202E"), ("\\u00a0", "U+00A0")]
)
def test_a_character_that_nobody_sees_is_refused_however_it_is_written(
    tmp_path: Path, escape: str, character: str
) -> None:
    (message,) = mistakes(tmp_path, "tenants:\n" + GOOD.replace("Acme", f'"A{escape}cme"'))

    assert message.startswith(f"2: acme: `name`: {character}")


@given(st.text(min_size=1, max_size=20))
def test_an_accepted_name_shows_all_that_it_holds(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    entry = {"id": "acme", "name": name, "tier": "starter", "owner": "a@b.example"}
    try:
        (accepted,) = load(tmp_path_factory.getbasetemp(), json.dumps({"tenants": [entry]}))
    except ConfigurationError:
        return
    assert accepted.name == name
    assert not [one for one in name if unicodedata.category(one) in ("Cc", "Co", "Cs", "Zl", "Zp")]
    assert [one for one in name if unicodedata.category(one) == "Zs"] == [" "] * name.count(" ")
    assert name.strip()


KEY = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="
OTHER_KEY = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0="


def entry_of(tier: str, fields: str, identifier: str = "acme") -> str:
    return f"  - {{id: {identifier}, name: Acme, tier: {tier}, owner: ops@acme.example, {fields}}}\n"


def peers(*keys: str) -> str:
    return ", ".join(f"{{name: peer{number}, publicKey: '{key}'}}" for number, key in enumerate(keys))


@pytest.mark.parametrize(
    ("tier", "fields", "told"),
    [
        ("professional", f"vpn: {{peers: [{peers(KEY)}]}}", "no VPN, so no peer could connect"),
        ("enterprise", "ownDatabase: true", "change the tier (private-cloud)"),
        ("enterprise", "keep: [workspace]", "has a machine, which keeps its workspace anyway"),
        ("professional", "sizes: {cpu: 5}", "cpu 5 is above the 4 of tier professional"),
        ("professional", "sizes: {memoryGib: 9}", "memoryGib 9 is above the 8 of tier professional"),
        ("enterprise", "sizes: {workspaceGib: 501}", "workspaceGib 501 is above the 500 of tier enterprise"),
        ("professional", "sizes: {workspaceGib: 5}", "write `keep: [workspace]` too"),
        ("starter", "sizes: {cpu: 1}", "cpu means nothing in tier starter: its agents run in the runtime"),
        ("enterprise", "overrides: {image: 'registry.example.ch/agent:latest'}", "changes by itself"),
        ("enterprise", "overrides: {image: 'registry.example.ch/agent:1.4.0'}", "with its digest"),
        ("enterprise", "overrides: {image: registry.example.ch/agent}", "`overrides.image`"),
        (
            "enterprise",
            f"overrides: {{image: 'registry.example.ch/{'agent/' * 12}agent@{DIGEST}0'}}",
            f'agent@{DIGEST}0" does not fit',
        ),
        (
            "professional",
            f"overrides: {{image: 'example.ch/agent@{DIGEST}'}}",
            "has no machine, and the image is the",
        ),
        ("professional", "idleSeconds: 900", "change the tier (enterprise or private-cloud)"),
        ("professional", "contract: {wakeSeconds: 20}", "has no machine, and only a machine wakes"),
        ("enterprise", "contract: {availability: 100}", "the percentage of its requests"),
        ("enterprise", "contract: {price: 3}", "price"),
        ("enterprise", "idleSeconds: 59", "`idleSeconds`: 59 does not fit"),
        ("enterprise", "idleSeconds: 86401", "write a whole number of seconds, 60 to 86400"),
        ("enterprise", "idleSeconds: '900'", "nobody could say when the machine is to sleep"),
        ("starter", "keep: [workspace], sizes: {workspaceGib: 2001}", "is above the 2000 of"),
        ("enterprise", "vpn: {peers: []}", "`vpn.peers`: a list does not fit"),
        ("enterprise", f"vpn: {{peers: [{peers(KEY[:-2])}]}}", "`vpn.peers[0].publicKey`"),
        # 31 bytes, 33 bytes, and 32 bytes followed by bits that nobody reads.
        ("enterprise", f"vpn: {{peers: [{peers('A' * 42 + '==')}]}}", "base64 of 32 bytes"),
        ("enterprise", f"vpn: {{peers: [{peers('A' * 44)}]}}", "base64 of 32 bytes"),
        ("enterprise", f"vpn: {{peers: [{peers(KEY[:42] + 'h=')}]}}", "base64 of 32 bytes"),
        ("enterprise", f"vpn: {{peers: [{peers(KEY, KEY)}]}}", "publicKey of peer1 stands in line 2 already"),
        (
            "enterprise",
            f"vpn: {{peers: [{peers(KEY)}, {peers(OTHER_KEY)}]}}",
            '`vpn.peers` names "peer0" twice',
        ),
        ("starter", "state: offboarding, offboarding: {backup: waived}", "`offboarding.reason` is missing"),
        ("starter", "state: offboarding, offboarding: {backup: later}", "`offboarding.backup`"),
        ("starter", "state: offboarding, offboarding: {reason: none}", "`offboarding.backup` is missing"),
    ],
)
def test_a_value_that_contradicts_the_tier_or_another_is_refused(
    tmp_path: Path, tier: str, fields: str, told: str
) -> None:
    (message,) = mistakes(tmp_path, "tenants:\n" + entry_of(tier, fields))

    assert message.startswith("2: acme: ")
    assert told in message


def test_what_a_change_may_keep_and_destroy_and_how_a_tenant_leaves_is_read(tmp_path: Path) -> None:
    parked, dedicated, leaving = load(
        tmp_path,
        "tenants:\n"
        + entry_of("starter", "keep: [workspace], sizes: {workspaceGib: 700}", "one")
        + entry_of(
            "private-cloud",
            "ownDatabase: true, discard: [database], claims: [Single-tenant], "
            f"vpn: {{peers: [{peers(KEY, OTHER_KEY)}]}}",
            "two",
        )
        + entry_of("starter", "state: offboarding, offboarding: {backup: waived, reason: a trial}", "three"),
    )

    assert (parked.keep, parked.size.workspace_gib) == (("workspace",), 700)
    # It may go, which it has to be told one update before it does.
    assert (dedicated.own_database, dedicated.discard) == (True, ("database",))
    assert dedicated.claims == ("Single-tenant",)
    assert dedicated.vpn
    assert [(peer.name, peer.public_key) for peer in dedicated.vpn.peers] == [
        ("peer0", KEY),
        ("peer1", OTHER_KEY),
    ]
    assert leaving.offboarding
    assert (leaving.offboarding.backup, leaving.offboarding.reason) == ("waived", "a trial")


def test_a_machine_sleeps_when_its_tier_says_so_or_its_entry(tmp_path: Path) -> None:
    usual, patient, never = load(
        tmp_path,
        "tenants:\n"
        + entry_of("enterprise", "state: active", "one")
        + entry_of("private-cloud", "idleSeconds: 3600", "two")
        + entry_of("professional", "state: active", "three"),
    )

    assert (usual.idle_limit, patient.idle_limit, never.idle_limit) == (900, 3600, None)
    assert all((tier.idle_seconds is not None) == tier.machine for tier in TIERS.values())


def test_a_peer_of_one_tenant_is_none_of_another(tmp_path: Path) -> None:
    vpn = f"vpn: {{peers: [{peers(KEY)}]}}"
    text = "tenants:\n" + entry_of("enterprise", vpn) + entry_of("enterprise", vpn, "other")

    (message,) = mistakes(tmp_path, text)

    assert message.startswith("3: other: the publicKey of peer0 stands in line 2 already")


@pytest.mark.parametrize(
    ("retired", "line", "told"),
    [
        ("[acme]", 2, "acme: the id is retired (line 3)"),
        ("[umbrella, umbrella]", 3, "umbrella: retired in line 3 already"),
        ("[Umbrella]", 3, '`retired[0]`: "Umbrella" does not fit: an id that was used once'),
        ("[5]", 3, "`retired[0]`: 5 does not fit"),
        ("umbrella", 3, '`retired`: "umbrella" does not fit'),
        ("", 3, "`retired`: nothing does not fit"),
    ],
)
def test_an_id_is_never_used_again(tmp_path: Path, retired: str, line: int, told: str) -> None:
    (message,) = mistakes(tmp_path, f"tenants:\n{GOOD}retired: {retired}\n")

    assert message.startswith(f"{line}: ")
    assert told in message


def test_retired_ids_are_kept_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "tenants.yaml"
    path.write_text(f"retired: [wayne, umbrella]\ntenants:\n{GOOD}")

    assert load_roster(path).retired == ("wayne", "umbrella")


@pytest.mark.parametrize(
    "identifier",
    [
        "a-b",
        "a_b",
        "Acme",
        "1st",
        "ab",
        "a" * 32,
        "a" * 64,
        "äcme",
        "\u0430cme",
        "acme ",
        "a.b",
        "a/b",
        '"acme\\n"',
    ],
)
def test_an_id_that_does_not_fit_everywhere_is_refused(tmp_path: Path, identifier: str) -> None:
    quoted = identifier if identifier.startswith('"') else f"'{identifier}'"
    (message,) = mistakes(tmp_path, "tenants:\n" + GOOD.replace("acme,", f"{quoted},", 1))

    assert message.startswith("2: ")
    assert "`id`" in message
    assert "3 to 31 lower-case letters" in message


@pytest.mark.parametrize("identifier", ["vault", "admin", "postgres", "null", "select"])
def test_a_reserved_id_is_refused(tmp_path: Path, identifier: str) -> None:
    text = "tenants:\n" + GOOD.replace("acme,", f"'{identifier}',", 1)

    assert ["is reserved" in message for message in mistakes(tmp_path, text)] == [True]


@pytest.mark.parametrize(
    "identifier", ["123456", "yes", "2026-01-01", "2026-99-99", "null", "1.5", "[a]", "{a: b}"]
)
def test_an_id_that_yaml_takes_for_something_else_is_refused(tmp_path: Path, identifier: str) -> None:
    (message,) = mistakes(tmp_path, "tenants:\n" + GOOD.replace("acme,", f"{identifier},", 1))

    assert message.startswith("2: ")


@pytest.mark.parametrize(
    "owner", ["nobody", "a@b", "a b@c.example", "@c.example", "a@b.example, c@d.example"]
)
def test_an_owner_is_an_address(tmp_path: Path, owner: str) -> None:
    text = "tenants:\n" + GOOD.replace("ops@acme.example", f"'{owner}'")

    assert ["`owner`" in message for message in mistakes(tmp_path, text)] == [True]


@pytest.mark.parametrize("field", ["id", "name", "tier", "owner"])
def test_a_missing_field_is_told_with_what_to_write(tmp_path: Path, field: str) -> None:
    entry = yaml.safe_load(GOOD)[0]
    del entry[field]

    (message,) = mistakes(tmp_path, yaml.safe_dump({"tenants": [entry]}))

    assert f"`{field}` is missing: " in message
    assert "; write " in message


def test_two_pull_requests_that_add_one_id_are_told_with_both_lines(tmp_path: Path) -> None:
    merged = "tenants:\n" + GOOD + GOOD.replace("Acme", "Another Acme").replace("starter", "enterprise")

    (message,) = mistakes(tmp_path, merged)

    assert message.startswith("3: acme: the id stands in line 2 already")


def test_two_entries_of_one_id_are_refused_also_on_one_line(tmp_path: Path) -> None:
    assert ["line 2 already" in message for message in mistakes(tmp_path, "tenants:\n" + GOOD * 2)] == [True]
    entry = GOOD.strip().removeprefix("- ")
    assert ["line 1 already" in m for m in mistakes(tmp_path, f"tenants: [{entry}, {entry}]")] == [True]


def test_a_key_that_stands_twice_is_refused_on_every_level(tmp_path: Path) -> None:
    twice = GOOD.replace("tier: starter", "tier: starter, tier: enterprise")
    assert "2: acme: `tier` stands in line 2 already" in mistakes(tmp_path, "tenants:\n" + twice)[0]
    assert "`tenants` stands in line 1" in mistakes(tmp_path, "tenants:\n" + GOOD + "tenants: []\n")[0]


def test_every_mistake_is_told_at_once_in_the_order_of_lines(tmp_path: Path) -> None:
    text = (
        "tenants:\n"
        "  - {id: a-b, name: 5, tier: gold, owner: x, colour: red}\n"
        "  - {id: acme, name: A, tier: starter, owner: o@a.example, sizes: {cpu: 9, memoryGib: 9}}\n"
        "  - nonsense\n"
        "extra: 1\n"
    )

    told = mistakes(tmp_path, text)

    assert [int(message.partition(":")[0]) for message in told] == [2] * 5 + [3] * 2 + [4, 5]


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("", 1, "is empty"),
        ("# only a comment\n", 1, "is empty"),
        ("[]\n", 1, "no list `tenants`"),
        ("tenants:\n", 1, "no list `tenants`"),
        ("just text\n", 1, "no list `tenants`"),
        ("\ntenants: {a: b}\n", 2, "no list `tenants`"),
        ("tenants:\n\t- id: acme\n", 2, "a tab"),
        ("tenants:\n  - id: acme\n  \t name: A\n", 3, "a tab"),
        (f"tenants:\n<<<<<<< HEAD\n{GOOD}=======\n{GOOD}>>>>>>> branch\n", 2, "merge conflict"),
        ("tenants:\n  - id: [unclosed\n", 3, "not valid YAML"),
        (f"tenants:\n{GOOD}---\ntenants: []\n", 3, "not valid YAML"),
        ("tenants:\n  - &a {id: acme}\n", 2, "anchors and aliases"),
        ("tenants:\n  - *a\n", 2, "anchors and aliases"),
        ("tenants:\n  - !!python/object/apply:os.system ['true']\n", 2, "the tag"),
        ("tenants: " + "[" * 5000 + "]" * 5000, 1, "nested deeper"),
        ("tenants:\n  - id: 'a\x00b'\n", 2, "U+0000"),
        (f"tenants:\n{GOOD}# harmless \u202e comment\n", 3, "U+202E (RIGHT-TO-LEFT OVERRIDE) cannot be seen"),
        (f"tenants:\n{GOOD.replace('Acme', chr(0x200B))}", 2, "U+200B (ZERO WIDTH SPACE) cannot be seen"),
        (f"tenants:\n{GOOD.replace('Acme', 'Ac' + chr(0xE0041) + 'me')}", 2, "U+E0041"),
        (b"tenants:\n  - {id: acme, name: \xff}\n", 2, "not UTF-8"),
    ],
)
def test_a_file_that_is_no_roster_is_refused(tmp_path: Path, text: str | bytes, line: int, told: str) -> None:
    first = mistakes(tmp_path, text)[0]

    assert first.startswith(f"{line}: ")
    assert told in first


def test_a_yaml_bomb_is_refused_at_once(tmp_path: Path) -> None:
    levels = ["a: &a [lol, lol]"] + [
        f"{n}: &{n} [{', '.join([f'*{p}'] * 9)}]" for p, n in pairwise("abcdefghi")
    ]
    start = time.perf_counter()

    assert len(mistakes(tmp_path, "\n".join(levels))) == 1

    assert time.perf_counter() - start < 1


def test_a_file_without_end_is_not_read(tmp_path: Path) -> None:
    assert "larger than" in mistakes(tmp_path, b"#" * (MAXIMUM_BYTES + 1))[0]


def test_a_missing_file_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"No such file.*agent-platform:roster"):
        load_roster(tmp_path / "tenants.yaml")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_roster(tmp_path)


def test_ten_thousand_tenants_take_time_in_proportion(tmp_path: Path) -> None:
    def seconds(count: int) -> float:
        text = "tenants:\n" + "".join(GOOD.replace("acme", f"t{n:05}", 1) for n in range(count))
        start = time.process_time()
        assert len(load(tmp_path, text)) == count
        return time.process_time() - start

    assert seconds(10000) < 3 * 4 * seconds(2500)


@given(
    st.text(alphabet=string.ascii_lowercase + string.digits, min_size=1, max_size=40) | st.text(max_size=40)
)
def test_an_accepted_id_fits_wherever_it_is_used(identifier: str) -> None:
    entry = {"id": identifier, "name": "A", "tier": "starter", "owner": "a@b.example"}
    try:
        accepted = TenantEntry.model_validate(entry)
    except ValueError:
        return

    # A DNS label (RFC 1123), for namespace, machine and host name.
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", accepted.dashed)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", f"workspace-{accepted.id}")
    # A PostgreSQL identifier that needs no quotes and is not cut off at 63 bytes.
    assert re.fullmatch(r"[a-z_][a-z0-9_]*", accepted.underscored)
    assert len(f"{accepted.underscored}_migration".encode()) <= 63
    # A prefix and a path of one step, neither of which has to be encoded.
    assert re.fullmatch(r"[A-Za-z0-9_]+", accepted.underscored)
    assert re.fullmatch(r"[A-Za-z0-9]+", accepted.id)
    # No two tenants' names can be told apart by case alone.
    assert accepted.id == accepted.id.lower()


@given(st.from_regex(r"[a-z][a-z0-9]{2,30}", fullmatch=True))
def test_every_id_of_that_form_is_accepted_unless_reserved(identifier: str) -> None:
    entry = {"id": identifier, "name": "A", "tier": "starter", "owner": "a@b.example"}
    assert TenantEntry.model_validate(entry).id == identifier


@pytest.mark.parametrize("word", sorted(RESERVED))
def test_reserved_words_are_ids_otherwise(word: str) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9]{2,30}", word)


@given(st.text() | st.binary())
def test_no_text_makes_it_fail_otherwise_than_by_a_message(
    tmp_path_factory: pytest.TempPathFactory, text: str | bytes
) -> None:
    content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    try:
        load(tmp_path_factory.getbasetemp(), content)
    except ConfigurationError as error:
        assert "nothing was changed" in str(error)
