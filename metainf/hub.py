"""The one door to the model hub: a model's config.json and the commit that it came from.

Separate because it is the only module that goes to the network, and import contracts hold it so. It fetches two
small JSON files, and what a name stands for, and nothing else: never weights, and never code from the model's
repository. `huggingface_hub` is imported inside the functions, so that the library starts without it.

Why not `hf_hub_download`: it writes to a cache folder, which an operator's read-only file system does not have, and
it does not stop at a size. The files are streamed into memory through huggingface_hub's own session, addresses,
tokens and error classes.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from metainf import __version__
from metainf.errors import HubError, InvalidWorkloadError, MetaInfError, UnknownModelError

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

__all__ = ["MAX_FILE_BYTES", "HubConfig", "fetch_commit", "fetch_config", "is_commit"]

MAX_FILE_BYTES = 5 * 1024 * 1024
"""Largest config.json that is read; the largest known one of a usable model has 3.1 MB (a NVFP4 checkpoint)."""
_CONFIG, _QUANT_CONFIG = "config.json", "hf_quant_config.json"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_COMMIT_HEADER = "X-Repo-Commit"
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,254}")


@dataclass(frozen=True)
class HubConfig:
    """A model's config.json at one commit."""

    model_id: str
    commit: str
    config: Mapping[str, object] = field(repr=False)
    hf_quant_config: Mapping[str, object] | None = field(default=None, repr=False)
    """Content of hf_quant_config.json, where a checkpoint made by modelopt has one."""


@dataclass(frozen=True)
class _Request:
    model_id: str
    revision: str
    endpoint: str
    token: str | None = field(repr=False)
    timeout_s: float


def fetch_config(
    model_id: str, revision: str | None = None, *, token: str | None = None, timeout_s: float = 10
) -> HubConfig:
    """Read config.json from the hub, and the commit that `revision` (default: main) stands for now.

    Without `token`, huggingface_hub's own is used (HF_TOKEN or its token file). HF_ENDPOINT names another hub.

    Raises
    ------
    UnknownModelError
        The hub has no such model, revision or config.json.
    InvalidWorkloadError
        The id is not one, the model is gated or private, or its config.json is too large or no JSON object.
    HubError
        The hub did not answer, failed, or may not be asked (HF_HUB_OFFLINE).
    """
    request = _request(model_id, revision, token, timeout_s)
    config, commit = _fetch_json(request, _CONFIG)
    if config is None:
        raise UnknownModelError(f"{model_id}: the repository has no {_CONFIG} at revision {request.revision}")
    commit = commit or _resolve_commit(request)
    side = None
    if "quantization_config" not in config:
        side, _ = _fetch_json(replace(request, revision=commit), _QUANT_CONFIG)
    return HubConfig(model_id, commit, config, side)


def fetch_commit(model_id: str, revision: str | None = None, *, token: str | None = None, timeout_s: float = 10) -> str:
    """The commit that `revision` (default: main) stands for now: of a gated model, too, whose files nobody may read.

    Raises as `fetch_config`, but for what is about its files.
    """
    return _resolve_commit(_request(model_id, revision, token, timeout_s))


def is_commit(revision: str | None) -> bool:
    """Whether this is a commit, which stands for the same files for ever, and no branch or tag."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def _request(model_id: str, revision: str | None, token: str | None, timeout_s: float) -> _Request:
    from huggingface_hub import constants

    wanted = revision or "main"
    if not _REVISION.fullmatch(wanted) or ".." in wanted:
        raise InvalidWorkloadError(f"{model_id}: {wanted[:80]!r} is no revision; give a branch, a tag or a commit")
    if constants.is_offline_mode():
        raise HubError(f"fetching {model_id}: HF_HUB_OFFLINE is set; unset it, or give the model's config.json")
    endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    return _Request(model_id, wanted, endpoint, token, timeout_s)


@contextmanager
def _asking(request: _Request, doing: str) -> Iterator[None]:
    """Whatever goes wrong within, as errors of ours; `doing` says at what where nobody knows better."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    try:
        yield
    except HfHubHTTPError as exc:
        raise _translated(request, exc) from exc
    except HFValidationError as exc:
        raise InvalidWorkloadError(
            f"{request.model_id[:100]!r} is no model id; write it as owner/name, as Qwen/Qwen2.5-7B-Instruct"
        ) from exc
    except OfflineModeIsEnabled as exc:
        raise HubError(f"fetching {request.model_id}: HF_HUB_OFFLINE is set") from exc
    except MetaInfError:
        raise
    except Exception as exc:
        raise HubError(f"{doing}: {_sentence(exc)}; check the connection, or give the model's config.json") from exc


