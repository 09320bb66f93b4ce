"""Servers: started as processes of the engine's interpreter, or found at a URL; both the same to whoever loads them.

Separate from the running of a plan, which asks for a server of a model under a method and does not care where it is.
"""

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from metainf.bench.endpoint import Endpoint
from metainf.bench.loading import Target
from metainf.bench.processes import free_port, pause, resume, start, stop
from metainf.bench.readings import differences, last_lines
from metainf.bench.records import ServerFacts, ServerRecord
from metainf.engine_flags import Entrypoint, serve_argv
from metainf.layouts import Layout
from metainf.methods import method

__all__ = ["GivenServers", "OwnServers", "Server", "Servers"]

_POLL_S = 0.25


class Server(Protocol):
    """A server of one model under one method."""

    target: Target
    record: ServerRecord

    @property
    def endpoint(self) -> Endpoint:
        """Where it is reached."""

    def ended(self) -> str:
        """How it ended; empty while it runs."""

    def rest(self) -> None:
        """Take no more of the machine until `wake`, where it is ours."""

    def wake(self) -> None:
        """Serve again."""

    def stop(self) -> None:
        """End it, where it is ours."""


class Servers(Protocol):
    """Where servers come from."""

    @property
    def most_at_once(self) -> int:
        """So many can stand side by side."""

    def up(self, model: str, methods: Sequence[str], number: int) -> Mapping[str, Server]:
        """Servers of a model, by method, all ready or with a record that says why not; numbered from `number`."""


@dataclass(slots=True)
class OwnServer:
    """A process of ours."""

    process: "subprocess.Popen[str]"
    target: Target
    record: ServerRecord
    log: Path
    begun_s: float

    @property
    def endpoint(self) -> Endpoint:
        """Where it is reached."""
        return Endpoint(self.target.url)

    def ended(self) -> str:
        """How it ended; empty while it runs."""
        code = self.process.poll()
        if code is None:
            return ""
        return f"exit code {code}: {last_lines(self.log.read_text(encoding='utf-8', errors='replace'), 2)}"

    def rest(self) -> None:
        """Stop its processes: an idle engine polls, and takes time from the one that is measured."""
        pause(self.process)

    def wake(self) -> None:
        """Let its processes run on."""
        resume(self.process)

    def stop(self) -> None:
        """End it and its children."""
        stop(self.process)


@dataclass(frozen=True, slots=True)
class OwnServers:
    """Servers that are started.

    Attributes
    ----------
    models : by name, where the model is: a folder or a hub's id
    arguments : further arguments of every server
    starting : so many start at the same time
    """

    python: str
    models: Mapping[str, str]
    folder: Path
    version: str
    arguments: tuple[str, ...] = ()
    most_at_once: int = 1
    starting: int = 2
    most_start_s: float = 600.0
    clock: Callable[[], float] = time.monotonic

    def up(self, model: str, methods: Sequence[str], number: int) -> Mapping[str, Server]:
        """Servers of a model, by method."""
        found: dict[str, OwnServer] = {}
        try:
            for first in range(0, len(methods), self.starting):
                some = methods[first : first + self.starting]
                for name in some:
                    found[name] = self._started(model, name, number + len(found))
                for name in some:
                    self._wait(found[name])
        except BaseException:
            for server in found.values():
                server.stop()
            raise
        return found

    def _started(self, model: str, name: str, number: int) -> OwnServer:
        port = free_port()
        place = self.models[model]
        argv = serve_argv(
            model=place,
            layout=Layout(),
            settings=method(name, self.version).settings,
            port=port,
            served_name=model,
            version=self.version,
            extra=("--host", "127.0.0.1", *self.arguments),
            entrypoint=Entrypoint.API_SERVER,
        )
        log = self.folder / f"server-{number:04d}-{model.replace('/', '_')}-{name}.log"
        url = f"http://127.0.0.1:{port}"
        begun = datetime.now(UTC).isoformat(timespec="seconds")
        process = start([self.python, "-m", "vllm.entrypoints.openai.api_server", *argv], log=log)
        record = ServerRecord(number, model, name, argv, url, begun, None, ServerFacts())
        return OwnServer(process, Target(url, model, place), record, log, self.clock())

    def _wait(self, server: OwnServer) -> None:
        """Until the server answers, or its record says why it does not."""
        while not server.endpoint.is_healthy():
            if server.ended() or self.clock() - server.begun_s > self.most_start_s:
                why = server.ended() or f"no health within {self.most_start_s:g} s"
                server.record = replace(server.record, failure=why)
                server.stop()
                return
            time.sleep(_POLL_S)
        facts = server.endpoint.facts(server.log.read_text(encoding="utf-8", errors="replace"))
        server.record = replace(
            server.record,
            ready_s=round(self.clock() - server.begun_s, 1),
            facts=facts,
            differences=differences(method(server.record.method, self.version).settings, facts),
        )


@dataclass(slots=True)
class GivenServer:
    """A server that somebody else runs."""

    target: Target
    record: ServerRecord

    @property
    def endpoint(self) -> Endpoint:
        """Where it is reached."""
        return Endpoint(self.target.url)

    def ended(self) -> str:
        """Not healthy any more is all that can be known."""
        return "" if self.endpoint.is_healthy() else "it does not answer /health any more"

    def rest(self) -> None:
        """It is not ours to stop."""

    def wake(self) -> None:
        """It never rests."""

    def stop(self) -> None:
        """It is not ours to end."""


@dataclass(frozen=True, slots=True)
class GivenServers:
    """Servers at URLs, by method; all serve one model.

    Attributes
    ----------
    tokenizer : where the load generator finds the model's tokeniser
    """

    urls: Mapping[str, str]
    tokenizer: str
    version: str

    @property
    def most_at_once(self) -> int:
        """They all stand already."""
        return len(self.urls)

    def up(self, model: str, methods: Sequence[str], number: int) -> Mapping[str, Server]:
        """Servers of the model, by method."""
        return {name: self._found(model, name, number + place) for place, name in enumerate(methods)}

    def _found(self, model: str, name: str, number: int) -> GivenServer:
        url = self.urls[name].rstrip("/")
        endpoint = Endpoint(url)
        begun = datetime.now(UTC).isoformat(timespec="seconds")
        record = ServerRecord(number, model, name, (), url, begun, None, ServerFacts())
        if not endpoint.is_healthy():
            return GivenServer(
                Target(url, model, self.tokenizer), replace(record, failure="it does not answer /health")
            )
        facts = endpoint.facts()
        served = endpoint.served_models()
        found = differences(method(name, self.version).settings, facts)
        if not endpoint.forget_prefixes():
            found = (*found, "the prefix cache cannot be emptied: it runs without VLLM_SERVER_DEV_MODE=1")
        record = replace(record, facts=facts, differences=found)
        return GivenServer(Target(url, served[0] if served else model, self.tokenizer), record)
