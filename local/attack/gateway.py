"""The gateway: tokens that are another tenant's, forged, or out of date; hosts that are not what they seem.

Nobody is woken by it: most requests announce a body that is too large, which the gateway says only to whom it
has let in. Where what is tried is wrong whoever tries it, the control is the same without that flaw.
"""

import json
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPSConnection
from typing import Any
from urllib.parse import urlencode

import jwt
from redis import Redis

from local import credentials, ports, tokens
from local.attack.attempt import Attack, Refused, Target
from local.attack.tenants import Tenant
from local.servers import certificates, load_balancer

_CANARY = "attack"
_TOO_LARGE = 1 << 40
_SHORT = 300
_REFUSALS = (400, 401, 403, 404)
_COOKIE = "__Host-agent-platform"

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    text: str


@dataclass(frozen=True)
class Session:
    """Who sends requests; whoever is honest sends them without the flaw that is tried."""

    honest: bool = False

    def enter(self, *headers: tuple[str, str], target: str = "/") -> None:
        """Be let in, or Refused."""
        length = ("Content-Length", str(_TOO_LARGE))
        _expect(_sent("POST", target, (*headers, length)), 413)

    def sign_in(self, host: str, token: str) -> None:
        """Get a cookie for the token, or Refused."""
        body = urlencode({"token": token}).encode()
        kind = ("Content-Type", "application/x-www-form-urlencoded")
        answer = _sent("POST", "/.gateway/sign-in", (("Host", host), kind, _length(body)), body)
        # Whoever is not let in is shown the form once more.
        _expect(Answer(401, "the form again") if answer.status == 200 else answer, 303)

    def open(self, *headers: tuple[str, str]) -> None:
        """See a page, or Refused."""
        _expect(_sent("GET", "/", headers), 200)

    def tell(self, method: str, path: str, token: str, content: Any = None) -> None:
        """Be listened to by the API for agents, or Refused."""
        body = json.dumps(content).encode() if content is not None else b""
        headers = (("Host", "gateway.gateway.svc:8444"), _bearer(token), _length(body))
        _expect(_sent(method, path, headers, body, port=load_balancer.agents_port()), 200, 204)


def _expect(answer: Answer, *granted: int) -> None:
    if answer.status in _REFUSALS:
        raise Refused(f"{answer.status}: {answer.text}")
    if answer.status not in granted:
        raise RuntimeError(f"neither refused nor granted, {answer.status}: {answer.text}")


def _sent(
    method: str, target: str, headers: Headers, body: bytes = b"", *, port: int | None = None
) -> Answer:
    """Send a request exactly as it is given: with two hosts, with none, or to a whole address."""
    trust = ssl.create_default_context(cafile=str(certificates.CA_FILE))
    connection = HTTPSConnection("127.0.0.1", port or load_balancer.port(), timeout=30, context=trust)
    with closing(connection):
        connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            connection.putheader(name, value)
        connection.endheaders(body or None)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read(500).decode(errors="replace"))


def _host(name: str) -> str:
    return f"{name}.{load_balancer.DOMAIN}:{load_balancer.port()}"


def _bearer(token: str) -> tuple[str, str]:
    return "Authorization", f"Bearer {token}"


def _length(body: bytes) -> tuple[str, str]:
    return "Content-Length", str(len(body))


def _token(signer: Tenant, audience: Any, **changed: Any) -> str:
    """A token with the signer's key, for `audience`; a claim that is changed to None is left out."""
    key, now = signer.signing_key, int(time.time())
    claims = {"aud": audience, "sub": _CANARY, "iat": now, "exp": now + _SHORT, **changed}
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, key["private_key"], algorithm="EdDSA", headers={"kid": key["key_id"]})


def _unsigned(_own: Tenant, victim: Tenant) -> str:
    claims = {"aud": victim.id, "sub": _CANARY, "exp": int(time.time()) + _SHORT}
    return jwt.encode(claims, "", algorithm="none", headers={"kid": victim.signing_key["key_id"]})


def _signed_with_what_is_public(_own: Tenant, victim: Tenant) -> str:
    """As if the public key were a password that both sides know: RFC 8725, 2.1."""
    claims = {"aud": victim.id, "sub": _CANARY, "exp": int(time.time()) + _SHORT}
    name = victim.signing_key["key_id"]
    return jwt.encode(claims, name, algorithm="HS256", headers={"kid": name})


