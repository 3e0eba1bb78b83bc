"""What grants and default privileges share: which privileges there are, and when two sets are equal."""

from collections.abc import Iterable

from local.providers.postgresql.server import Transaction
from local.providers.provider import ProviderError

_ALLOWED = {
    "database": ("CREATE", "CONNECT", "TEMPORARY"),
    "table": ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"),
    "sequence": ("USAGE", "SELECT", "UPDATE"),
    "schema": ("CREATE", "USAGE"),
    "function": ("EXECUTE",),
    "procedure": ("EXECUTE",),
    "routine": ("EXECUTE",),
    "type": ("USAGE",),
    "foreign_data_wrapper": ("USAGE",),
    "foreign_server": ("USAGE",),
    "column": ("SELECT", "INSERT", "UPDATE", "REFERENCES"),
}
_WITH_MAINTAIN = 170000


def allowed(transaction: Transaction, object_type: str) -> set[str]:
    """The privileges on such an object, without ALL."""
    maintain = (
        {"MAINTAIN"} if object_type == "table" and transaction.server_version >= _WITH_MAINTAIN else set()
    )
    return {*_ALLOWED[object_type], *maintain}


def refuse_unknown(transaction: Transaction, object_type: str, privileges: Iterable[str]) -> None:
    """Let only the language's own words into a statement."""
    for privilege in privileges:
        if privilege not in allowed(transaction, object_type) | {"ALL"}:
            raise ProviderError(f"{privilege} is not an allowed privilege for object type {object_type}")


def same(transaction: Transaction, object_type: str, granted: Iterable[str], wanted: Iterable[str]) -> bool:
    """Whether the wanted privileges are granted, no more and no less; ALL stands for every one."""
    if set(granted) == set(wanted):
        return True
    return "ALL" in set(wanted) and set(granted) == allowed(transaction, object_type)
