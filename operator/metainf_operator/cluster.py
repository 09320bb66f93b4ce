"""The only door to the API server: every request that the operator sends goes through `Cluster`.

Separate, and held so by an import contract, because timeouts, paging, the translation of errors and the field manager
must be the same for every call. Why plain requests: the generated clients turn each object into models and back, and
the dynamic client wants a discovery first; our few kinds are known (`resources`), and a dict is parsed once.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import aiohttp
import yaml
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTClientObject
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from metainf_operator.api_errors import (
    ForbiddenError,
    NotFoundError,
    UnreachableError,
    WatchExpiredError,
    error_from_response,
)
from metainf_operator.cluster_api import (
    EVERYTHING,
    FIELD_MANAGER,
    JsonObject,
    Listing,
    Propagation,
    Selector,
    WatchEvent,
)
from metainf_operator.resources import Resource
from metainf_operator.wire import (
    APPLY_PATCH,
    JSON,
    MERGE_PATCH,
    PARTIAL_LIST,
    PARTIAL_OBJECT,
    Request,
    called,
    lines,
    name_of,
    page_after,
    parsed_object,
    selector_query,
    typed,
    watch_event,
)

__all__ = ["Cluster", "Connection", "Credentials"]

T = TypeVar("T")

PAGE_SIZE = 200
"""Objects of one page: a Node of a GPU cluster is 10-30 kB, so a page is parsed in tens of milliseconds."""

WATCH_GRACE_S = 15.0
"""How long past its end the server may take to end a watch, before the connection counts as dead."""

CREDENTIALS_REREAD_S = 10.0
"""A credential plugin is not started more often than this, however many calls are refused at once."""

SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach the API server."""

    kubeconfig: Path | None = None
    """None: the pod's service account; outside of a pod $KUBECONFIG, then ~/.kube/config."""
    context: str | None = None
    """Context of the kubeconfig; None takes its current one."""
    request_timeout_s: float = 30.0
    """Of a whole request, waiting for a free connection included."""
    connect_timeout_s: float = 5.0
    max_connections: int = 64
    """At most so many requests at once, watches included; the others wait for a free connection."""
    user_agent: str = "metainf-operator"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What another client needs to reach the same API server as the same user: kopf has one of its own."""

    server: str
    ca_path: str | None
    token: str | None
    certificate_path: str | None
    private_key_path: str | None
    insecure: bool


class Cluster:
    """A connection to one API server; see `ClusterApi` for what its operations promise."""

    def __init__(self, configuration: Configuration, connection: Connection, own_namespace: str) -> None:
        self._configuration: Any = configuration
        self._connection = connection
        self._own_namespace = own_namespace
        self._rest: Any = RESTClientObject(configuration)
        self._credentials_lock = asyncio.Lock()
        self._credentials_generation = 0
        self._credentials_read_at = time.monotonic()

    @classmethod
    async def connect(cls, connection: Connection | None = None) -> "Cluster":
        """Read the configuration; no request is sent yet. ForbiddenError: there is no usable configuration."""
        connection = connection or Connection()
        configuration, own_namespace = await _configure(connection)
        try:
            return cls(configuration, connection, own_namespace)
        except OSError as error:
            raise ForbiddenError(f"reading the cluster's certificates: {error}; renew the kubeconfig") from error

    @property
    def own_namespace(self) -> str:
        """The namespace of the pod's service account, or of the kubeconfig's context."""
        return self._own_namespace

    async def credentials(self) -> Credentials:
        """The credentials as they are now: tokens of service accounts and of plugins change while a process runs."""
        configuration, _ = await _configure(self._connection)
        bearer = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        return Credentials(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            # The word before it is "Bearer" from a kubeconfig and "bearer" from a service account.
            token=bearer.rpartition(" ")[2] if bearer else None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
            insecure=not configuration.verify_ssl,
        )

    async def get(
        self, resource: Resource, name: str, namespace: str | None = None, *, metadata_only: bool = False
    ) -> JsonObject:
        """One object, or only its metadata."""
        accept = PARTIAL_OBJECT if metadata_only else JSON
        path = resource.path(namespace, name)
        doing = f"getting {called(resource, name, namespace)}"
        return await self._send(Request(doing, "GET", path, accept=accept))

    async def list(
        self,
        resource: Resource,
        *,
        project: Callable[[JsonObject], T | None],
        namespace: str | None = None,
        selector: Selector = EVERYTHING,
        metadata_only: bool = False,
        from_cache: bool = False,
    ) -> Listing[T]:
        """A collection page by page, projected object by object."""
        query = {"limit": str(PAGE_SIZE), **selector_query(selector)}
        if from_cache:
            query |= {"resourceVersion": "0", "resourceVersionMatch": "NotOlderThan"}
        request = Request(
            f"listing {resource.plural}",
            "GET",
            resource.path(namespace),
            query,
            accept=PARTIAL_LIST if metadata_only else JSON,
        )
        try:
            return await self._pages(request, resource, project)
        except WatchExpiredError:  # the token of a page outlived etcd's history: once more from the start
            return await self._pages(request, resource, project)

    async def _pages(
        self, request: Request, resource: Resource, project: Callable[[JsonObject], T | None]
    ) -> Listing[T]:
        kept = []
        token = ""
        while True:
            page = await self._send(page_after(request, token) if token else request)
            for item in page.get("items") or ():
                item.setdefault("apiVersion", resource.api_version)  # a list names these once, for all
                item.setdefault("kind", resource.kind)
                projected = project(item)
                if projected is not None:
                    kept.append(projected)
            metadata = page.get("metadata") or {}
            token = metadata.get("continue") or ""
            if not token:
                return Listing(tuple(kept), str(metadata.get("resourceVersion") or ""))

    async def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str | None = None,
        selector: Selector = EVERYTHING,
        metadata_only: bool = False,
        timeout_s: float = 240.0,
    ) -> AsyncGenerator[WatchEvent, None]:
        """Changes since a resource version, until the server ends the watch."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(int(timeout_s)),
            **selector_query(selector),
        }
        doing = f"watching {resource.plural}"
        accept = PARTIAL_OBJECT if metadata_only else JSON
        request = Request(doing, "GET", resource.path(namespace), query, accept=accept)
        async with self._answer(request, timeout_s + WATCH_GRACE_S) as response:
            async for line in lines(response.content.iter_any()):
                yield watch_event(doing, line)

    async def apply(
        self, resource: Resource, manifest: JsonObject, *, force: bool = True, dry_run: bool = False
    ) -> JsonObject:
        """Server-side apply; strict, so that a field the server does not know is an answer and not a silence."""
        query = {"fieldManager": FIELD_MANAGER, "force": str(force).lower(), "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        return await self._apply(resource, manifest, query)

    async def apply_status(self, resource: Resource, manifest: JsonObject, *, force: bool = True) -> JsonObject:
        """Server-side apply of the status subresource."""
        query = {"fieldManager": FIELD_MANAGER, "force": str(force).lower()}
        return await self._apply(resource, manifest, query, subresource="status")

    async def _apply(
        self, resource: Resource, manifest: JsonObject, query: Mapping[str, str], subresource: str = ""
    ) -> JsonObject:
        name, namespace = name_of(manifest)
        what = f"{subresource} of {called(resource, name, namespace)}" if subresource else ""
        return await self._send(
            Request(
                f"applying {what or called(resource, name, namespace)}",
                "PATCH",
                resource.path(namespace, name, subresource),
                query,
                typed(resource, manifest),
                APPLY_PATCH,
            )
        )

    async def create(self, resource: Resource, manifest: JsonObject) -> JsonObject:
        """A new object."""
        name, namespace = name_of(manifest)
        doing = f"creating {called(resource, name, namespace)}"
        query = {"fieldManager": FIELD_MANAGER}
        body = typed(resource, manifest)
        return await self._send(Request(doing, "POST", resource.path(namespace), query, body))

    async def update(self, resource: Resource, manifest: JsonObject) -> JsonObject:
        """The whole object anew."""
        name, namespace = name_of(manifest)
        doing = f"updating {called(resource, name, namespace)}"
        query = {"fieldManager": FIELD_MANAGER}
        body = typed(resource, manifest)
        return await self._send(Request(doing, "PUT", resource.path(namespace, name), query, body))

    async def patch_merge(
        self,
        resource: Resource,
        name: str,
        patch: JsonObject,
        namespace: str | None = None,
        *,
        subresource: str = "",
    ) -> JsonObject:
        """JSON merge patch."""
        doing = f"patching {called(resource, name, namespace)}"
        path = resource.path(namespace, name, subresource)
        query = {"fieldManager": FIELD_MANAGER}
        return await self._send(Request(doing, "PATCH", path, query, patch, MERGE_PATCH))

    async def delete(
        self,
        resource: Resource,
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        propagation: Propagation = Propagation.BACKGROUND,
        missing_ok: bool = True,
    ) -> bool:
        """Ask for deletion."""
        doing = f"deleting {called(resource, name, namespace)}"
        options: JsonObject = {"propagationPolicy": propagation.value}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        try:
            await self._send(Request(doing, "DELETE", resource.path(namespace, name), {}, options))
        except NotFoundError:
            if not missing_ok:
                raise
            return False
        return True

    async def version(self) -> str:
        """The API server's version."""
        answer = await self._send(Request("asking for the version", "GET", "/version"))
        return str(answer.get("gitVersion") or "")

    async def close(self) -> None:
        """Close the connections."""
        await self._rest.close()

    async def _send(self, request: Request) -> JsonObject:
        """The answer's JSON; credentials that were refused are read again once."""
        generation = self._credentials_generation
        try:
            return await self._send_once(request)
        except ForbiddenError as error:
            if error.code != 401 or not await self._reread_credentials(generation):
                raise
        return await self._send_once(request)

    async def _send_once(self, request: Request) -> JsonObject:
        async with self._answer(request, self._connection.request_timeout_s) as response:
            body = await response.read()
        return parsed_object(request.doing, body)

    @asynccontextmanager
    async def _answer(self, request: Request, timeout_s: float) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer below 400, its body unread; whatever goes wrong until it is read becomes a ClusterError."""
        response: aiohttp.ClientResponse | None = None
        try:
            response = (await self._request(request, timeout_s)).response
            if response.status >= 400:
                body = await response.read()
                raise error_from_response(request.doing, response.status, body, response.headers)
            yield response
        except TimeoutError as error:
            raise UnreachableError(f"{request.doing}: no answer within {timeout_s:g} s") from error
        except (aiohttp.ClientError, OSError, ConfigException) as error:
            raise UnreachableError(f"{request.doing}: {error or type(error).__name__}") from error
        finally:
            if response is not None:
                response.release() if response.content.is_eof() else response.close()

    async def _request(self, request: Request, timeout_s: float) -> Any:
        headers = {"Accept": request.accept, "Content-Type": request.content_type}
        headers["User-Agent"] = self._connection.user_agent
        token = await self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        if token:
            headers["Authorization"] = token
        url = self._configuration.host + request.path
        if request.query:
            url += "?" + urlencode(request.query)
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=self._connection.connect_timeout_s)
        return await self._rest.request(
            request.method, url, headers=headers, body=request.body, _request_timeout=timeout
        )

    async def _reread_credentials(self, refused_generation: int) -> bool:
        """Whether there are other credentials than those that were refused."""
        async with self._credentials_lock:
            if self._credentials_generation != refused_generation:
                return True  # another call has read them meanwhile
            now = time.monotonic()
            if now - self._credentials_read_at < CREDENTIALS_REREAD_S:
                return False
            self._credentials_read_at = now
            fresh, _ = await _configure(self._connection)
            self._configuration.api_key = fresh.api_key
            self._configuration.refresh_api_key_hook = fresh.refresh_api_key_hook
            self._credentials_generation += 1
            return True


async def _configure(connection: Connection) -> tuple[Any, str]:
    """The client library's configuration and the namespace of our own."""
    configuration: Any = Configuration()
    load_pod: Any = load_incluster_config
    load_file: Any = load_kube_config
    configuration.connection_pool_maxsize = connection.max_connections
    in_pod = connection.kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ
    try:
        if in_pod:
            load_pod(client_configuration=configuration)
            return configuration, SERVICE_ACCOUNT_NAMESPACE.read_text(encoding="utf-8").strip()
        paths = connection.kubeconfig or os.environ.get("KUBECONFIG") or Path.home() / ".kube" / "config"
        loader: Any = await load_file(
            config_file=str(paths),
            context=connection.context,
            client_configuration=configuration,
            persist_config=False,
        )
    except (ConfigException, OSError, yaml.YAMLError) as error:
        raise ForbiddenError(f"reading the cluster's configuration: {error}; set KUBECONFIG or run in a pod") from error
    context = loader.current_context.get("context") or {}
    return configuration, str(context.get("namespace") or "default")
