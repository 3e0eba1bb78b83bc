"""No interleaving stops a machine under a request, none leaves a request without a wake."""

import pytest

from tests.services.activity.race import Broken, Check, Request, State, Sweep
from tests.services.valkey import Valkey, scripts

_RACES = {
    "two sweeps, a request, a lease": State(requests=(Request("a"),), sweeps=(Sweep(), Sweep())),
    "two gateways, a sweep, a lease": State(requests=(Request("a"), Request("b")), sweeps=(Sweep(),)),
    "two requests, a sweep, a lease": State(requests=(Request("a"), Request("a")), sweeps=(Sweep(),)),
    "two gateways, a sweep, a tenant that is suspended": State(
        requests=(Request("a"), Request("b")), sweeps=(Sweep(),), agent="done", suspends=True
    ),
}


@pytest.mark.parametrize("race", _RACES)
def test_every_interleaving_is_well(redis_server: Valkey, race: str) -> None:
    assert Check(redis_server, scripts()).run(_RACES[race]) > 10_000


_ONE_OF_EACH = State(requests=(Request("a"),), sweeps=(Sweep(),))
_IDLE = ("if holder then", "if now - last < limit then", "if lease then")
_WITHOUT = {
    "a claim looks for holds and signs": ("claim", _IDLE[:2], "if false then"),
    "a claim looks for leases": ("claim", _IDLE[2:], "if false then"),
    "a request is told of a claim": ("enter", ("if seconds == 0 then",), "if true then"),
    "a claim outlives its stop": ("claim", ("now + CLAIM_SECONDS",), "now + 7.5"),
    "a lease is refused under a claim": ("lease", ("if claim(tenant) then",), "if false then"),
}


@pytest.mark.parametrize("rule", _WITHOUT)
def test_each_rule_is_needed(redis_server: Valkey, rule: str) -> None:
    name, rules, instead = _WITHOUT[rule]
    broken = scripts()
    for text in rules:
        assert text in broken[name]
        broken[name] = broken[name].replace(text, instead)
    with pytest.raises(Broken, match="was stopped"):
        Check(redis_server, broken).run(_ONE_OF_EACH)


def test_a_claim_must_not_be_withdrawn_while_its_stop_may_arrive(redis_server: Valkey) -> None:
    with pytest.raises(Broken, match="was stopped"):
        Check(redis_server, scripts(), withdraws_when_unsure=True).run(_ONE_OF_EACH)


def test_what_is_declared_must_be_looked_at_right_before_a_start(redis_server: Valkey) -> None:
    suspended = State(requests=(Request("a"),), sweeps=(), machine="off", agent="done", suspends=True)
    with pytest.raises(Broken, match="declared not to run"):
        Check(redis_server, scripts(), looks_again=False).run(suspended)
    assert Check(redis_server, scripts()).run(suspended)
