"""Logins by a JWT that somebody has signed."""

from local.providers.bridged import Property, table
from local.providers.provider import Call, Failure
from local.providers.values import Properties
from local.providers.vault.mounts import AuthBackend
from local.providers.vault.server import VaultResource, bare, between, changed, network, told, written

_TEXTS = ("boundIssuer", "defaultRole", "jwksUrl")
_LISTS = ("jwtSupportedAlgs", "jwtValidationPubkeys")


class JwtBackend(AuthBackend):
    """`vault:jwt/authBackend:AuthBackend`: a mount with its configuration; its id is its path."""

    properties = table(
        path=Property(default="jwt"),
        type=Property(default="jwt", replaces=True, choices=("jwt", "oidc")),
        description=Property(),
        **{name: Property() for name in (*_TEXTS, *_LISTS)},
        namespaceInState=Property(default=True),
        local=Property(default=False, replaces=True),
        disableRemount=Property(default=False),
        tune=Property(computed=True),
        accessor=Property(computed=True),
    )

    def check(self, call: Call, old: Properties, new: Properties) -> tuple[Properties, list[Failure]]:  # noqa: D102
        inputs, failures = super().check(call, old, new)
        sources = [name for name in ("jwksUrl", "jwtValidationPubkeys") if inputs.get(name)]
        if len(sources) > 1:
            where = f"Examine values at '{call.name}.jwksUrl'."
            failures.append(Failure("", f'"jwks_url": conflicts with jwt_validation_pubkeys. {where}'))
        if not sources:
            failures.append(
                Failure(
                    "",
                    "exactly one of oidc_discovery_url, jwks_url, jwks_pairs, or jwt_validation_pubkeys "
                    "should be provided",
                )
            )
        return inputs, failures

    def make(self, call: Call, inputs: Properties) -> str:  # noqa: D102
        path = super().make(call, inputs)
        self._configure(path, {}, inputs)
        return path

    def find(self, id: str, known: Properties) -> Properties | None:  # noqa: D102
        mount = super().find(id, known)
        path = known.get("path", id)
        config = self.vault.read(f"auth/{path}/config", "error reading from Vault") if mount else None
        if mount is None or config is None:
            return None
        return {
            **mount,
            **told(config, (*_TEXTS, *_LISTS, "namespaceInState")),
            # It is written and not read again.
            "description": known.get("description"),
        }

    def change(self, call: Call, id: str, old: Properties, new: Properties) -> None:  # noqa: D102
        super().change(call, id, old, new)
        self._configure(new["path"], old, new)

    def _configure(self, path: str, old: Properties, new: Properties) -> None:
        data = {
            **written(new, (*_TEXTS, *_LISTS)),
            **changed(old, new, _TEXTS, ""),
            **changed(old, new, _LISTS, []),
            "namespace_in_state": new["namespaceInState"],
        }
        self.vault.write(
            f"auth/{path}/config", data, f"error updating configuration to Vault for path {path}"
        )


_TOKEN_SETS = ("tokenBoundCidrs", "tokenPolicies")
_TOKEN_NUMBERS = ("tokenExplicitMaxTtl", "tokenMaxTtl", "tokenPeriod", "tokenTtl", "tokenNumUses")
_TOKEN = (*_TOKEN_SETS, *_TOKEN_NUMBERS, "tokenNoDefaultPolicy", "tokenType")
_SETS = ("boundAudiences", "allowedRedirectUris", "oidcScopes")
_LEEWAYS = ("clockSkewLeeway", "expirationLeeway", "notBeforeLeeway")
_SWITCHES = ("userClaimJsonPointer", "verboseOidcLogging")
_WORDS = ("roleType", "boundSubject", "boundClaimsType", "groupsClaim")
_ROLE = ("userClaim", *_WORDS, *_LEEWAYS, *_SWITCHES, "maxAge", "claimMappings")


class JwtRole(VaultResource):
    """`vault:jwt/authBackendRole:AuthBackendRole`; its id is its path."""

    properties = table(
        roleName=Property(replaces=True),
        backend=Property(default="jwt", replaces=True, normal=bare),
        roleType=Property(computed=True, replaces=True),
        userClaim=Property(),
        boundClaimsType=Property(computed=True),
        **{name: Property(unordered=True) for name in (*_SETS, *_TOKEN_SETS)},
        **{name: Property(default=0) for name in _LEEWAYS},
        **{name: Property(default=False) for name in (*_SWITCHES, "disableBoundClaimsParsing")},
        **{name: Property() for name in ("boundSubject", "groupsClaim", "maxAge")},
        **{name: Property() for name in ("boundClaims", "claimMappings")},
        **{name: Property() for name in (*_TOKEN_NUMBERS, "tokenNoDefaultPolicy")},
        tokenType=Property(default="default"),
    )

    def make(self, call: Call, inputs: Properties) -> str:  # noqa: D102
        del call
        path = f"auth/{bare(inputs['backend'])}/role/{bare(inputs['roleName'])}"
        self._write("writing", path, {**_role(inputs), **written(inputs, _TOKEN)})
        return path

    def find(self, id: str, known: Properties) -> Properties | None:  # noqa: D102
        data = self.vault.read(id, f'error reading JWT auth backend role "{id}"')
        if data is None:
            return None
        cidrs = set(known.get("tokenBoundCidrs", ()))
        data["token_bound_cidrs"] = [network(address, cidrs) for address in data["token_bound_cidrs"] or ()]
        return {
            **told(data, (*_ROLE, *_SETS, *_TOKEN), sets=(*_SETS, *_TOKEN_SETS)),
            "boundClaims": {
                name: ",".join(value) if isinstance(value, list) else value
                for name, value in (data.get("bound_claims") or {}).items()
            },
            "disableBoundClaimsParsing": known.get("disableBoundClaimsParsing", False),
            "backend": between(id, "auth/", "/role/"),
            "roleName": id.partition("/role/")[2],
        }

    def change(self, call: Call, id: str, old: Properties, new: Properties) -> None:  # noqa: D102
        del call
        known = {**self._computed(old), **new}
        token = {
            **changed(old, known, _TOKEN_SETS, []),
            **changed(old, known, _TOKEN_NUMBERS, 0),
            **changed(old, known, ("tokenNoDefaultPolicy",), False),
            **changed(old, known, ("tokenType",), ""),
        }
        self._write("updating", id, {**_role(known), **token})

    def _write(self, doing: str, path: str, data: Properties) -> None:
        self.vault.write(path, data, f'error {doing} JWT auth backend role "{path}"')

    def drop(self, id: str, known: Properties) -> None:  # noqa: D102
        del known
        self.vault.delete(id, f'error deleting JWT auth backend role "{id}"')


def _role(inputs: Properties) -> Properties:
    """The fields of a role that are written each time, except its tokens' settings."""
    whole = inputs.get("disableBoundClaimsParsing")
    claims = {
        name: [part.strip() for part in ([value] if whole else value.split(","))]
        for name, value in inputs.get("boundClaims", {}).items()
    }
    return {
        **written(inputs, (*_WORDS, "maxAge", "claimMappings", "allowedRedirectUris", "oidcScopes")),
        "bound_audiences": inputs.get("boundAudiences", []),
        "user_claim": inputs["userClaim"],
        "user_claim_json_pointer": inputs["userClaimJsonPointer"],
        "verbose_oidc_logging": inputs["verboseOidcLogging"],
        "clock_skew_leeway": inputs["clockSkewLeeway"],
        "expiration_leeway": inputs["expirationLeeway"],
        "not_before_leeway": inputs["notBeforeLeeway"],
        "bound_claims": claims,
    }
