"""IAM roles and API keys."""

from typing import Any

from local.providers.exoscale.api import Api, Json
from local.providers.exoscale.kind import Kind, one_of
from local.providers.provider import Call, Failure
from local.providers.values import Properties, Unknown

_ALLOW_DENY = one_of("allow", "deny")
_SERVICE_TYPE = one_of("allow", "deny", "rules")


class IamRole(Kind):
    """What its API keys may do."""

    of_type = "exoscale:index/iamRole:IamRole"
    replace_on = frozenset({"name"})

    def check(self, call: Call, old: Properties, new: Properties) -> tuple[Properties, list[Failure]]:  # noqa: D102
        checked, failures = super().check(call, old, new)
        return checked, failures + _policy_failures(checked.get("policy"))

    def make(self, api: Api, inputs: Properties) -> str:  # noqa: D102
        fields: Json = {
            name: inputs[name]
            for name in ("description", "editable", "labels", "permissions")
            if name in inputs
        }
        if "policy" in inputs:
            fields["policy"] = _to_api(inputs["policy"])
        return api.change("create_iam_role", name=inputs["name"], **fields)

    def find(self, api: Api, id: str, known: Properties) -> Json | None:  # noqa: ARG002, D102
        return api.find("get_iam_role", id=id)

    def show(self, api: Api, found: Json, known: Properties) -> Properties:  # noqa: ARG002, D102
        outputs = {
            "name": found["name"],
            "description": found.get("description"),
            "editable": found.get("editable"),
            "labels": found.get("labels"),
            "permissions": found.get("permissions"),
            "policy": _from_api(found["policy"]) if "policy" in found else None,
            "timeouts": known.get("timeouts"),
        }
        return {name: value for name, value in outputs.items() if value is not None}

    def change(self, api: Api, id: str, old: Properties, new: Properties) -> None:  # noqa: D102
        fields = {
            name: new[name]
            for name in ("description", "labels", "permissions")
            if name in new and new[name] != old.get(name)
        }
        if fields:
            api.change("update_iam_role", id=id, **fields)
        if "policy" in new and new["policy"] != old.get("policy"):
            policy = _to_api(new["policy"])
            api.change(
                "update_iam_role_policy",
                id=id,
                default_service_strategy=policy["default-service-strategy"],
                services=policy["services"],
            )

    def remove(self, api: Api, id: str, known: Properties) -> None:  # noqa: ARG002, D102
        api.remove("delete_iam_role", id=id)


class IamApiKey(Kind):
    """A key of a role. Its id is the key; the secret is told once, at its creation."""

    of_type = "exoscale:index/iamApiKey:IamApiKey"
    replace_on = frozenset({"name", "roleId"})
    secret_outputs = frozenset({"secret"})

    def create(self, call: Call, inputs: Properties) -> tuple[str, Properties]:  # noqa: D102
        if call.preview:
            return "", self.schema.preview(inputs)
        key = self._api(call, inputs).call("create_api_key", name=inputs["name"], role_id=inputs["roleId"])
        return key["key"], self._shown(key, {**inputs, "secret": key["secret"]})

    def find(self, api: Api, id: str, known: Properties) -> Json | None:  # noqa: ARG002, D102
        return api.find("get_api_key", id=id)

    def show(self, api: Api, found: Json, known: Properties) -> Properties:  # noqa: ARG002, D102
        return self._shown(found, known)

    def remove(self, api: Api, id: str, known: Properties) -> None:  # noqa: ARG002, D102
        api.remove("delete_api_key", id=id)

    def _shown(self, found: Json, known: Properties) -> Properties:
        kept: Properties = {name: known[name] for name in ("secret", "timeouts") if name in known}
        return {"name": found["name"], "roleId": found["role-id"], "key": found["key"], **kept}


def _to_api(policy: Properties) -> Json:
    return {
        "default-service-strategy": policy.get("defaultServiceStrategy", ""),
        "services": {
            name: {
                "type": service.get("type"),
                **(
                    {
                        "rules": [
                            {key: rule[key] for key in ("action", "expression") if key in rule}
                            for rule in rules
                        ]
                    }
                    if (rules := service.get("rules"))
                    else {}
                ),
            }
            for name, service in policy.get("services", {}).items()
        },
    }


def _from_api(policy: Json) -> Properties:
    return {
        "defaultServiceStrategy": policy["default-service-strategy"],
        "services": {
            name: {
                "type": service.get("type"),
                "rules": [
                    {key: rule[key] for key in ("action", "expression") if key in rule}
                    for rule in service.get("rules", [])
                ],
            }
            for name, service in policy["services"].items()
        },
    }


def _policy_failures(policy: Any) -> list[Failure]:
    if not isinstance(policy, dict):
        return []
    found = [("policy.defaultServiceStrategy", policy.get("defaultServiceStrategy"), _ALLOW_DENY)]
    services = policy.get("services")
    for name, service in services.items() if isinstance(services, dict) else ():
        if not isinstance(service, dict):
            continue
        at = f"policy.services.{name}"
        found.append((f"{at}.type", service.get("type"), _SERVICE_TYPE))
        rules = service.get("rules")
        for position, rule in enumerate(rules if isinstance(rules, list) else ()):
            if isinstance(rule, dict):
                found.append((f"{at}.rules[{position}].action", rule.get("action"), _ALLOW_DENY))
    return [
        Failure(at, reason)
        for at, value, check in found
        if value is not None and not isinstance(value, Unknown) and (reason := check(value))
    ]