def _fetch_json(request: _Request, filename: str) -> tuple[dict[str, object] | None, str | None]:
    """The file's object, and the commit if the hub says it; None where there is no such file."""
    from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with _asking(request, f"reaching {request.endpoint} for {request.model_id}"):
        url = hf_hub_url(request.model_id, filename, revision=request.revision, endpoint=request.endpoint)
        headers = _headers(request.token)
        try:
            with get_session().stream("GET", url, headers=headers, timeout=request.timeout_s) as response:
                hf_raise_for_status(response)
                commit = _commit_of(response)
                raw = _read_limited(response, f"{request.model_id}: {filename}")
        except RemoteEntryNotFoundError:
            return None, None
    return _parsed(raw, f"{request.model_id}: {filename}"), commit


def _headers(token: str | None) -> dict[str, str]:
    """The given token, else huggingface_hub's own unless that is switched off."""
    from huggingface_hub import constants, get_token

    headers = {"user-agent": f"metainf/{__version__}"}
    own = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    if token or own:
        headers["authorization"] = f"Bearer {token or own}"
    return headers


def _commit_of(response: Any) -> str | None:
    """The hub states the commit on the first answer, and not always on the one that it redirects to."""
    for each in (*response.history, response):
        commit = each.headers.get(_COMMIT_HEADER, "")
        if _COMMIT.fullmatch(commit):
            return str(commit)
    return None


def _read_limited(response: Any, what: str) -> bytes:
    chunks, size = [], 0
    for chunk in response.iter_bytes():
        size += len(chunk)
        if size > MAX_FILE_BYTES:
            raise InvalidWorkloadError(f"{what} is larger than {MAX_FILE_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _parsed(raw: bytes, what: str) -> dict[str, object]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise InvalidWorkloadError(f"{what} is not valid JSON: {_sentence(exc)}") from exc
    if not isinstance(value, dict):
        raise InvalidWorkloadError(f"{what} must be a JSON object, not {type(value).__name__}")
    return value


def _resolve_commit(request: _Request) -> str:
    """Ask the hub's API, for mirrors that do not state the commit with the file."""
    from huggingface_hub import HfApi

    doing = f"resolving revision {request.revision} of {request.model_id}"
    with _asking(request, doing):
        api = HfApi(endpoint=request.endpoint, token=request.token)
        commit = api.model_info(request.model_id, revision=request.revision, timeout=request.timeout_s).sha
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
        raise HubError(f"{doing}: the hub names no commit")
    return commit


def _translated(request: _Request, exc: "HfHubHTTPError") -> MetaInfError:
    """What the hub's refusal means for the user."""
    from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError

    model, status = request.model_id, exc.response.status_code
    if isinstance(exc, GatedRepoError):
        return InvalidWorkloadError(f"{model} is gated: accept its terms on the hub and give a token of that account")
    if isinstance(exc, RevisionNotFoundError):
        return UnknownModelError(f"{model} has no revision {request.revision}")
    if status in (401, 403):
        return InvalidWorkloadError(
            f"{model} is not there, or private: check the id, or give a token that may read it (HTTP {status})"
        )
    if status == 404:
        return UnknownModelError(f"{model}: no such model at {request.endpoint}")
    if status == 429 or status >= 500:
        return HubError(f"fetching {model}: {request.endpoint} answers HTTP {status}")
    return InvalidWorkloadError(f"fetching {model}: {request.endpoint} refuses with HTTP {status}")


def _sentence(exc: BaseException) -> str:
    text = str(exc).strip().splitlines()
    return f"{type(exc).__name__}{': ' + text[0][:200] if text else ''}"