def _under_the_victims_name(own: Tenant, victim: Tenant) -> str:
    claims = {"aud": victim.id, "sub": _CANARY, "exp": int(time.time()) + _SHORT}
    name = {"kid": victim.signing_key["key_id"]}
    return jwt.encode(claims, own.signing_key["private_key"], algorithm="EdDSA", headers=name)


def _with_own_token(name: str, tried: str, send: Callable[[Session, str, str], None]) -> Attack[Session]:
    """The attacker's own token, at the victim's host; `send` takes the host and the token."""
    return Attack(
        name=name,
        tried=tried,
        run=lambda session, own, victim: send(session, _host(victim.id), _token(own, own.id)),
    )


def _with_forged_token(name: str, tried: str, forge: Callable[[Tenant, Tenant], str]) -> Attack[Session]:
    def run(session: Session, own: Tenant, victim: Tenant) -> None:
        token = _token(victim, victim.id) if session.honest else forge(own, victim)
        session.enter(("Host", _host(victim.id)), _bearer(token))

    return Attack(name=name, tried=tried, run=run, by_owner=False)


def _confusing(
    name: str, tried: str, hosts: Callable[[str, str], Headers], *, target: str = "/"
) -> Attack[Session]:
    """The attacker's own token, with `hosts` made of its own name and the victim's; {} is the victim's."""

    def run(session: Session, own: Tenant, victim: Tenant) -> None:
        one, other = _host(own.id), _host(victim.id)
        if session.honest:
            session.enter(("Host", other), _bearer(_token(victim, victim.id)))
        else:
            session.enter(*hosts(one, other), _bearer(_token(own, own.id)), target=target.format(other))

    return Attack(name=name, tried=tried, run=run, by_owner=False)


def _use_the_cookie_of_another_page(session: Session, own: Tenant, victim: Tenant) -> None:
    """What a browser sends when a page of the attacker's makes a request for the victim's."""
    page = _host(victim.id if session.honest else own.id)
    cookie = ("Cookie", f"{_COOKIE}={_token(victim, victim.id)}")
    session.enter(("Host", _host(victim.id)), ("Origin", f"https://{page}"), cookie)


def _open_console(session: Session, own: Tenant, _victim: Tenant) -> None:
    token = tokens.mint(tokens.CONSOLE, ()) if session.honest else _token(own, own.id)
    session.open(("Host", _host(tokens.CONSOLE)), _bearer(token))


def _forge_operator(session: Session, own: Tenant, _victim: Tenant) -> None:
    token = tokens.mint(tokens.CONSOLE, ()) if session.honest else _token(own, tokens.CONSOLE)
    session.open(("Host", _host(tokens.CONSOLE)), _bearer(token))


def _tell_with_a_token_for_the_gateway(session: Session, _own: Tenant, victim: Tenant) -> None:
    token = victim.credential if session.honest else _token(victim, victim.id)
    session.tell("POST", "/v1/activity", token, {"signals": []})


def _has_no_machine(_attacker: Tenant, victim: Tenant) -> bool:
    """Whoever has none never sleeps, and its account has no token that Kubernetes' own API takes."""
    return not victim.machine


