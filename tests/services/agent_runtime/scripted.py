"""A model that speaks the protocols of OpenAI and Anthropic and does as a prompt says.

`use NAME {…}` is a call of that tool, `what did I say first?` is answered with the first prompt, and anything
else is said back. What a tool says is said, too.
"""

import json
import re
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from typing import Any

from tests.services.agent_runtime.answering import Answering

TOKENS_IN, TOKENS_OUT = 7, 5
"""Of each answer."""


class _Scripted(Answering):
    def do_POST(self) -> None:  # noqa: N802
        asked = self._asked()
        openai = self.path.endswith("/chat/completions")
        prompts, result = _heard(asked["messages"])
        said = _said(prompts, result)
        events = _as_openai(said) if openai else _as_anthropic(said)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.close_connection = True
        for event in events:
            kind = "" if openai else f"event: {event['type']}\n"
            self.wfile.write(f"{kind}data: {json.dumps(event)}\n\n".encode())
        if openai:
            self.wfile.write(b"data: [DONE]\n\n")


def server() -> ThreadingHTTPServer:
    """A server of it."""
    return ThreadingHTTPServer(("127.0.0.1", 0), _Scripted)


def _heard(messages: list[dict[str, Any]]) -> tuple[list[str], str | None]:
    """Return the prompts, and a tool's result if that came last."""
    prompts: list[str] = []
    result = None
    for message in messages:
        content = message.get("content")
        blocks: list[dict[str, Any]] = (
            [{"type": "text", "text": content}] if isinstance(content, str) else content or []
        )
        if message["role"] == "tool":
            result = " ".join(block["text"] for block in blocks)
        elif message["role"] == "user":
            results = [block for block in blocks if block["type"] == "tool_result"]
            said = [block["text"] for block in blocks if block["type"] == "text"]
            result = (
                " ".join(part["text"] for block in results for part in block["content"]) if results else None
            )
            prompts += said
    return prompts, result


def _said(prompts: list[str], result: str | None) -> tuple[str, str]:
    """The name of a tool and its arguments, or nothing and a text."""
    if result is not None:
        return "", f"The tool said: {result}"
    if call := re.fullmatch(r"use (\w+) (\{.*\})", prompts[-1]):
        return call[1], call[2]
    return "", prompts[0] if prompts[-1] == "what did I say first?" else f"You said: {prompts[-1]}"


def _as_openai(said: tuple[str, str]) -> Iterator[dict[str, Any]]:
    name, text = said
    call = {"index": 0, "id": "call", "type": "function", "function": {"name": name, "arguments": text}}
    deltas = (
        [{"role": "assistant", "tool_calls": [call]}]
        if name
        else [{"role": "assistant", "content": part} for part in (text[:3], text[3:])]
    )
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    for delta in deltas:
        yield chunk | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield chunk | {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls" if name else "stop"}]}
    used = {
        "prompt_tokens": TOKENS_IN,
        "completion_tokens": TOKENS_OUT,
        "total_tokens": TOKENS_IN + TOKENS_OUT,
    }
    yield chunk | {"choices": [], "usage": used}


def _as_anthropic(said: tuple[str, str]) -> Iterator[dict[str, Any]]:
    name, text = said
    message = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": []}
    used = {"input_tokens": TOKENS_IN, "output_tokens": 0}
    yield {
        "type": "message_start",
        "message": message | {"stop_reason": None, "stop_sequence": None, "usage": used},
    }
    begun = (
        {"type": "tool_use", "id": "call", "name": name, "input": {}}
        if name
        else {"type": "text", "text": ""}
    )
    delta = (
        {"type": "input_json_delta", "partial_json": text} if name else {"type": "text_delta", "text": text}
    )
    yield {"type": "content_block_start", "index": 0, "content_block": begun}
    yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    stopped = {"stop_reason": "tool_use" if name else "end_turn", "stop_sequence": None}
    yield {"type": "message_delta", "delta": stopped, "usage": {"output_tokens": TOKENS_OUT}}
    yield {"type": "message_stop"}
