"""What is known of each model: its architecture, the commit that is served, and the head that drafts for it.

Separate because it is the one fact that comes from outside of the cluster: slow, fallible, and worth remembering. The
operator never reads tenants' Secrets, so a gated model's config.json comes from a ConfigMap. What a branch stands for
the hub tells of gated models too, so that pods which start later serve what was decided on. Where it does not, a
workload is served all the same, and says so: its files may well be where nobody asks a hub.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from metainf.architecture import ModelArchitecture
from metainf.errors import HubError, InvalidWorkloadError, MetaInfError, UnknownModelError
from metainf.heads import head_context_tokens
from metainf.hub import HubConfig, fetch_commit, fetch_config, is_commit
from metainf.known_models import known_model
from metainf.manifests import DraftSource, InferenceWorkload
from metainf.planning import Head
from metainf_operator.api_errors import NotFoundError
from metainf_operator.cluster_api import ClusterApi
from metainf_operator.resources import CONFIG_MAP

__all__ = ["ConfigMapMissingError", "KnownModel", "Models"]

T = TypeVar("T")

_RETRY_HUB_S = 600.0
_WHOSE_TOKEN = (
    "the operator asks with its own token (HF_TOKEN, extraEnv of the chart), spec.model.tokenSecretRef is for the pods "
    "alone; or give the model's config.json in a ConfigMap, model.architecture.configMapRef"
)
_REMEMBERED = 4096


class ConfigMapMissingError(Exception):
    """The ConfigMap that shall hold config.json, or its key, is not there yet."""


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model's architecture, and the commit of the hub that its revision stands for, where the hub told.

    `head` is what drafts for it, None where the workload names nothing.
    """

    architecture: ModelArchitecture
    revision: str | None
    head: Head | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    """A model, an error, or both: bundled facts while the hub is away."""

    model: KnownModel | None
    error: MetaInfError | None
    at_s: float


@dataclass(frozen=True, slots=True)
class _Commit:
    """What a revision stands for; None where the hub did not say."""

    commit: str | None
    at_s: float


@dataclass(frozen=True, slots=True)
class _KnownHead:
    head: Head
    at_s: float


