"""What keeps pods from serving, read from statuses as a kubelet wrote them (kubernetes v1.37.2, containerd v2.3.7)."""

import asyncio
from typing import Any

import pytest

from controller_passes import Around, serving
from metainf_operator.ledger import WorkloadKey
from metainf_operator.pod_troubles import pod_trouble
from metainf_operator.projections import project_pod
from metainf_operator.resources import DEPLOYMENT, EVENT, POD
from metainf_operator.rollout import PodTrouble, Stage
from metainf_operator.triggers import Key, Triggers
from metainf_operator.workqueue import WorkQueue
from metainf_operator.world import World

NO_NETWORK = (
    'failed to pull and unpack image "docker.io/library/nothing:1": failed to resolve image: failed to do request: '
    'Head "https://registry-1.docker.io/v2/library/nothing/manifests/1": dial tcp: lookup registry-1.docker.io on '
    "10.255.255.53:53: dial udp 10.255.255.53:53: connect: network is unreachable"
)
ENDED = {"startedAt": "2026-11-26T14:53:01Z", "finishedAt": "2026-11-26T14:53:36Z", "containerID": "containerd://ab"}


NO_SUCH_FOLDER = """\
  File "/opt/vllm/environment/lib/python3.11/site-packages/vllm/engine/arg_utils.py", line 914, in __post_init__
    self.model = get_model_path(self.model, self.revision)
                 ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  File "/opt/vllm/environment/lib/python3.11/site-packages/huggingface_hub/utils/_validators.py", line 133, in \
validate_repo_id
    raise HFValidationError(
huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': \
'/models/nope'. Use `repo_type` argument if needed.
"""
"""The last words of vLLM 0.32.0 whose model is a folder that is not there."""


def pod(
    *,
    state: dict[str, Any] | None = None,
    last: dict[str, Any] | None = None,
    ready: bool = False,
    restarts: int = 0,
    args: tuple[str, ...] = (),
    limit: str | None = "2409Mi",
    request: str | None = None,
    message: str = "",
    **metadata: Any,
) -> dict[str, Any]:
    asked = {"limits": limit, "requests": request}
    resources = {kind: {"memory": memory} for kind, memory in asked.items() if memory is not None}
    claim = {"claimName": "models", "readOnly": True}
    scheduled = {"type": "PodScheduled", "status": "False" if message else "True", "message": message}
    running = {"name": "vllm", "image": "vllm:1", "ready": ready, "restartCount": restarts, "state": state or {}}
    return {
        "metadata": {
            "name": "chat-1",
            "namespace": "team",
            "labels": {"metainf.dev/workload": "chat", "metainf.dev/serving": "5e596e5c"},
            **metadata,
        },
        "spec": {
            "containers": [{"name": "vllm", "image": "vllm:1", "args": list(args), "resources": resources}],
            "volumes": [{"name": "model", "persistentVolumeClaim": claim}],
            **({} if message else {"nodeName": "node-1"}),
        },
        "status": {
            "phase": "Pending" if message else "Running",
            "conditions": [scheduled],
            "containerStatuses": [] if message else [{**running, "lastState": last or {}}],
        },
    }


def crashed(**ended: Any) -> dict[str, Any]:
    """A pod whose container ended so, and starts again."""
    state, args = {"running": {"startedAt": "2026-11-26T14:53:37Z"}}, ("/models/nope", "--port", "8000")
    return pod(state=state, last={"terminated": {**ENDED, **ended}}, restarts=1, args=args)


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return pod(state={"waiting": {"reason": reason, "message": message}})


