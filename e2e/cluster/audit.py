"""Who asked the API server for what, read from its audit log.

Separate, because stories and figures about quietness ("no write but the Lease in steady state") count requests
where they arrive, and not where the operator says that it sends them.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from collections.abc import Iterable

from .model import Cluster, ClusterSetupError

__all__ = ["WRITES", "Request", "by_user_and_verb", "mark", "parse", "requests"]

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One request that the API server answered."""

    user: str
    verb: str
    resource: str
    """With the group and the subresource, as `inferenceworkloads.metainf.dev/status`; the path for what is none."""
    namespace: str
    name: str
    code: int
    user_agent: str
    at: str
    """When it arrived, RFC 3339 with microseconds."""

    @property
    def is_write(self) -> bool:
        """Tell whether it asked for a change."""
        return self.verb in WRITES


def parse(lines: Iterable[str]) -> tuple[Request, ...]:
    """Read lines of an audit log; a request with several stages (a watch) counts once, by its last one."""
    last: dict[str, Request] = {}
    for line in lines:
        if not line.strip():
            continue
        event = json.loads(line)
        target = event.get("objectRef") or {}
        resource = ".".join(filter(None, (target.get("resource", ""), target.get("apiGroup", ""))))
        subresource = f"/{target['subresource']}" if target.get("subresource") else ""
        last[event["auditID"]] = Request(
            user=event["user"].get("username", ""),
            verb=event["verb"],
            resource=f"{resource}{subresource}" or event["requestURI"],
            namespace=target.get("namespace", ""),
            name=target.get("name", ""),
            code=int((event.get("responseStatus") or {}).get("code", 0)),
            user_agent=event.get("userAgent", ""),
            at=event["requestReceivedTimestamp"],
        )
    return tuple(last.values())


def mark(cluster: Cluster) -> int:
    """Give the place in the log that is its end now, for `requests` to begin at."""
    if cluster.audit_log is None:
        raise ClusterSetupError(f"counting requests: a {cluster.kind} cluster gives no audit log")
    return cluster.audit_log.stat().st_size if cluster.audit_log.exists() else 0


def requests(cluster: Cluster, since: int = 0, user: str | None = None) -> tuple[Request, ...]:
    """Give the requests answered since a mark, of one user or of all; the control plane's own are not logged."""
    mark(cluster)
    if cluster.audit_log is None or not cluster.audit_log.exists():
        return ()
    with cluster.audit_log.open("rb") as log:
        log.seek(since)
        content = log.read()
    whole, _, _ = content.rpartition(b"\n")  # the last line may be half written
    found = parse(whole.decode().splitlines())
    return tuple(each for each in found if user is None or each.user == user)


def by_user_and_verb(found: Iterable[Request]) -> dict[tuple[str, str], int]:
    """Count requests by user and verb."""
    return dict(collections.Counter((each.user, each.verb) for each in found))
