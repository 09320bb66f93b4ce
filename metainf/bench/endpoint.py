"""A server as it is reached by URL: its health, its readings, its cache, whether it is idle.

Separate as the one place of the library, besides the hub's door, that uses the network.
"""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from metainf.bench.processes import EngineError
from metainf.bench.readings import Metrics, facts_of, outstanding, parse_json, parse_metrics
from metainf.bench.records import RecordError, ServerFacts

__all__ = ["Endpoint"]

_ANSWER_S = 30.0
_INFORMATION_S = 180.0
"""/server_info looks around on the machine before it answers, for minutes where others keep it busy."""
_POLL_S = 0.1
_GREETING = range(5, 13)
"""Token ids that every vocabulary has, as a prompt."""
_GREETING_ANSWER = 4


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server's base URL, without a slash at its end."""

    url: str

    def is_healthy(self) -> bool:
        """Whether it answers /health."""
        try:
            self._asked("/health", most_s=5.0)
        except EngineError:
            return False
        return True

    def metrics(self) -> Metrics:
        """The sums of its /metrics.

        Raises
        ------
        EngineError
            It does not answer.
        """
        return parse_metrics(self._asked("/metrics"))[0]

    def served_models(self) -> tuple[str, ...]:
        """Names under which it serves.

        Raises
        ------
        EngineError
            It does not answer, or with something else.
        """
        found = self._json("/v1/models")
        return tuple(str(each["id"]) for each in found.get("data", ()))

    def facts(self, log: str = "") -> ServerFacts:
        """What it runs with; what it does not tell is None.

        Raises
        ------
        EngineError
            It does not answer.
        """
        cache = parse_metrics(self._asked("/metrics"))[1]
        version = self._optional("/version", _ANSWER_S).get("version")
        info = self._optional("/server_info?config_format=json", _INFORMATION_S)
        return facts_of(version=version, info=info, cache=cache, log=log)

    def forget_prefixes(self) -> bool:
        """Empty the prefix cache; False where it cannot be asked to, as outside of development mode."""
        try:
            self._asked("/reset_prefix_cache", post=True)
        except EngineError:
            return False
        return True

    def greet(self, model: str) -> None:
        """Have it answer one short request: what slept wakes up, and no run pays for that.

        Raises
        ------
        EngineError
            It does not answer.
        """
        body = {"model": model, "prompt": list(_GREETING), "max_tokens": _GREETING_ANSWER, "temperature": 0.0}
        self._asked("/v1/completions", post=True, body=body)

    def drained(self, *, most_s: float, clock: Callable[[], float] = time.monotonic) -> bool:
        """Wait until nothing runs or waits; False where that does not come about in time.

        Raises
        ------
        EngineError
            It does not answer.
        """
        begun_s = clock()
        while outstanding(self.metrics()) > 0:
            if clock() - begun_s > most_s:
                return False
            time.sleep(_POLL_S)
        return True

    def _json(self, path: str, most_s: float = _ANSWER_S) -> Mapping[str, Any]:
        try:
            return parse_json(self._asked(path, most_s=most_s))
        except RecordError as error:
            raise EngineError(f"asking {self.url}{path}: {error}") from error

    def _optional(self, path: str, most_s: float) -> Mapping[str, Any]:
        """What only some servers have."""
        try:
            return self._json(path, most_s)
        except EngineError:
            return {}

    def _asked(
        self, path: str, *, post: bool = False, body: Mapping[str, object] | None = None, most_s: float = _ANSWER_S
    ) -> str:
        data = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        request = urllib.request.Request(
            f"{self.url}{path}", data=data, headers=headers, method="POST" if post else "GET"
        )
        try:
            with urllib.request.urlopen(request, timeout=most_s) as answer:
                text: str = answer.read().decode(errors="replace")
                return text
        except (OSError, http.client.HTTPException, urllib.error.URLError) as error:
            raise EngineError(f"asking {self.url}{path}: {error}") from error