@pytest.mark.parametrize(
    ("body", "stage", "says"),
    [
        pytest.param(waiting("ErrImagePull", NO_NETWORK), Stage.IMAGE_MISSING, "no image vllm:1: failed to pull"),
        pytest.param(
            waiting("ImagePullBackOff", f'Back-off pulling image "nothing:1": ErrImagePull: {NO_NETWORK}'),
            Stage.IMAGE_MISSING,
            "no image vllm:1: failed to pull",
            id="the same image, between two tries",
        ),
        pytest.param(
            waiting("ErrImageNeverPull", 'Container image "vllm:1" is not present with pull policy of Never'),
            Stage.IMAGE_MISSING,
            "no image vllm:1: Container image",
            id="an image that nobody put on the node",
        ),
        pytest.param(
            waiting("CreateContainerConfigError", 'secret "keys" not found'),
            Stage.CANNOT_START,
            'the container cannot be started: secret "keys" not found',
            id="a Secret that is not there",
        ),
        pytest.param(
            pod(
                state={"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s restarting"}},
                last={"terminated": {**ENDED, "exitCode": 128, "reason": "StartError", "message": "no such file"}},
                restarts=2,
            ),
            Stage.CANNOT_START,
            "the container cannot be started: no such file",
            id="a program that is not in the image",
        ),
        pytest.param(
            pod(message='0/1 nodes are available: persistentvolumeclaim "models" not found. not found'),
            Stage.MODEL_MISSING,
            "no model: volume claim models not found",
            id="a claim of the model that is not there",
        ),
        pytest.param(
            pod(message='0/1 nodes are available: persistentvolumeclaim "cache" not found. not found'),
            Stage.CANNOT_START,
            "volume claim cache not found",
            id="another claim that is not there",
        ),
        pytest.param(
            crashed(exitCode=1, reason="Error", message=NO_SUCH_FOLDER),
            Stage.MODEL_MISSING,
            "no model /models/nope: HFValidationError: Repo id must be in the form",
            id="a folder that is not on the volume",
        ),
        pytest.param(
            crashed(
                exitCode=1, reason="Error", message="(APIServer pid=1) OSError: x is not a local folder and is not"
            ),
            Stage.MODEL_MISSING,
            "no model /models/nope: OSError: x is not a local folder",
            id="a model that the hub does not have",
        ),
        pytest.param(
            crashed(
                exitCode=1,
                reason="Error",
                message="(EngineCore pid=27) ERROR 11-26 14:57:54 [core.py:9] ValueError: no room\n"
                "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.",
            ),
            Stage.ENGINE_CRASHED,
            "the engine crashed, exit code 1; once so far: ValueError: no room",
            id="a reason before its symptom",
        ),
        pytest.param(
            crashed(exitCode=0, reason="Completed"),
            Stage.ENGINE_CRASHED,
            "the engine ended by itself, exit code 0; once so far",
            id="an engine that died and took its server along",
        ),
        pytest.param(
            crashed(exitCode=1, reason="Error", message="x\nValueError: too many heads\nbye\n"),
            Stage.ENGINE_CRASHED,
            "the engine crashed, exit code 1; once so far: ValueError: too many heads",
            id="an engine that says why",
        ),
        pytest.param(
            crashed(exitCode=130, reason="Error", message="KeyboardInterrupt: terminated\n"),
            Stage.ENGINE_CRASHED,
            "the engine was stopped, exit code 130, as by a probe that it did not answer in time; once so far",
            id="a start that took too long",
        ),
        pytest.param(
            pod(state={"waiting": {"reason": "CrashLoopBackOff"}}, restarts=3),
            Stage.ENGINE_CRASHED,
            "the engine crashed; 4 times so far",
            id="a crash of which nothing is known",
        ),
    ],
)
def test_tells_what_is_wrong(body: dict[str, Any], stage: Stage, says: str) -> None:
    trouble = pod_trouble(body)
    assert trouble is not None
    assert (trouble.stage, trouble.pod, trouble.serving) == (stage, "chat-1", "5e596e5c")
    assert trouble.message.startswith(says)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(pod(ready=True, last={"terminated": {**ENDED, "exitCode": 0}}, restarts=1), id="healed"),
        pytest.param(pod(state={"running": {}}), id="loading"),
        pytest.param(waiting("ContainerCreating"), id="being made"),
        pytest.param(pod(message="0/1 nodes are available: 1 Insufficient cpu."), id="waiting for room"),
        pytest.param(
            pod(state={"terminated": {**ENDED, "exitCode": 143}}, deletionTimestamp="2026-11-26T14:53:01Z"),
            id="on its way out",
        ),
    ],
)
def test_has_nothing_to_say_of_a_pod_that_only_takes_its_time(body: dict[str, Any]) -> None:
    assert pod_trouble(body) is None


