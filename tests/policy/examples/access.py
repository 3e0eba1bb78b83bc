"""Roles, policies and grants."""

from typing import Any

from tests.policy.examples import failing, passing
from tests.policy.scene import Scene

_RBAC = "rbac.authorization.k8s.io/v1"
_STATEMENT = 'CREATE ROLE "{{{{name}}}}" LOGIN NOINHERIT PASSWORD \'{{{{password}}}}\' IN ROLE "{role}"'


def _right(**changed: Any) -> dict[str, Any]:
    return {"apiGroups": ["kubevirt.io"], "resources": ["virtualmachines"], "verbs": ["get"], **changed}


def _role(scene: Scene, *, kind: str = "ClusterRole", **changed: Any) -> None:
    scene.kubernetes(f"{_RBAC}:{kind}", {"rules": [_right(), _right(**changed)]}, suffix=kind.lower())


@passing("access-no-wildcard")
@passing("access-no-escalation")
@passing("access-no-secrets-everywhere")
def role(scene: Scene) -> None:
    _role(scene)
    _role(scene, kind="Role", apiGroups=[""], resources=["secrets"])


@failing("access-no-wildcard")
def every_verb(scene: Scene) -> None:
    _role(scene, verbs=["*"])


@failing("access-no-wildcard")
def every_resource(scene: Scene) -> None:
    _role(scene, kind="Role", resources=["*"])


@failing("access-no-escalation")
def acts_as_others(scene: Scene) -> None:
    _role(scene, apiGroups=[""], resources=["users"], verbs=["impersonate"])


@failing("access-no-escalation")
def makes_tokens(scene: Scene) -> None:
    _role(scene, apiGroups=[""], resources=["serviceaccounts/token"], verbs=["create"])


@failing("access-no-secrets-everywhere")
def every_secret(scene: Scene) -> None:
    _role(scene, apiGroups=[""], resources=["secrets"], verbs=["list"])


def _binding(scene: Scene, role_name: str, **subject: Any) -> None:
    inputs = {
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role_name},
        "subjects": [{"kind": "ServiceAccount", "name": "agent", "namespace": scene.namespace, **subject}],
    }
    scene.kubernetes(f"{_RBAC}:ClusterRoleBinding", inputs)


@passing("access-no-cluster-admin")
@passing("access-bound-to-somebody")
def binding(scene: Scene) -> None:
    _binding(scene, "view")


@failing("access-no-cluster-admin")
def administrator(scene: Scene) -> None:
    _binding(scene, "cluster-admin")


@failing("access-no-cluster-admin")
def administrators_kubeconfig(scene: Scene) -> None:
    scene.declare(
        "exoscale:index/sksKubeconfig:SksKubeconfig",
        {"clusterId": "x", "zone": "ch-gva-2", "user": "me", "groups": ["system:masters"]},
    )


@failing("access-bound-to-somebody")
def everybody(scene: Scene) -> None:
    _binding(scene, "view", kind="Group", name="system:authenticated", namespace=None)


def _policy(scene: Scene, text: str) -> None:
    inputs = {"name": scene.name, "policy": text.replace("ID", scene.tenant_id)}
    scene.declare("vault:index/policy:Policy", inputs, parent=scene.tenant(), suffix="policy")


@passing("access-vault-own-paths")
@passing("access-vault-no-root")
def own_paths(scene: Scene) -> None:
    _policy(
        scene,
        """
        path "tenants/data/ID/*" { capabilities = ["create", "read"] }
        path "tenants/metadata/ID" { capabilities = ["list"] }
        path "database/creds/tenant-ID" { capabilities = ["read"] }
        path "auth/token/renew-self" { capabilities = ["update"] }
        path "sys/leases/renew" {
          capabilities = ["update"]
          allowed_parameters = {
            "lease_id"  = ["database/creds/tenant-ID/*"]
            "increment" = []
          }
        }
        """,
    )


