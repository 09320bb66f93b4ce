"""Where a model's architecture comes from: hub, bundled list, ConfigMap; and what is remembered of the answers."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from controller_passes import workload as manifest
from fake_cluster import FakeCluster
from metainf.errors import HubError, InvalidWorkloadError, UnknownModelError
from metainf.known_models import known_model
from metainf.manifests import DraftSource, parse_workload
from metainf.planning import Head
from metainf_operator.models import ConfigMapMissingError, KnownModel, Models
from metainf_operator.resources import CONFIG_MAP

T = TypeVar("T")
QWEN = "Qwen/Qwen2.5-7B-Instruct"
CONFIGS = Path(__file__).parent / "data" / "model_configs"
CONFIG = json.loads((CONFIGS / "qwen2.5-7b-instruct.json").read_text(encoding="utf-8"))
COMMIT = "c" * 40


@dataclass
class Hub:
    """A hub that answers as it is told, and counts how often it is asked."""

    answer: dict[str, Any] | Exception
    commit: str | Exception
    asked: int = 0
    asked_for_commits: int = 0


def _found(hub: Hub) -> Any:
    @dataclass
    class Found:
        config: Any
        commit: str
        hf_quant_config: Any = None

    return Found(hub.answer, COMMIT)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    found = Hub(CONFIG, HubError("away"))
    monkeypatch.setattr("metainf_operator.models.fetch_config", lambda m, r: _answered(found))
    monkeypatch.setattr("metainf_operator.models.fetch_commit", lambda m, r: _committed(found))
    return found


def _committed(hub: Hub) -> str:
    hub.asked_for_commits += 1
    if isinstance(hub.commit, Exception):
        raise hub.commit
    return hub.commit


def _answered(hub: Hub) -> Any:
    hub.asked += 1
    if isinstance(hub.answer, Exception):
        raise hub.answer
    return _found(hub)


def run(main: Callable[[Models], Awaitable[T]], *, asks_hub: bool = True, cluster: FakeCluster | None = None) -> T:
    async def go() -> T:
        return await main(Models(cluster or FakeCluster(), hub=asks_hub))

    return asyncio.run(go())


def find(model: dict[str, Any], **how: Any) -> KnownModel:
    asked = parse_workload(manifest(model=model))
    return run(lambda models: models.find(asked), **how)


def test_the_hub_says_architecture_and_commit(hub: Hub) -> None:
    found = find({"id": "somebody/finetune"})
    assert found.revision == COMMIT
    assert found.architecture.hidden_size == CONFIG["hidden_size"]
    assert found.architecture.name == "somebody/finetune"


@pytest.mark.parametrize(
    ("model_id", "answer", "error"),
    [
        pytest.param(QWEN, HubError("away"), None, id="hub away, model known"),
        pytest.param(QWEN, InvalidWorkloadError("gated: accept its licence"), None, id="gated, model known"),
        pytest.param(QWEN, UnknownModelError("no such model"), UnknownModelError, id="the hub says there is none"),
        pytest.param("a/b", HubError("away"), HubError, id="hub away, model unknown"),
        pytest.param("a/b", InvalidWorkloadError("gated"), InvalidWorkloadError, id="gated, model unknown"),
        pytest.param("a/b", {"architectures": ["Wonder"]}, UnknownModelError, id="an architecture nobody knows"),
    ],
)
def test_what_the_hub_does_not_tell_the_bundled_list_may(
    hub: Hub, model_id: str, answer: Any, error: type[Exception] | None
) -> None:
    hub.answer = answer
    if error is None:
        found = find({"id": model_id})
        assert found.architecture == known_model(model_id)
        assert found.revision is None
    else:
        with pytest.raises(error):
            find({"id": model_id})


def test_without_a_hub_the_bundled_list_alone_counts(hub: Hub) -> None:
    assert find({"id": QWEN, "revision": COMMIT}, asks_hub=False) == KnownModel(_known(), COMMIT)
    with pytest.raises(UnknownModelError, match=r"model\.architecture\.configMapRef"):
        find({"id": "a/b"}, asks_hub=False)
    assert hub.asked == 0


def _known() -> Any:
    found = known_model(QWEN)
    assert found is not None
    return found


def test_a_model_on_a_volume_needs_no_hub_and_has_no_commit(hub: Hub) -> None:
    volume = {"pvc": {"claimName": "weights"}}
    assert find({"id": QWEN, "source": volume}) == KnownModel(_known(), None)
    with pytest.raises(UnknownModelError, match="comes from a volume"):
        find({"id": "mine", "source": volume})
    assert hub.asked == 0


def test_a_thousand_workloads_of_one_model_ask_once(hub: Hub) -> None:
    asked = parse_workload(manifest(model={"id": "a/b"}))

    async def main(models: Models) -> list[KnownModel]:
        return await asyncio.gather(*(models.find(asked) for _ in range(20)))

    found = run(main)
    assert (hub.asked, len({id(each.architecture) for each in found})) == (1, 1)


def test_another_revision_is_another_question(hub: Hub) -> None:
    async def main(models: Models) -> None:
        for revision in ("a" * 40, "b" * 40, "a" * 40):
            await models.find(parse_workload(manifest(model={"id": "a/b", "revision": revision})))

    run(main)
    assert hub.asked == 2


def test_a_failure_is_remembered_for_a_while_and_an_answer_for_good(hub: Hub) -> None:
    asked = parse_workload(manifest(model={"id": "a/b"}))
    clock = [0.0]

    async def main() -> list[int]:
        models = Models(FakeCluster(), hub=True, clock=lambda: clock[0])
        counts = []
        hub.answer = HubError("away")
        for at in (0.0, 599.0, 601.0):
            clock[0] = at
            with pytest.raises(HubError):
                await models.find(asked)
            counts.append(hub.asked)
        hub.answer = CONFIG
        models.forget_failures()
        await models.find(asked)
        models.forget_failures()
        clock[0] = 1e6
        await models.find(asked)
        counts.append(hub.asked)
        return counts

    assert asyncio.run(main()) == [1, 1, 2, 3]


REFERENCE = {"id": "mine/model", "architecture": {"configMapRef": {"name": "config"}}}


def with_config(data: dict[str, str] | None) -> FakeCluster:
    cluster = FakeCluster()
    if data is not None:
        cluster.put(CONFIG_MAP, {"metadata": {"name": "config", "namespace": "team"}, "data": data})
    return cluster


def test_a_config_map_goes_before_the_hub(hub: Hub) -> None:
    cluster = with_config({"config.json": json.dumps(CONFIG)})
    found = find({**REFERENCE, "revision": COMMIT}, cluster=cluster)
    assert (found.architecture.hidden_size, found.revision) == (CONFIG["hidden_size"], COMMIT)
    assert hub.asked == 0


def test_a_config_map_that_changed_is_read_anew(hub: Hub) -> None:
    cluster = with_config({"config.json": json.dumps(CONFIG)})
    asked = parse_workload(manifest(model=REFERENCE))

    async def main(models: Models) -> list[int]:
        sizes = []
        for vocabulary in (CONFIG["vocab_size"], CONFIG["vocab_size"], 1000):
            changed = {"config.json": json.dumps({**CONFIG, "vocab_size": vocabulary})}
            cluster.put(CONFIG_MAP, {"metadata": {"name": "config", "namespace": "team"}, "data": changed})
            sizes.append((await models.find(asked)).architecture.vocab_size)
        return sizes

    assert run(main, cluster=cluster) == [CONFIG["vocab_size"], CONFIG["vocab_size"], 1000]


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        pytest.param(None, ConfigMapMissingError, "team/config is not there: create it", id="no ConfigMap"),
        pytest.param({"other": "{}"}, ConfigMapMissingError, "has no key config.json", id="no key"),
        pytest.param({"config.json": "{"}, InvalidWorkloadError, "is not valid JSON", id="no JSON"),
        pytest.param({"config.json": "[]"}, InvalidWorkloadError, "is not a JSON object", id="no object"),
        pytest.param({"config.json": "[" * 100_000}, InvalidWorkloadError, "is not valid JSON", id="too deep"),
        pytest.param({"config.json": '{"architectures": ["Wonder"]}'}, UnknownModelError, "Wonder", id="unknown"),
    ],
)
def test_a_config_map_that_is_no_good_says_why(data: dict[str, str] | None, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        find(REFERENCE, cluster=with_config(data))


# Commits of what the hub gives no config.json of, and heads


VOLUME = {"pvc": {"claimName": "weights"}}


@pytest.mark.parametrize(
    ("model", "asks_hub", "revision"),
    [
        pytest.param({"id": QWEN}, True, COMMIT, id="gated, and bundled"),
        pytest.param(REFERENCE, True, COMMIT, id="of a ConfigMap"),
        pytest.param({**REFERENCE, "revision": "v1"}, True, COMMIT, id="at a tag"),
        pytest.param({**REFERENCE, "revision": "d" * 40}, True, "d" * 40, id="at a commit"),
        pytest.param({**REFERENCE, "revision": "v1"}, False, "v1", id="the hub is not asked"),
        pytest.param({**REFERENCE, "source": VOLUME}, True, None, id="from a volume"),
    ],
)
def test_what_the_hub_gives_no_config_of_is_pinned_to_the_commit_that_it_names(
    hub: Hub, model: dict[str, Any], asks_hub: bool, revision: str | None
) -> None:
    hub.answer, hub.commit = InvalidWorkloadError("gated: accept its licence"), COMMIT
    cluster = with_config({"config.json": json.dumps(CONFIG)})
    assert find(model, cluster=cluster, asks_hub=asks_hub).revision == revision
    assert hub.asked_for_commits == (revision == COMMIT)


@pytest.mark.parametrize(
    "commit", [HubError("away"), InvalidWorkloadError("private"), UnknownModelError("no such model")], ids=str
)
def test_where_the_hub_names_no_commit_the_revision_stays_as_it_is_written(hub: Hub, commit: Exception) -> None:
    hub.commit = commit
    cluster = with_config({"config.json": json.dumps(CONFIG)})
    assert find({**REFERENCE, "revision": "v1"}, cluster=cluster).revision == "v1"


def test_a_hub_that_is_away_is_asked_for_no_commit_for_a_while(hub: Hub) -> None:
    cluster = with_config({"config.json": json.dumps(CONFIG)})
    clock = [0.0]

    async def main() -> list[tuple[str | None, int]]:
        models = Models(cluster, hub=True, clock=lambda: clock[0])
        seen = []
        for at, revision in ((0.0, "v1"), (1.0, "v1"), (2.0, "v2"), (601.0, "v1"), (9999.0, "v1")):
            clock[0] = at
            hub.commit = HubError("away") if at < 600.0 else COMMIT
            asked = parse_workload(manifest(model={**REFERENCE, "revision": revision}))
            found = await models.find(asked)
            seen.append((found.revision, hub.asked_for_commits))
        return seen

    assert asyncio.run(main()) == [("v1", 1), ("v1", 1), ("v2", 1), (COMMIT, 2), (COMMIT, 2)]


HEAD = {"id": "a/head"}
HEAD_CONFIG = {"architectures": ["LlamaForCausalLMEagle3"], "max_position_embeddings": 2048}


@pytest.mark.parametrize(
    ("answer", "commit", "head", "found"),
    [
        pytest.param(HEAD_CONFIG, COMMIT, HEAD, Head(DraftSource("a/head", COMMIT), 2048), id="as any model"),
        pytest.param(
            HEAD_CONFIG, COMMIT, {**HEAD, "revision": "v1"}, Head(DraftSource("a/head", COMMIT), 2048), id="at a tag"
        ),
        pytest.param(
            InvalidWorkloadError("gated"), COMMIT, HEAD, Head(DraftSource("a/head", COMMIT)), id="gated: a commit alone"
        ),
        pytest.param(
            HubError("away"),
            COMMIT,
            {**HEAD, "revision": "v1"},
            Head(DraftSource("a/head", "v1")),
            id="the hub is away: as it is written",
        ),
        pytest.param(
            UnknownModelError("none"), UnknownModelError("none"), HEAD, Head(DraftSource("a/head")), id="no such head"
        ),
    ],
)
def test_a_head_is_pinned_to_a_commit_and_its_context_is_read(
    hub: Hub, answer: Any, commit: Any, head: dict[str, str], found: Head
) -> None:
    hub.answer, hub.commit = answer, commit
    cluster = with_config({"config.json": json.dumps(CONFIG)})
    model = {**REFERENCE, "revision": COMMIT, "draftModel": head}
    assert find(model, cluster=cluster).head == found


def test_a_head_on_a_volume_or_without_a_hub_is_as_the_workload_names_it(hub: Hub) -> None:
    on_volume = {"id": QWEN, "source": VOLUME, "draftModel": {"path": "heads/qwen"}}
    assert find(on_volume).head == Head(DraftSource(path="heads/qwen"))
    named = {"id": QWEN, "draftModel": {**HEAD, "revision": "v1"}}
    assert find(named, asks_hub=False).head == Head(DraftSource("a/head", "v1"))
    assert (hub.asked, hub.asked_for_commits) == (0, 0)