@pytest.mark.parametrize(
    ("args", "limit", "planned", "says"),
    [
        pytest.param((), "2409Mi", None, "it needed more than its limit of 2,409 MiB; once so far", id="limit"),
        pytest.param(
            ("--kv-cache-memory-bytes", "256M"),
            "2443Mi",
            "2443Mi",
            "2,443 MiB; the plan expected 2,443 MiB, of which --kv-cache-memory-bytes asks for 256 MiB; once so far",
            id="what the plan expected",
        ),
        pytest.param(
            (), "4Gi", "2443Mi", "its limit of 4,096 MiB; the plan expected 2,443 MiB; once", id="a limit of the user's"
        ),
        pytest.param(
            (),
            None,
            "12Gi",
            "no limit of its own; the plan expected 12,288 MiB; once",
            id="no limit, and what the plan expected",
        ),
        pytest.param(
            ("--kv-cache-memory-bytes", "268435456", "--kv-cache-memory-bytes=3G"),
            "4Gi",
            None,
            "more than its limit of 4,096 MiB, of which --kv-cache-memory-bytes asks for 3,072 MiB",
            id="the last cache that is asked for counts",
        ),
        pytest.param(
            ("--kv-cache-memory-bytes", "2g"), "4Gi", None, "--kv-cache-memory-bytes asks for 1,907 MiB", id="decimal"
        ),
        pytest.param(("--kv-cache-memory-bytes", "much"), "4Gi", None, "its limit of 4,096 MiB; once", id="no size"),
        pytest.param((), None, None, "the node had no more, and the pod has no limit of its own; once", id="no limit"),
    ],
)
def test_a_pod_killed_for_memory_is_told_with_what_it_had(
    args: tuple[str, ...], limit: str | None, planned: str | None, says: str
) -> None:
    ended = {"terminated": {**ENDED, "exitCode": 137, "reason": "OOMKilled"}}
    trouble = pod_trouble(pod(state=ended, args=args, limit=limit, request=planned))
    assert trouble is not None
    assert trouble.stage is Stage.OUT_OF_MEMORY
    assert says in trouble.message


DRAFTS = ("--speculative-config", '{"method":"eagle3","model":"a/head","num_speculative_tokens":3}')
ON_A_CLAIM = ("--speculative-config", '{"method":"eagle3","model":"/models/m/head","num_speculative_tokens":3}')


def _no_local(name: str) -> str:
    return f"OSError: {name} is not a local folder and is not a valid model identifier listed on the hub"


@pytest.mark.parametrize(
    ("args", "said", "says"),
    [
        pytest.param(("a/m", *DRAFTS), _no_local("a/head"), "no head a/head (model.draftModel): OSError", id="head"),
        pytest.param(("a/m", *DRAFTS), _no_local("a/m"), "no model a/m: OSError", id="the model"),
        pytest.param(("a/m",), _no_local("a/m"), "no model a/m: OSError", id="no head at all"),
        pytest.param(
            ("a/m", *DRAFTS),
            "RepositoryNotFoundError: 404 Client Error.\n\nnot found for url: https://hub/a/head/resolve/main/x.json.",
            "no head a/head",
            id="by an address in another line",
        ),
        pytest.param(
            ("a/m", *DRAFTS),
            "arguments: {'model': 'a/m', 'draft': 'a/head'}\nRepositoryNotFoundError: 404 Client Error",
            "no model a/m",
            id="both are named, neither where it says why",
        ),
        pytest.param(
            ("a/head-7b", *DRAFTS), _no_local("a/head-7b"), "no model a/head-7b", id="a model whose name goes on"
        ),
        pytest.param(
            ("/models/m", *ON_A_CLAIM),
            "HFValidationError: Repo id must be in the form 'namespace/repo_name': '/models/m/head'.",
            "no head /models/m/head",
            id="a folder within the model's",
        ),
        pytest.param(
            ("/models/m/head/7b", *ON_A_CLAIM),
            "HFValidationError: Repo id must be in the form 'namespace/repo_name': '/models/m/head/7b'.",
            "no model /models/m/head/7b",
            id="a model within the head's folder",
        ),
        pytest.param(("a/m", f"{DRAFTS[0]}={DRAFTS[1]}"), _no_local("a/head"), "no head a/head", id="in one argument"),
        pytest.param(("a/m", DRAFTS[0], "{"), _no_local("a/m"), "no model a/m", id="no JSON"),
        pytest.param(("a/m", DRAFTS[0], "[]"), _no_local("a/m"), "no model a/m", id="no object"),
        pytest.param(("a/m", DRAFTS[0], '{"method":"ngram"}'), _no_local("a/m"), "no model a/m", id="no head drafts"),
    ],
)
def test_a_head_that_is_not_there_is_told_from_a_model_that_is_not(args: tuple[str, ...], said: str, says: str) -> None:
    ended = {"terminated": {**ENDED, "exitCode": 1, "reason": "Error", "message": said}}
    trouble = pod_trouble(pod(state=ended, args=args))
    assert trouble is not None
    assert trouble.stage is Stage.MODEL_MISSING
    assert trouble.message.startswith(says)