@failing("access-vault-own-paths")
def anothers_path(scene: Scene) -> None:
    _policy(scene, 'path "tenants/data/other/*" { capabilities = ["read"] }')


@failing("access-vault-own-paths")
def path_that_others_share_the_beginning_of(scene: Scene) -> None:
    _policy(scene, 'path "tenants/data/ID*" { capabilities = ["read"] }')


@failing("access-vault-own-paths")
def own_login_role(scene: Scene) -> None:
    _policy(scene, 'path "auth/kubernetes/role/tenant-ID" { capabilities = ["update"] }')


@failing("access-vault-own-paths")
def others_leases(scene: Scene) -> None:
    _policy(scene, 'path "sys/leases/renew" { capabilities = ["update"] }')


@failing("access-vault-no-root")
def sudo(scene: Scene) -> None:
    text = 'path "tenants/data/ID/*" { capabilities = ["read", "sudo"] }'
    scene.declare("vault:index/policy:Policy", {"name": scene.name, "policy": text})


@failing("access-vault-no-root")
def every_path_in_json(scene: Scene) -> None:
    text = '{"path": {"*": {"capabilities": ["read"]}}}'
    scene.declare("vault:index/policy:Policy", {"name": scene.name, "policy": text})


def _login(scene: Scene, **changed: Any) -> None:
    inputs = {
        "roleName": scene.name,
        "backend": "kubernetes",
        "boundServiceAccountNames": ["agent"],
        "boundServiceAccountNamespaces": [f"tenant-{scene.tenant_id}"],
        "tokenPolicies": [f"tenant-{scene.tenant_id}"],
        **changed,
    }
    token = "vault:kubernetes/authBackendRole:AuthBackendRole"
    scene.declare(token, inputs, parent=scene.tenant(), suffix="login")


@passing("access-vault-one-account")
def one_account(scene: Scene) -> None:
    _login(scene)


@failing("access-vault-one-account")
def every_account(scene: Scene) -> None:
    _login(scene, boundServiceAccountNames=["*"])


@failing("access-vault-one-account")
def two_namespaces(scene: Scene) -> None:
    _login(scene, boundServiceAccountNamespaces=["runtime", "default"])


@failing("access-vault-one-account")
def anothers_policy(scene: Scene) -> None:
    _login(scene, tokenPolicies=["tenant-other"])


@failing("access-vault-one-account")
def account_of_the_shared_runtime(scene: Scene) -> None:
    _login(scene, boundServiceAccountNames=["agent-runtime"], boundServiceAccountNamespaces=["runtime"])


def _word(scene: Scene, **changed: Any) -> None:
    inputs = {
        "roleName": scene.name,
        "backend": "jwt",
        "roleType": "jwt",
        "userClaim": "tenant",
        "boundAudiences": ["vault"],
        "boundClaimsType": "string",
        "boundClaims": {"tenant": scene.tenant_id},
        "tokenPolicies": [f"tenant-{scene.tenant_id}"],
        "tokenExplicitMaxTtl": 900,
        **changed,
    }
    token = "vault:jwt/authBackendRole:AuthBackendRole"
    scene.declare(token, inputs, parent=scene.tenant(), suffix="login")


@passing("access-vault-own-word")
def own_word(scene: Scene) -> None:
    _word(scene)


@failing("access-vault-own-word")
def anothers_word(scene: Scene) -> None:
    _word(scene, boundClaims={"tenant": "other"})


@failing("access-vault-own-word")
def anybodys_word(scene: Scene) -> None:
    _word(scene, boundClaims={})


@failing("access-vault-own-word")
def word_for_whoever_it_is_like(scene: Scene) -> None:
    _word(scene, boundClaimsType="glob")


@failing("access-vault-own-word")
def word_for_somebody_else_than_vault(scene: Scene) -> None:
    _word(scene, boundAudiences=["vault", "gateway"])


@failing("access-vault-own-word")
def word_that_a_browser_brings(scene: Scene) -> None:
    _word(scene, roleType="oidc")


