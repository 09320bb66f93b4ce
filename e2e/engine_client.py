"""Asks a served model through the `openai` client, as its users do; runs in the engine's environment, which has it.

    python engine_client.py URL COMMAND [NUMBER]

Separate from the stories, whose own environment has no such client. Prints one JSON object. Nothing is tried again
unless a command says so: a request that is dropped is to be seen. The key is in OPENAI_API_KEY.
"""

import json
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

_LONG_WORDS = 3000
"""More than a step takes (2,048 tokens), less than the model's context."""
_SHARED_WORDS = 300
"""Some blocks of the prefix cache, which holds 128 tokens in each on a CPU."""
_PAUSE_S = 0.25
"""Between two requests of a steady client: an engine that starts beside the one that answers needs cores too."""
_GREEDY = {"temperature": 0.0, "extra_body": {"ignore_eos": True}}
_VARIED = {"temperature": 1.0}
"""A small model repeats itself soon where it always takes the likeliest token, and speculation then speeds it up."""


def _prompt(words: int, first: int = 10) -> str:
    """Words of the model's own vocabulary, one token each."""
    return " ".join(f"w{first + place}" for place in range(words))


class Asker:
    """One client of one model."""

    def __init__(self, url: str) -> None:
        self.client: Any = import_module("openai").OpenAI(base_url=url, max_retries=0, timeout=300)
        self.failure: Any = import_module("openai").OpenAIError

    def model(self) -> str:
        """The name that the server serves under."""
        (model,) = self.client.models.list().data
        return str(model.id)

    def complete(self, words: int, tokens: int, first: int = 10, **more: Any) -> Any:
        """One completion of so many tokens."""
        return self.client.completions.create(**self._asked(words, tokens, first, **more))

    def tried(self, words: int, tokens: int, first: int = 10) -> tuple[Any, int]:
        """The same, and how often it had to be tried again: the client itself does not say."""
        answer = self.client.completions.with_raw_response.create(**self._asked(words, tokens, first))
        return answer.parse(), int(answer.retries_taken)

    def _asked(self, words: int, tokens: int, first: int, **more: Any) -> dict[str, Any]:
        asked = {"model": self.model_name, "prompt": _prompt(words, first), "max_tokens": tokens}
        return {**asked, **_GREEDY, **more}

    @property
    def model_name(self) -> str:
        """Asked for once."""
        if not hasattr(self, "_name"):
            self._name = self.model()
        return self._name

    def answers(self, _: int) -> dict[str, Any]:
        """One answer of each kind."""
        completion = self.complete(16, 8)
        messages = [{"role": "user", "content": _prompt(16)}]
        chat = self.client.chat.completions.create(model=self.model_name, messages=messages, max_tokens=8, **_GREEDY)
        return {
            "model": self.model_name,
            "completion": completion.choices[0].text,
            "completion_tokens": completion.usage.completion_tokens,
            "chat": chat.choices[0].message.content,
            "chat_role": chat.choices[0].message.role,
        }

    def refused(self, _: int) -> dict[str, Any]:
        """The status that a request gets that may not be answered."""
        try:
            self.client.completions.create(model="any", prompt="w10", max_tokens=1)
        except import_module("openai").APIStatusError as error:
            return {"status": error.status_code}
        return {"status": 200}

    def speed(self, count: int) -> dict[str, Any]:
        """Output tokens per second of one client, that of each request."""
        rates = []
        for number in range(count):
            began = time.perf_counter()
            done = self.complete(64, 128, first=10 + 64 * number)
            rates.append(done.usage.completion_tokens / (time.perf_counter() - began))
        return {"tokens_per_s": rates}

    def pace(self, tokens: int) -> dict[str, Any]:
        """Output tokens per second of one long answer, sampled as a stream's is."""
        began = time.perf_counter()
        done = self.complete(16, tokens, **_VARIED)
        return {"tokens_per_s": done.usage.completion_tokens / (time.perf_counter() - began)}

    def steady(self, keeps: int) -> dict[str, Any]:
        """One request after another until standard input ends: how many, what became of those that failed, and retries.

        0: each over a connection of its own, and none is tried again. 1: as the client comes. That one keeps its
        connection, which leads to the same pod for as long as that lives, and tries twice more: vLLM 0.32.0 answers
        500 to what comes by an old connection while it shuts down. How often it had to is counted, so that it hides
        nothing.
        """
        if keeps:
            self.client = self.client.with_options(max_retries=2)
        else:
            self.client = self.client.with_options(default_headers={"Connection": "close"})
        over = threading.Event()
        threading.Thread(target=_when_input_ends, args=(over.set,), daemon=True).start()
        done, retries, failures, longest_s = 0, 0, [], 0.0
        while not over.is_set():
            began = time.perf_counter()
            try:
                answer, again = self.tried(16, 16, first=10 + done % 1000)
                retries += again
                if answer.usage.completion_tokens != 16:
                    failures.append(f"{answer.usage.completion_tokens} tokens instead of 16")
            except self.failure as error:
                failures.append(f"{type(error).__name__}: {error}")
            done += 1
            longest_s = max(longest_s, time.perf_counter() - began)
            over.wait(_PAUSE_S)
        return {"requests": done, "failures": failures, "retries": retries, "longest_s": longest_s}

    def again(self, count: int) -> dict[str, Any]:
        """The same prompt so often: all but the first find most of it in the prefix cache."""
        for _ in range(count):
            self.complete(_SHARED_WORDS, 4)
        return {"requests": count}

    def stream(self, tokens: int) -> dict[str, Any]:
        """One long stream; says on standard error when it began."""
        more = {"include_usage": True}
        chunks = self.complete(16, tokens, stream=True, stream_options=more, **_VARIED)
        reason, usage = None, None
        for number, chunk in enumerate(chunks):
            if number == 0:
                print("began", file=sys.stderr, flush=True)
            usage = chunk.usage or usage
            for choice in chunk.choices:
                reason = choice.finish_reason or reason
        return {"tokens": usage.completion_tokens if usage else None, "finish_reason": reason}

    def crash(self, _: int) -> dict[str, Any]:
        """What kills the CPU engine of vLLM 0.32.0: a seed of its own for a prompt that takes more than one step."""
        try:
            self.complete(_LONG_WORDS, 8, seed=7, temperature=1.0)
        except self.failure as error:
            return {"failed": type(error).__name__}
        return {"failed": None}


def _when_input_ends(act: Callable[[], None]) -> None:
    """Do something when nobody writes to standard input any more."""
    sys.stdin.read()
    act()


def main(url: str, command: str, number: int = 0) -> None:
    """Run one command."""
    print(json.dumps(getattr(Asker(url), command)(number)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
