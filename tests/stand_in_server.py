"""A server that answers as vLLM does where a bench asks, without an engine: for tests that cannot wait for one.

It can be told to crash at its n-th load, to stay busy, or to know nothing of development mode.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_RECORDED = Path(__file__).parent / "data" / "bench"


class StandInServer:
    """Listens on a port of its own until it is closed."""

    def __init__(self, *, development: bool = True, busy: bool = False) -> None:
        self.asked: list[str] = []
        self.development = development
        self.busy = busy
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(outer.answer(self.path))

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                known = self.path == "/v1/completions" or (outer.development and self.path == "/reset_prefix_cache")
                self._answer("{}" if known else None)
                outer.asked.append(self.path)

            def _answer(self, text: str | None) -> None:
                self.send_response(404 if text is None else 200)
                self.end_headers()
                self.wfile.write((text or "").encode())

            def log_message(self, *args: Any) -> None:
                """Tests say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def answer(self, path: str) -> str | None:
        """The body of an answer; None is not found."""
        name = path.partition("?")[0]
        self.asked.append(name)
        if name == "/server_info":
            return _recorded("server_info_0.32.0.json") if self.development else None
        metrics = _recorded("metrics_ngram_0.32.0.txt")
        if self.busy:
            metrics += 'vllm:num_requests_running{engine="0"} 1.0\n'
        return {
            "/health": "",
            "/metrics": metrics,
            "/version": json.dumps({"version": "0.32.0"}),
            "/v1/models": json.dumps({"data": [{"id": "served"}]}),
        }.get(name)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _recorded(name: str) -> str:
    return (_RECORDED / name).read_text(encoding="utf-8")
