"""IAM roles and API keys."""

from collections.abc import Iterator
from typing import Any

from local.providers.exoscale.api import Api, Json
from local.providers.exoscale.kind import Kind
from local.providers.provider import Call
from local.providers.values import Properties, Unknown


class IamRole(Kind):
    """What its API keys may do."""

    of_type = "exoscale:index/iamRole:IamRole"
    replace_on = frozenset({"name"})
    unique_name = False

    computed = frozenset({"description", "editable", "labels", "permissions", "policy"})

    def wrong(self, checked: Properties) -> Iterator[tuple[str, str]]:  # noqa: D102
        yield from super().wrong(checked)
        yield from _wrong_policy(checked.get("policy"))

    def make(self, api: Api, inputs: Properties) -> str:  # noqa: D102
        fields: Json = {
            name: inputs[name] for name in ("description", "labels", "permissions") if name in inputs
        }
        # The official plugin, too, makes a role fixed that does not say otherwise.
        fields["editable"] = inputs.get("editable", False)
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
    unique_name = False
    computed = frozenset({"key", "secret"})
    secret_outputs = frozenset({"secret"})

    def create(self, call: Call, inputs: Properties) -> tuple[str, Properties]:  # noqa: D102
        if call.preview:
            return "", self.foretold(inputs)
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
        shown = {"name": found["name"], "roleId": found["role-id"], "key": found["key"], "id": found["key"]}
        return shown | kept


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


def _wrong_policy(policy: Any) -> Iterator[tuple[str, str]]:
    if not isinstance(policy, dict):
        return
    yield from _wrong_word(
        "policy.defaultServiceStrategy", policy, "default_service_strategy", "allow", "deny"
    )
    services = policy.get("services")
    for name, service in services.items() if isinstance(services, dict) else ():
        if not isinstance(service, dict):
            continue
        yield from _wrong_word(f"policy.services.{name}.type", service, "type", "allow", "deny", "rules")
        rules = service.get("rules")
        for position, rule in enumerate(rules if isinstance(rules, list) else ()):
            if isinstance(rule, dict):
                at = f"policy.services.{name}.rules[{position}].action"
                yield from _wrong_word(at, rule, "action", "allow", "deny")


def _wrong_word(at: str, holder: Properties, argument: str, *allowed: str) -> Iterator[tuple[str, str]]:
    value = holder.get(at.rpartition(".")[2])
    if value is not None and not isinstance(value, Unknown) and value not in allowed:
        shown = " ".join(f'"{word}"' for word in allowed)
        yield at, f'Invalid Attribute Value Match. {argument} value must be one of: [{shown}], got: "{value}"'