@failing("access-vault-own-word")
def identity_that_two_tenants_share(scene: Scene) -> None:
    _word(scene, userClaim="sub")


@failing("access-vault-own-word")
def word_for_anothers_policy(scene: Scene) -> None:
    _word(scene, tokenPolicies=["tenant-other"])


@failing("access-vault-own-word")
def word_for_a_day(scene: Scene) -> None:
    _word(scene, tokenExplicitMaxTtl=86400)


@failing("access-vault-own-word")
def word_for_ever(scene: Scene) -> None:
    _word(scene, tokenExplicitMaxTtl=None)


def _keys(scene: Scene, **changed: Any) -> None:
    inputs = {
        "path": "jwt",
        "boundIssuer": "gateway",
        "jwtSupportedAlgs": ["EdDSA"],
        "jwtValidationPubkeys": ["first", "second"],
        **changed,
    }
    scene.declare("vault:jwt/authBackend:AuthBackend", inputs)


@passing("access-vault-own-keys")
def two_keys(scene: Scene) -> None:
    _keys(scene)


@failing("access-vault-own-keys")
def keys_of_another_server(scene: Scene) -> None:
    _keys(scene, jwksUrl="https://keys.example", jwtValidationPubkeys=None)


@failing("access-vault-own-keys")
def three_keys(scene: Scene) -> None:
    _keys(scene, jwtValidationPubkeys=["first", "second", "third"])


@failing("access-vault-own-keys")
def any_signature(scene: Scene) -> None:
    _keys(scene, jwtSupportedAlgs=None)


@failing("access-vault-own-keys")
def any_issuer(scene: Scene) -> None:
    _keys(scene, boundIssuer=None)


@passing("access-role-plain")
def plain(scene: Scene) -> None:
    scene.declare("postgresql:index/role:Role", {"name": scene.name, "login": False}, suffix="role")
    issuer = {"name": "vault", "login": True, "createRole": True}
    scene.declare("postgresql:index/role:Role", issuer, suffix="issuer")
    scene.declare("postgresql:index/role:Role", {"name": "limits", "login": True}, suffix="limits")


@failing("access-role-plain")
def limits_makes_roles(scene: Scene) -> None:
    inputs = {"name": "limits", "login": True, "createRole": True}
    scene.declare("postgresql:index/role:Role", inputs, suffix="limits")


@failing("access-role-plain")
def superuser(scene: Scene) -> None:
    scene.declare("postgresql:index/role:Role", {"name": "vault", "superuser": True})


@failing("access-role-plain")
def logs_in(scene: Scene) -> None:
    inputs = {"name": scene.name, "login": True}
    scene.declare("postgresql:index/role:Role", inputs, parent=scene.tenant(), suffix="role")


@failing("access-role-plain")
def tenant_called_vault(scene: Scene) -> None:
    inputs = {"name": "vault", "createRole": True}
    scene.declare("postgresql:index/role:Role", inputs, parent=scene.tenant(), suffix="role")


@passing("access-no-server-roles")
def member_of_nothing(scene: Scene) -> None:
    scene.declare("postgresql:index/role:Role", {"name": scene.name}, suffix="role")
    granted = {"role": "vault", "grantRole": "tenant_other"}
    scene.declare("postgresql:index/grantRole:GrantRole", granted, suffix="granted")


@failing("access-no-server-roles")
def reads_everything(scene: Scene) -> None:
    inputs = {"role": scene.name, "grantRole": "pg_read_all_data"}
    scene.declare("postgresql:index/grantRole:GrantRole", inputs)


@failing("access-no-server-roles")
def writes_everything(scene: Scene) -> None:
    scene.declare("postgresql:index/role:Role", {"name": scene.name, "roles": ["pg_write_all_data"]})


def _schema(scene: Scene, owner: str | None) -> None:
    inputs = {"name": f"tenant_{scene.tenant_id}", "database": "agents", "owner": owner}
    scene.declare("postgresql:index/schema:Schema", inputs, parent=scene.tenant(), suffix="schema")


