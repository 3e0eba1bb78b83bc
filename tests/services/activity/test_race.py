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
    "two disturbed gateways, a sweep": State(
        requests=(Request("a"), Request("b")), sweeps=(Sweep(),), agent="done", disturbed=True
    ),
    "two requests of a disturbed gateway, a sweep": State(
        requests=(Request("a"), Request("a")), sweeps=(Sweep(),), agent="done", disturbed=True
    ),
    "two sweeps, a disturbed gateway": State(
        requests=(Request("a"),), sweeps=(Sweep(), Sweep()), agent="done", disturbed=True
    ),
    "a disturbed gateway, a sweep, a lease, a tenant that is suspended": State(
        requests=(Request("a"),), sweeps=(Sweep(),), suspends=True, disturbed=True
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


_DISTURBED = _ONE_OF_EACH._replace(disturbed=True)


def test_a_restarted_gateway_must_learn_what_envoy_still_carries(redis_server: Valkey) -> None:
    # None is let go of here, so that nothing but a restart makes a request unknown.
    never = 100
    assert Check(redis_server, scripts(), silent_ticks=never).run(_DISTURBED)
    with pytest.raises(Broken, match=r"with a request in flight: .*a's process is restarted"):
        Check(redis_server, scripts(), silent_ticks=never, learns=False).run(_DISTURBED)


def test_a_gateway_must_not_let_go_of_a_request_for_one_word_that_it_missed(redis_server: Valkey) -> None:
    with pytest.raises(Broken, match="with a request in flight"):
        Check(redis_server, scripts(), silent_ticks=1).run(_DISTURBED)
