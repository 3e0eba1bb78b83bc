"""A model that needs no network: it does what a prompt says word by word, for tests and for the tour."""

import json
import re
from collections.abc import AsyncIterator
from typing import Any

from strands.models import Model
from strands.types.content import Messages
from strands.types.streaming import StreamEvent

_COMMANDS = {
    "write_file": r"write (?P<path>\S+): (?P<text>.*)",
    "read_file": r"read (?P<path>\S+)",
    "remember": r"remember (?P<key>\S+): (?P<value>.*)",
    "recall": r"recall (?P<words>.+)",
    "forget": r"forget (?P<key>\S+)",
    "shell": r"run (?:for (?P<timeout>\d+) s: )?(?P<command>.+)",
    "list_uploads": r"uploads",
    "read_upload": r"upload (?P<path>\S+)",
    "save_artifact": r"artifact (?P<path>\S+): (?P<text>.*)",
    "list_files": r"list",
}
"""The prompt for each tool."""
_FIRST = "what did I say first?"
"""The prompt that is answered with the first of the conversation."""


class LiteralModel(Model):
    """Knows a form of words for each tool, and says anything else back."""

    def update_config(self, **model_config: Any) -> None:
        """Take no settings."""

    def get_config(self) -> dict[str, Any]:
        """Return no settings: there are none."""
        return {}

    def structured_output(self, *_: Any, **__: Any) -> Any:
        """Refuse: nobody asks this model for more than text."""
        raise NotImplementedError("The literal model answers in text alone.")

    async def stream(self, messages: Messages, *_: Any, **__: Any) -> AsyncIterator[StreamEvent]:
        """Ask for the tool that the last prompt names, or say what the tool said."""
        last = messages[-1]["content"]
        results = [block["toolResult"] for block in last if "toolResult" in block]
        prompt = " ".join(block["text"] for block in last if "text" in block).strip()
        if prompt == _FIRST:
            prompt = next((block["text"] for block in messages[0]["content"] if "text" in block), "")
        wanted = None if results else _tool(prompt)
        yield {"messageStart": {"role": "assistant"}}
        if wanted:
            name, argument = wanted
            yield {"contentBlockStart": {"start": {"toolUse": {"name": name, "toolUseId": "literal"}}}}
            yield {"contentBlockDelta": {"delta": {"toolUse": {"input": argument}}}}
        else:
            yield {"contentBlockStart": {"start": {}}}
            said = " ".join(_text(block) for result in results for block in result["content"])
            for word in re.findall(r"\S+\s*", said or f"You said: {prompt}"):
                yield {"contentBlockDelta": {"delta": {"text": word}}}
        yield {"contentBlockStop": {}}
        yield {"messageStop": {"stopReason": "tool_use" if wanted else "end_turn"}}


def _text(block: Any) -> str:
    return str(block.get("text") or json.dumps(block.get("json", "")))


def _tool(prompt: str) -> tuple[str, str] | None:
    for name, form in _COMMANDS.items():
        if found := re.fullmatch(form, prompt, re.IGNORECASE | re.DOTALL):
            return name, json.dumps({key: value for key, value in found.groupdict().items() if value})
    return None