@passing("access-schema-owned")
def own_schema(scene: Scene) -> None:
    _schema(scene, f"tenant_{scene.tenant_id}")


@failing("access-schema-owned")
def anothers_schema(scene: Scene) -> None:
    _schema(scene, "postgres")


@failing("access-schema-owned")
def nobodys_schema(scene: Scene) -> None:
    _schema(scene, None)


def _grant(scene: Scene, role_name: str, privileges: list[str]) -> None:
    inputs = {"database": "agents", "schema": "x", "objectType": "schema"}
    scene.declare(
        "postgresql:index/grant:Grant",
        {**inputs, "role": role_name, "privileges": privileges},
        suffix=role_name,
    )


@passing("access-no-public")
def revoked(scene: Scene) -> None:
    _grant(scene, "public", [])
    _grant(scene, "tenant_other", ["USAGE"])


@failing("access-no-public")
def granted_to_everybody(scene: Scene) -> None:
    _grant(scene, "public", ["USAGE"])


@failing("access-no-public")
def granted_to_everybody_beforehand(scene: Scene) -> None:
    inputs = {"database": "agents", "owner": "x", "role": "PUBLIC", "objectType": "function"}
    scene.declare(
        "postgresql:index/defaultPrivileges:DefaultPrivileges", {**inputs, "privileges": ["EXECUTE"]}
    )


def _logins(scene: Scene, *statements: str) -> None:
    role_name = f"tenant_{scene.tenant_id}"
    inputs = {
        "backend": "database",
        "dbName": "agents",
        "name": scene.name,
        "creationStatements": [statement.format(role=role_name) for statement in statements],
    }
    token = "vault:database/secretBackendRole:SecretBackendRole"
    scene.declare(token, inputs, parent=scene.tenant(), suffix="logins")


@passing("access-logins-as-tenant")
def logins(scene: Scene) -> None:
    _logins(scene, _STATEMENT)


@failing("access-logins-as-tenant")
def logins_as_superuser(scene: Scene) -> None:
    _logins(scene, _STATEMENT, 'ALTER ROLE "{{{{name}}}}" SUPERUSER')


@failing("access-logins-as-tenant")
def logins_as_another(scene: Scene) -> None:
    _logins(scene, _STATEMENT.replace("{role}", "tenant_other"))


def _key(scene: Scene, expression: str, strategy: str = "deny", service: str = "sos") -> None:
    rules = [{"action": "allow", "expression": expression.replace("ID", scene.tenant_id)}]
    policy = {"defaultServiceStrategy": strategy, "services": {service: {"type": "rules", "rules": rules}}}
    inputs = {"name": scene.name, "policy": policy}
    scene.declare("exoscale:index/iamRole:IamRole", inputs, parent=scene.tenant(), suffix="key")


_CONFINED = (
    "operation in ['get-object'] && parameters.bucket == 'b' && parameters.key.startsWith('tenant_ID/')"
)


@passing("access-keys-confined")
def confined(scene: Scene) -> None:
    _key(scene, _CONFINED)


@failing("access-keys-confined")
def allowed_by_default(scene: Scene) -> None:
    _key(scene, _CONFINED, strategy="allow")


@failing("access-keys-confined")
def another_service(scene: Scene) -> None:
    _key(scene, _CONFINED, service="compute")


@failing("access-keys-confined")
def every_bucket(scene: Scene) -> None:
    _key(scene, "parameters.key.startsWith('tenant_ID/')")


@failing("access-keys-confined")
def anothers_prefix(scene: Scene) -> None:
    _key(scene, _CONFINED.replace("tenant_ID/", "tenant_other/"))


@failing("access-keys-confined")
def prefix_that_others_share_the_beginning_of(scene: Scene) -> None:
    _key(scene, _CONFINED.replace("tenant_ID/", "tenant_ID"))


@failing("access-keys-confined")
def confined_or_not(scene: Scene) -> None:
    _key(scene, f"{_CONFINED} || operation == 'list-sos-buckets-usage'")