_ATTACKS: Sequence[Attack[Session]] = (
    _with_own_token(
        "enter with one's own token",
        "POST https://VICTIM/ with Authorization: Bearer OWN",
        lambda session, host, token: session.enter(("Host", host), _bearer(token)),
    ),
    _with_own_token(
        "enter with one's own cookie",
        f"POST https://VICTIM/ with Cookie: {_COOKIE}=OWN",
        lambda session, host, token: session.enter(
            ("Host", host), ("Origin", f"https://{host}"), ("Cookie", f"{_COOKIE}={token}")
        ),
    ),
    _with_own_token(
        "sign in with one's own token",
        "POST https://VICTIM/.gateway/sign-in with token=OWN",
        lambda session, host, token: session.sign_in(host, token),
    ),
    Attack(
        name="sign a token for the victim with one's own key",
        tried="aud: VICTIM, kid: OWN",
        run=lambda session, own, victim: session.enter(
            ("Host", _host(victim.id)), _bearer(_token(own, victim.id))
        ),
    ),
    _with_forged_token(
        "use the name of the victim's key", "signed with OWN, kid: VICTIM", _under_the_victims_name
    ),
    _with_forged_token("leave the signature out", "alg: none", _unsigned),
    _with_forged_token("sign with what is public", "alg: HS256, kid: VICTIM", _signed_with_what_is_public),
    _with_forged_token(
        "use a token that has expired",
        "exp: an hour ago",
        lambda _own, victim: _token(victim, victim.id, exp=int(time.time()) - 3600),
    ),
    _with_forged_token(
        "use a token that lasts for a year",
        "exp: in a year",
        lambda _own, victim: _token(victim, victim.id, exp=int(time.time()) + 365 * 86400),
    ),
    _with_forged_token(
        "use a token that never expires", "no exp", lambda _own, victim: _token(victim, victim.id, exp=None)
    ),
    _with_forged_token(
        "use a token that is not valid yet",
        "nbf: in an hour",
        lambda _own, victim: _token(victim, victim.id, nbf=int(time.time()) + 3600),
    ),
    _with_forged_token("use a token for everybody", "no aud", lambda _own, victim: _token(victim, None)),
    _with_forged_token(
        "use a token for several", "aud: a list", lambda own, victim: _token(victim, [victim.id, own.id])
    ),
    Attack(
        name="have the victim's browser ask for one's own page",
        tried=f"POST https://VICTIM/ with Cookie: {_COOKIE}=VICTIM, Origin: https://OWN",
        run=_use_the_cookie_of_another_page,
        by_owner=False,
    ),
    _confusing(
        "name two hosts", "Host: OWN, Host: VICTIM", lambda own, other: [("Host", own), ("Host", other)]
    ),
    _confusing(
        "name the victim in the target",
        "POST https://VICTIM/ with Host: OWN",
        lambda own, _other: [("Host", own)],
        target="https://{}/",
    ),
    _confusing(
        "name the victim behind a trailing dot",
        "Host: VICTIM.",
        lambda _own, other: [("Host", other.replace(":", ".:"))],
    ),
    _confusing(
        "name the victim as a user", "Host: VICTIM@OWN", lambda own, other: [("Host", f"{other}@{own}")]
    ),
    _confusing(
        "name a host of the cluster",
        "Host: kubernetes.default.svc",
        lambda *_: [("Host", "kubernetes.default.svc")],
    ),
    _confusing("name an address", "Host: 169.254.169.254", lambda *_: [("Host", "169.254.169.254")]),
    _confusing("name no host", "no Host", lambda *_: []),
    Attack(
        name="open the operators' page", tried="GET https://console/", run=_open_console, on_platform=True
    ),
    Attack(
        name="sign an operator's token with one's own key",
        tried="GET https://console/ with aud: console",
        run=_forge_operator,
        on_platform=True,
    ),
    Attack(
        name="speak for a machine with a token for the gateway",
        tried="POST /v1/activity",
        run=_tell_with_a_token_for_the_gateway,
        by_owner=False,
        spares=_has_no_machine,
    ),
)


def _lease(tenant: Tenant) -> str:
    return f"/v1/leases/{_CANARY}-{tenant.id}"


def _end_lease(leases: Redis) -> Attack[Session]:
    """The API knows no other tenant: whatever name is given, it is of one of the caller's own."""

    def run(session: Session, own: Tenant, victim: Tenant) -> None:
        session.tell("DELETE", _lease(victim), own.credential)
        if leases.zscore(f"activity:{victim.id}:leases", _lease(victim).rpartition("/")[2]) is not None:
            raise Refused("the lease stands")

    return Attack(
        name="end the victim's lease",
        tried="DELETE /v1/leases/VICTIM with one's own account",
        run=run,
        spares=_has_no_machine,
    )


@contextmanager
def entered(tenants: Sequence[Tenant]) -> Iterator[Target[Session]]:
    """Have each machine's agent take a lease, have every tenant attack, and end the leases."""
    with ExitStack() as stack:
        leases = Redis(host="127.0.0.1", port=ports.port("redis"), password=credentials.secret("redis"))
        stack.callback(leases.close)
        honest = Session(honest=True)
        for tenant in (tenant for tenant in tenants if tenant.machine):
            honest.tell("PUT", _lease(tenant), tenant.credential, {"seconds": _SHORT})
            stack.callback(honest.tell, "DELETE", _lease(tenant), tenant.credential)
        yield Target(
            server="Gateway",
            sessions={tenant: Session() for tenant in tenants},
            victims=tenants,
            administrator=honest,
            attacks=[*_ATTACKS, _end_lease(leases)],
        )