def test_an_image_that_is_tried_again_and_again_is_told_in_one_way() -> None:
    messages = {
        pod_trouble(waiting("ErrImagePull", NO_NETWORK)),
        pod_trouble(waiting("ImagePullBackOff", f'Back-off pulling image "nothing:1": ErrImagePull: {NO_NETWORK}')),
    }
    assert len(messages) == 1


def test_one_crash_is_told_in_one_way_whether_it_waits_for_its_next_start_or_has_begun_it() -> None:
    ended = {"terminated": {**ENDED, "exitCode": 0}}
    phases = (
        pod(state=ended),
        pod(state={"waiting": {"reason": "CrashLoopBackOff"}}, last=ended),
        pod(state={"running": {}}, last=ended, restarts=1),
    )
    assert len({pod_trouble(phase) for phase in phases}) == 1


def test_long_last_words_are_cut() -> None:
    trouble = pod_trouble(crashed(exitCode=1, reason="Error", message=f"ValueError: {'x' * 5000}"))
    assert trouble is not None
    assert len(trouble.message) < 400


def test_a_pod_that_is_bound_nowhere_is_kept_for_its_trouble_alone() -> None:
    body = pod(message='0/1 nodes are available: persistentvolumeclaim "models" not found. not found')
    use = project_pod(body)
    assert use is not None
    assert (use.node, use.cpu_cores, use.memory_bytes, use.accelerators) == ("", 0.0, 0, 0)
    assert isinstance(use.trouble, PodTrouble)
    assert project_pod(pod(message="0/1 nodes are available: 1 Insufficient cpu.")) is None


def test_pods_of_others_have_no_trouble_that_concerns_us() -> None:
    use = project_pod({**waiting("ErrImagePull"), "metadata": {"name": "x", "namespace": "y"}})
    assert use is not None
    assert use.trouble is None


@pytest.fixture
def around() -> Around:
    """A workload that serves with one replica."""
    return serving()


def _break(around: Around, container: dict[str, Any], available: int = 0) -> None:
    """Let the one pod's container stand so, as a kubelet and the Deployment's controller would say it."""
    (own,) = around.cluster.all(POD, "team")
    statuses = [{"name": "vllm", "ready": bool(available), **container}]
    ready = [{"type": "Ready", "status": "True" if available else "False"}]
    patch = {"status": {"containerStatuses": statuses, "conditions": ready}}
    around.cluster.edit(POD, own["metadata"]["name"], patch, "team")
    (deployment,) = around.cluster.all(DEPLOYMENT, "team")
    name = deployment["metadata"]["name"]
    around.cluster.edit(DEPLOYMENT, name, {"status": {"availableReplicas": available}}, "team")


def _told(around: Around, reason: str) -> list[str]:
    return [event["note"] for event in around.cluster.all(EVENT) if event["reason"] == reason]


def _died(restarts: int) -> dict[str, Any]:
    return {"restartCount": restarts, "state": {"running": {}}, "lastState": {"terminated": {**ENDED, "exitCode": 0}}}


def test_a_crash_is_told_each_time_and_over_when_the_pod_is_ready_again(around: Around) -> None:
    _break(around, _died(1))
    around.reconcile()
    around.reconcile()
    assert around.condition("Ready") == around.condition("Available") == ("False", "EngineCrashed")
    assert "0 of 1 replicas are ready: " in around.message("Ready")
    assert "exit code 0; once so far" in around.message("Ready")
    assert len(_told(around, "EngineCrashed")) == 1
    _break(around, _died(1), available=1)
    around.reconcile()
    assert around.condition("Ready") == ("True", "Serving")
    _break(around, _died(2))
    around.reconcile()
    told = {note.rpartition("; ")[2] for note in _told(around, "EngineCrashed")}
    assert told == {"once so far", "2 times so far"}


def test_a_pod_in_trouble_brings_its_workload_into_the_queue() -> None:
    world, queue = World(), WorkQueue[Key]()
    triggers = Triggers(world, queue, decide_anew=lambda _: None)
    key = ("team", "chat-1")

    async def seen() -> list[int]:
        triggers.listen()
        lengths = []
        for version, body in enumerate((pod(state={"running": {}}), crashed(exitCode=0), pod(ready=True))):
            use = project_pod(body)
            assert use is not None
            world.pods.upsert(key, use, str(version))
            lengths.append(len(queue))
            assert len(world.troubles(WorkloadKey("team", "chat"), "5e596e5c")) == (version == 1)
        return lengths

    assert asyncio.run(seen()) == [0, 1, 1]