class Models:
    """Looks models up and remembers the answers; failures for a while, since a hub may come back."""

    def __init__(self, cluster: ClusterApi, *, hub: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.cluster = cluster
        self.hub = hub
        self._clock = clock
        self._answers: dict[tuple[str, str | None], _Answer] = {}
        self._configs: dict[str, ModelArchitecture] = {}
        self._asking: dict[tuple[str, str | None], asyncio.Lock] = {}
        self._commits: dict[tuple[str, str | None], _Commit] = {}
        self._heads: dict[tuple[str, str | None], _KnownHead] = {}
        self._away_at_s: float | None = None

    async def find(self, workload: InferenceWorkload) -> KnownModel:
        """The workload's model.

        Raises
        ------
        UnknownModelError, InvalidWorkloadError
            Permanent until the spec or the ConfigMap changes.
        HubError
            The hub does not answer, and nothing else knows the model.
        ConfigMapMissingError
            The ConfigMap or its key is not there.
        """
        found = await self._found(workload)
        head = workload.model.draft
        return found if head is None else replace(found, head=await self._head(head))

    async def _found(self, workload: InferenceWorkload) -> KnownModel:
        model = workload.model
        if model.config_map is not None:
            architecture = await self._from_config_map(workload)
            revision = model.revision if model.pvc is not None else await self._commit(model.id, model.revision)
            return KnownModel(architecture, revision)
        if model.pvc is not None:
            known = known_model(model.id)
            if known is None:
                raise UnknownModelError(
                    f"{model.id} comes from a volume and is not among the known models: give its config.json in a "
                    "ConfigMap, model.architecture.configMapRef"
                )
            return KnownModel(known, None)
        found = await self._from_hub(model.id, model.revision)
        if is_commit(found.revision):
            return found
        return replace(found, revision=await self._commit(model.id, found.revision))

    async def _commit(self, model_id: str, revision: str | None) -> str | None:
        """The commit that the revision stands for; as it was written where the hub does not say, or is not asked."""
        if is_commit(revision) or not self.hub:
            return revision
        key = (model_id, revision)
        async with self._asking.setdefault(key, asyncio.Lock()):
            known = self._commits.get(key)
            if known is None or (known.commit is None and self._is_stale(known.at_s)):
                commit = await self._asked(fetch_commit, model_id, revision)
                known = self._commits[key] = _Commit(commit, self._clock())
        return known.commit or revision

    async def _head(self, draft: DraftSource) -> Head:
        """The head, at a commit where the hub names one, and with its context where its config.json may be read."""
        if draft.id is None or not self.hub:
            return Head(draft)
        key = (f"head:{draft.id}", draft.revision)
        async with self._asking.setdefault(key, asyncio.Lock()):
            known = self._heads.get(key)
            if known is None or (known.head.context_tokens is None and self._is_stale(known.at_s)):
                found = await self._asked(fetch_config, draft.id, draft.revision)
                commit = await self._commit(draft.id, draft.revision) if found is None else found.commit
                context = None if found is None else head_context_tokens(found.config)
                head = Head(replace(draft, revision=commit), context)
                known = self._heads[key] = _KnownHead(head, self._clock())
        return known.head

    async def _asked(self, fetch: Callable[[str, str | None], T], model_id: str, revision: str | None) -> T | None:
        """The hub's answer to what need not be known; None where it gives none, or did not answer a while ago."""
        if self._away_at_s is not None and not self._is_stale(self._away_at_s):
            return None
        try:
            return await asyncio.to_thread(fetch, model_id, revision)
        except HubError:
            self._away_at_s = self._clock()
        except InvalidWorkloadError:
            pass  # gated, private or not there: the pods, which have a token of their own, will say
        return None

    def _is_stale(self, at_s: float) -> bool:
        return self._clock() - at_s > _RETRY_HUB_S

    async def _from_config_map(self, workload: InferenceWorkload) -> ModelArchitecture:
        reference = workload.model.config_map
        if reference is None:
            raise AssertionError("asked for a ConfigMap that the workload does not name")
        where = f"ConfigMap {workload.namespace}/{reference.name}"
        try:
            config_map = await self.cluster.get(CONFIG_MAP, reference.name, workload.namespace)
        except NotFoundError as exc:
            raise ConfigMapMissingError(f"{where} is not there: create it with the key {reference.key}") from exc
        text = (config_map.get("data") or {}).get(reference.key)
        if text is None:
            raise ConfigMapMissingError(f"{where} has no key {reference.key}")
        digest = hashlib.sha256(f"{workload.model.id}\0{text}".encode()).hexdigest()
        if digest not in self._configs:
            try:
                config = json.loads(text)
            except (ValueError, RecursionError) as exc:
                raise InvalidWorkloadError(f"{where}, key {reference.key}, is not valid JSON: {exc}") from exc
            if not isinstance(config, dict):
                raise InvalidWorkloadError(f"{where}, key {reference.key}, is not a JSON object")
            if len(self._configs) >= _REMEMBERED:
                self._configs.clear()
            self._configs[digest] = ModelArchitecture.from_config(config, name=workload.model.id)
        return self._configs[digest]

    async def _from_hub(self, model_id: str, revision: str | None) -> KnownModel:
        key = (model_id, revision)
        lock = self._asking.setdefault(key, asyncio.Lock())
        async with lock:  # a thousand workloads of one model ask the hub once
            answer = self._answers.get(key)
            stale = answer is not None and answer.error is not None and self._is_stale(answer.at_s)
            if answer is None or stale:
                answer = await self._ask(model_id, revision)
                self._answers[key] = answer
        if answer.model is not None:
            return answer.model
        if answer.error is None:
            raise AssertionError("an answer is a model or an error")
        raise answer.error

    async def _ask(self, model_id: str, revision: str | None) -> _Answer:
        known = known_model(model_id)
        if not self.hub:
            if known is not None:
                return _Answer(KnownModel(known, revision), None, self._clock())
            error = UnknownModelError(
                f"{model_id} is not among the known models and the hub is not asked: give its config.json in a "
                "ConfigMap, model.architecture.configMapRef"
            )
            return _Answer(None, error, self._clock())
        try:
            found = await asyncio.to_thread(fetch_config, model_id, revision)
        except HubError as exc:
            self._away_at_s = self._clock()
            # The bundled facts are those of the same model; its commit is asked for again when the hub may be back.
            return _Answer(None if known is None else KnownModel(known, revision), exc, self._clock())
        except UnknownModelError as exc:
            return _Answer(None, exc, self._clock())
        except InvalidWorkloadError as exc:
            if known is not None:
                return _Answer(KnownModel(known, revision), None, self._clock())  # gated: its facts are known
            return _Answer(None, InvalidWorkloadError(f"{exc}; {_WHOSE_TOKEN}"), self._clock())
        return self._read(model_id, found, known, revision)

    def _read(self, model_id: str, found: HubConfig, known: ModelArchitecture | None, revision: str | None) -> _Answer:
        try:
            architecture = ModelArchitecture.from_config(
                found.config, name=model_id, hf_quant_config=found.hf_quant_config
            )
        except InvalidWorkloadError as exc:
            if known is not None and not isinstance(exc, UnknownModelError):
                return _Answer(KnownModel(known, revision), None, self._clock())
            return _Answer(None, exc, self._clock())
        return _Answer(KnownModel(architecture, found.commit), None, self._clock())

    def forget_failures(self) -> None:
        """Ask again about what failed."""
        self._answers = {key: answer for key, answer in self._answers.items() if answer.error is None}
