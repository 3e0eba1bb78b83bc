"""How the dynamic resources of a tenant compare what they were told with what they are told now."""

from collections.abc import Mapping
from typing import Any

from pulumi.dynamic import DiffResult


def differences(olds: Mapping[str, Any], news: Mapping[str, Any], *, stable: tuple[str, ...]) -> DiffResult:
    """Whether an input changed; another value of a `stable` one is another resource.

    What starts with two underscores is the SDK's own.
    """
    changed = any(olds.get(key) != value for key, value in news.items() if not key.startswith("__"))
    replaces = [key for key in stable if olds.get(key) != news.get(key)]
    return DiffResult(changes=changed, replaces=replaces, stables=list(stable))
