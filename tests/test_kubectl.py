import asyncio
import io
import json
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from fake_cluster import FakeCluster
from metainf.cli.console import printable
from metainf.known_models import known_model_config
from metainf.layouts import Layout
from metainf.manifests import CHOICE_ANNOTATION
from metainf.predictors.analytical import AnalyticalPredictor
from metainf_operator.api_errors import ConflictError, ForbiddenError, NotFoundError, UnreachableError
from metainf_operator.cluster_api import Verb
from metainf_operator.kubectl import main
from metainf_operator.plugin import diff, pin
from metainf_operator.plugin.inventory import read_world
from metainf_operator.plugin.planner import Planner
from metainf_operator.reconcile import serving_inputs
from metainf_operator.resources import (
    ACCELERATOR_POOL,
    CONFIG_MAP,
    INFERENCE_DECISION,
    INFERENCE_WORKLOAD,
    NODE,
    POD,
)
from metainf_operator.settings import OperatorSettings
from metainf_operator.states import ACTIVATED_AT, RELEASED, SERVING_INPUTS, project_workload

MODEL = "Qwen/Qwen2.5-7B-Instruct"
GPUS = {"l4": ("NVIDIA-L4", "23034"), "h100": ("NVIDIA-H100-80GB-HBM3", "81559"), "mystery": ("NVIDIA-Z9000", "81559")}


def workload(name="chat", budget="20", **spec):
    return {
        "apiVersion": "metainf.dev/v1alpha1",
        "kind": "InferenceWorkload",
        "metadata": {"name": name},
        "spec": {
            "model": {"id": MODEL},
            "traffic": {"requestsPerSecond": "1", "inputTokens": {"mean": 500}, "outputTokens": {"mean": 100}},
            "slo": {"ttft": {"p95": "10s"}, "tpot": {"p95": "500ms"}},
            "budget": {"perHour": budget},
            "methods": {"allow": ["default"]},  # few candidates, quick answers
            **spec,
        },
    }


def node(name, gpu="l4", count=4, cost: str | None = "3.20"):
    product, memory = GPUS[gpu]
    labels = {
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.memory": memory,
        "nvidia.com/gpu.count": str(count),
        "nvidia.com/gpu.replicas": "1",
        "kubernetes.io/hostname": name,
    }
    return {
        "metadata": {
            "name": name,
            "labels": labels,
            "annotations": {} if cost is None else {"metainf.dev/cost-per-hour": cost},
        },
        "status": {
            "allocatable": {"cpu": "64", "memory": "512Gi", "nvidia.com/gpu": str(count)},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


@dataclass
class Shell:
    """A cluster, and `kubectl metainf` on it."""

    cluster: FakeCluster
    capsys: pytest.CaptureFixture
    folder: Path
    monkeypatch: pytest.MonkeyPatch
    seen: int = field(default=0)

    def __call__(self, *arguments, code=0):
        found = main([*arguments])
        said = self.capsys.readouterr()
        assert found == code, f"{said.out}\n{said.err}"
        return said

    def file(self, *manifests):
        self.seen += 1
        path = self.folder / f"{self.seen}.yaml"
        path.write_text(yaml.safe_dump_all(manifests))
        return str(path)

    def nodes(self, *manifests):
        for manifest in manifests:
            self.cluster.put(NODE, manifest)

    def apply(self, manifest, namespace="team-a", status=None, created="2026-01-01T00:00:00Z"):
        body = {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}}
        if status is not None:
            body["status"] = status
        return self.put_at(created, INFERENCE_WORKLOAD, body)

    def put_at(self, created, resource, body):
        with self.monkeypatch.context() as clock:
            clock.setattr("fake_cluster.NOW", created)
            return self.cluster.put(resource, body)

    def decide(self, name, namespace="team-a", *, active: str | None = None, phase=None, made="2026-01-01T00:00:00Z"):
        """Write the record that the operator would write; in force since `active`."""

        async def proposed():
            world = await read_world(self.cluster)
            state = project_workload(self.cluster.peek(INFERENCE_WORKLOAD, name, namespace))
            now = datetime.now(UTC)
            settings = OperatorSettings(hub=False)
            planner = Planner(self.cluster, world, AnalyticalPredictor(), settings, now=lambda: now)
            return (await planner.propose(state)).plan

        manifest = asyncio.run(proposed()).manifest
        phase = phase or ("Refused" if "refusal" in manifest["spec"] else "Active" if active else "Superseded")
        notes = {ACTIVATED_AT: active, SERVING_INPUTS: "any"} if active else {}
        metadata = manifest["metadata"]
        annotations = {**metadata["annotations"], **notes}
        manifest = {**manifest, "metadata": {**metadata, "annotations": annotations}, "status": {"phase": phase}}
        self.put_at(made, INFERENCE_DECISION, manifest)
        return metadata["name"]

    def supersede(self, name, namespace="team-a"):
        patch = {"metadata": {"annotations": {ACTIVATED_AT: None}}, "status": {"phase": "Superseded"}}
        self.cluster.edit(INFERENCE_DECISION, name, patch, namespace)


@pytest.fixture
def shell(monkeypatch, capsys, tmp_path):
    cluster = FakeCluster(own_namespace="team-a")

    async def connect(connection=None):
        return cluster

    monkeypatch.setattr("metainf_operator.cluster.Cluster.connect", connect)
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("{}")
    monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return Shell(cluster, capsys, tmp_path, monkeypatch)


# the command line


@pytest.mark.parametrize("command", ["plan", "explain", "diff", "pin", "unpin", "history", "pools"])
def test_each_help_has_an_example_of_its_own(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"  kubectl metainf {command}" in capsys.readouterr().out


def test_help_answers_without_loading_what_plans():
    code = (
        "import sys; from metainf_operator.kubectl import main\n"
        "try: main(['plan', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(int(bool({'numpy', 'kubernetes', 'aiohttp', 'kopf'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("before", [True, False], ids=["flag before the command", "flag after it"])
def test_the_namespace_may_stand_on_either_side_of_the_command(shell, before):
    shell.apply(workload(), "team-b")
    flags, command = ["-n", "team-b"], ["history", "chat"]
    assert "team-b/chat" in shell(*(flags + command if before else command + flags)).err


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        pytest.param(ForbiddenError("getting it: forbidden", code=403), 1, "ask for the role view", id="no right"),
        pytest.param(ForbiddenError("getting it: unauthorized", code=401), 1, "log in", id="no credentials"),
        pytest.param(UnreachableError("getting it: refused\n  twice"), 1, "refused twice; check", id="no answer"),
        pytest.param(
            NotFoundError("getting it: the server could not find the requested resource", code=404),
            1,
            "CRDs installed",
            id="no CRDs",
        ),
    ],
)
def test_what_goes_wrong_is_one_line_with_what_to_do(shell, error, code, says):
    shell.cluster.fail(error)
    said = shell("explain", "chat", code=code)
    assert said.out == ""
    assert said.err.startswith("metainf: getting it: ") and said.err.count("\n") == 1
    assert says in said.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["explain", "chat"], "no InferenceWorkload chat in namespace team-a", id="no such workload"),
        pytest.param(["explain", "chat", "--kubeconfig", "nowhere"], "there is no file nowhere", id="no kubeconfig"),
        pytest.param(["plan"], "either -f FILE or the name", id="nothing to plan"),
        pytest.param(["plan", "chat", "-f", "x"], "either -f FILE or the name", id="two things to plan"),
        pytest.param(["plan", "-f", "nowhere.yaml"], "reading nowhere.yaml: No such file", id="no such file"),
        pytest.param(["plan", "chat"], "no InferenceWorkload chat", id="plan of no such workload"),
        pytest.param(
            ["plan", "-f", "-", "--max-concurrent-switches", "0"], "must be 1 or more, got 0", id="no switches at all"
        ),
    ],
)
def test_bad_input_is_told_from_a_fault(shell, arguments, says):
    said = shell(*arguments, code=2)
    assert says in said.err and said.err.count("\n") == 1


def test_a_missing_kubeconfig_is_said_in_plain_words(shell, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", "/nowhere/a:/nowhere/b")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert "there is no kubeconfig /nowhere/a:/nowhere/b: set KUBECONFIG" in shell("pools", code=2).err


# plan


@pytest.mark.parametrize(
    ("manifests", "code"),
    [
        pytest.param([workload()], 0, id="chosen"),
        pytest.param([workload(budget="0.01")], 3, id="refused"),
        pytest.param([workload(), workload("poor", "0.01")], 3, id="one of two refused"),
        pytest.param([workload(budget="no"), workload("fine")], 2, id="bad input goes first"),
        pytest.param([workload(model={"id": "nobody/knows-this"})], 2, id="unknown model"),
        pytest.param([{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}}], 2, id="no workload"),
        pytest.param([workload(policy={"mode": "Pinned", "pinned": {"decision": "gone"}})], 2, id="pin of nothing"),
    ],
)
def test_the_exit_code_of_plan_says_what_came_out(shell, manifests, code):
    shell.nodes(node("n1"))
    shell("plan", "--no-hub", "-f", shell.file(*manifests), code=code)
    assert not shell.cluster.writes


def test_a_manifest_that_cannot_be_planned_does_not_stop_the_others(shell):
    shell.nodes(node("n1"))
    said = shell("plan", "--no-hub", "-f", shell.file(workload(budget="no"), workload("fine")), code=2)
    assert "InferenceWorkload chat: spec.budget.perHour" in said.err
    assert "team-a/fine" in said.out


def test_plan_reads_standard_input_and_prints_the_record(shell, monkeypatch):
    shell.nodes(node("n1"))
    monkeypatch.setattr("sys.stdin", io.StringIO(yaml.safe_dump(workload())))
    said = shell("plan", "--no-hub", "-f", "-", "-o", "json")
    shown = json.loads(said.out)
    assert shown["kind"] == "InferenceDecision" and shown["metadata"]["namespace"] == "team-a"
    assert "the operator starts it" in said.err


@pytest.mark.parametrize(
    ("namespace", "code"), [("team-a", 0), ("team-b", 2)], ids=["the same namespace", "another namespace"]
)
def test_a_namespace_in_the_file_must_agree_with_the_flag(shell, namespace, code):
    shell.nodes(node("n1"))
    manifest = workload()
    manifest["metadata"]["namespace"] = "team-a"
    shell("plan", "--no-hub", "-n", namespace, "-f", shell.file(manifest), code=code)


def only_one_h100(shell):
    shell.nodes(node("n1", "h100", 1, "5.00"))
    return workload("second")


def test_what_another_workload_holds_is_not_free(shell):
    wish = only_one_h100(shell)
    assert "starts it" in shell("plan", "--no-hub", "-f", shell.file(wish)).out
    shell.apply(workload("first"), "team-b")
    shell.decide("first", "team-b", active="2026-01-01T00:00:00Z")
    said = shell("plan", "--no-hub", "-f", shell.file(wish), code=3)
    assert "NoCapacity" in said.out and "records the refusal" in said.out


def test_what_is_released_is_free(shell):
    wish = only_one_h100(shell)
    shell.apply(workload("first"), "team-b")
    name = shell.decide("first", "team-b", active="2026-01-01T00:00:00Z")
    shell.cluster.edit(INFERENCE_DECISION, name, {"metadata": {"annotations": {RELEASED: "true"}}}, "team-b")
    shell("plan", "--no-hub", "-f", shell.file(wish))


def test_what_other_pods_take_is_not_free(shell):
    wish = only_one_h100(shell)
    pod = {
        "metadata": {"name": "train", "namespace": "lab"},
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "main", "resources": {"requests": {"nvidia.com/gpu": "1"}}}],
        },
        "status": {"phase": "Running"},
    }
    shell.cluster.put(POD, pod)
    assert "NoCapacity" in shell("plan", "--no-hub", "-f", shell.file(wish), code=3).out


@pytest.mark.parametrize(
    ("created", "code"),
    [("2026-01-01T00:00:00Z", 3), ("2999-01-01T00:00:00Z", 0)],
    ids=["came before and takes the room first", "came after and has to wait on"],
)
def test_who_waits_for_room_and_came_before_goes_first(shell, created, code):
    # The one who waits wants both accelerators of a node, of which a pod holds one.
    shell.nodes(node("n1", "h100", 2, "10.00"))
    pod = {
        "metadata": {"name": "train", "namespace": "lab"},
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "main", "resources": {"requests": {"nvidia.com/gpu": "1"}}}],
        },
        "status": {"phase": "Running"},
    }
    shell.cluster.put(POD, pod)
    waits = {"conditions": [{"type": "Feasible", "status": "False", "reason": "NoCapacity", "message": "no room"}]}
    both = {"minReplicas": 2}
    shell.apply(workload("first", scaling=both), "team-b", status=waits, created=created)
    shell("plan", "--no-hub", "-f", shell.file(workload("second")), code=code)


def test_workloads_of_one_file_do_not_count_on_the_same_room(shell):
    only_one_h100(shell)
    said = shell("plan", "--no-hub", "-f", shell.file(workload("one"), workload("two")), code=3)
    assert said.out.count("Chosen") == 1 and said.out.count("NoCapacity") >= 1


def test_a_workload_that_is_there_keeps_its_own_room(shell):
    only_one_h100(shell)
    shell.apply(workload("chat"))
    shell.decide("chat", active="2026-01-01T00:00:00Z")
    said = shell("plan", "--no-hub", "chat")
    assert "Operator  replaces" in said.out or "Operator  keeps" in said.out
    assert "NoCapacity" not in said.out


def test_a_file_is_planned_over_what_runs(shell):
    shell.nodes(node("n1"), node("n2", "h100", 8, "55.04"))
    live = shell.apply(workload("chat"))
    shell.decide("chat", active="2026-01-01T00:00:00Z")
    wish = workload("chat", "30", slo={"ttft": {"p95": "150ms"}, "tpot": {"p95": "20ms"}})
    said = shell("plan", "--no-hub", "-f", shell.file(wish), "-o", "yaml")
    record = yaml.safe_load(said.out)
    assert record["spec"]["workloadRef"] == {"name": "chat", "uid": live["metadata"]["uid"], "generation": 2}
    assert "breaks a limit today" in said.err


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        pytest.param({"mode": "Recommend"}, "waits for approval", id="recommend"),
        pytest.param({}, "starts it", id="auto"),
    ],
)
def test_plan_says_what_the_operator_would_do(shell, policy, says):
    shell.nodes(node("n1"))
    assert says in shell("plan", "--no-hub", "-f", shell.file(workload(policy=policy))).out


def test_help_names_the_operators_own_limit_on_switches(capsys):
    with pytest.raises(SystemExit):
        main(["plan", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert f"switch at a time (default: {OperatorSettings().max_concurrent_switches}, as the operator's own)" in said


def test_plan_keeps_the_commit_of_the_decision_in_force_while_the_same_is_asked_for(shell):
    shell.nodes(node("n1"))
    asked = serving_inputs(project_workload(shell.apply(workload())).manifest)
    name = shell.decide("chat", active="2026-01-01T00:00:00Z")
    body = shell.cluster.peek(INFERENCE_DECISION, name, "team-a")
    body["spec"]["inputs"]["model"]["revision"] = "a" * 40
    body["metadata"]["annotations"][SERVING_INPUTS] = asked
    shell.cluster.put(INFERENCE_DECISION, body)
    shown = json.loads(shell("plan", "--no-hub", "chat", "-o", "json").out)
    assert shown["spec"]["inputs"]["model"]["revision"] == "a" * 40
    wish = workload(model={"id": MODEL, "revision": "v2"})
    shown = json.loads(shell("plan", "--no-hub", "-f", shell.file(wish), "-o", "json").out)
    assert shown["spec"]["inputs"]["model"].get("revision") != "a" * 40


def test_plan_puts_no_record_right_on_its_way(shell):
    shell.nodes(node("n1"))
    shell.apply(workload(policy={"traffic": "Observed"}))
    shell.decide("chat", active="2026-01-01T00:00:00Z", phase="Proposed")  # as a crash leaves it
    shell("plan", "--no-hub", "chat")
    read = [call for call in shell.cluster.calls if call.verb is Verb.GET and call.resource == INFERENCE_DECISION]
    assert read and not shell.cluster.writes


def test_a_suspended_workload_is_planned_and_not_started(shell):
    shell.nodes(node("n1"))
    said = shell("plan", "--no-hub", "-f", shell.file(workload(suspend=True)))
    assert "Operator  starts nothing" in said.out


def test_a_config_map_and_a_pool_of_the_files_count_as_applied(shell):
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "own"},
        "data": {"config.json": json.dumps(known_model_config(MODEL))},
    }
    pool = {
        "apiVersion": "metainf.dev/v1alpha1",
        "kind": "AcceleratorPool",
        "metadata": {"name": "future"},
        "spec": {
            "nodeSelector": {"pool": "future"},
            "accelerator": {"product": "NVIDIA-L4", "count": 4},
            "price": {"perHour": "3.00"},
            "nodes": {"max": 2},
        },
    }
    own = {"id": "me/mine", "architecture": {"configMapRef": {"name": "own", "key": "config.json"}}}
    said = shell("plan", "--no-hub", "-f", shell.file(workload(model=own), config, pool))
    assert "on future" in said.out
    shell("plan", "--no-hub", "-f", shell.file(workload(model=own), pool), code=2)


def test_pools_in_files_need_no_right_to_list_nodes(shell):
    shell.cluster.fail(ForbiddenError("listing nodes: forbidden", code=403), resource=NODE, times=99)
    said = shell("plan", "--no-hub", "-f", shell.file(workload()), code=1)
    assert "give the pools in files with --pools" in said.err
    pools = Path(__file__).parent.parent / "crds/examples/acceleratorpools.yaml"
    assert "Chosen" in shell("plan", "--no-hub", "-f", shell.file(workload()), "--pools", str(pools)).out
    listed = {call.namespace for call in shell.cluster.calls[-4:] if call.verb is Verb.LIST}
    assert listed == {"team-a"}


# explain


def test_explain_says_what_runs_and_how_its_limits_stand(shell):
    shell.nodes(node("n1"))
    shell.apply(workload(), status={"conditions": [], "costPerHour": "0.95 USD", "confidence": "0.97"})
    name = shell.decide("chat", active="2026-01-02T03:04:00Z")
    said = shell("explain", "chat").out
    record = shell.cluster.peek(INFERENCE_DECISION, name, "team-a")
    chosen = record["spec"]["chosen"]
    assert f"{chosen['replicas']} x {chosen['method']} {chosen['layoutName']} on {chosen['pool']}" in said
    assert f"{name}, in force since 2026-01-02 03:04 UTC" in said
    rows = {line.split()[0]: line for line in said.splitlines() if line.startswith("  ")}
    assert "10s" in rows["ttft"] and "500ms" in rows["tpot"]
    assert f"{chosen['costPerHour']} USD/h" in rows["cost"] and "20.00 USD/h" in rows["cost"]
    assert "hold with probability 0.97" in said
    assert "At today's prices it costs 0.95 USD/h; decided at 0.80" in said
    assert "3.20 USD" in said and "NodeAnnotation" in said
    assert f"so below {0.9 * float(chosen['costPerHour']):.2f} USD/h" in said


def test_explain_shows_observed_beside_predicted(shell):
    shell.nodes(node("n1"))
    wish = workload()
    shell.apply(wish, status={"conditions": [], "observed": {"pods": 1, "unreadablePods": 1}})
    name = shell.decide("chat", active="2026-01-02T03:04:00Z")
    observed = {
        "ttft": {"p95": "0.31"},
        "tpot": {"p95": "0.042"},
        "outputTokensPerSecond": "912",
        "requestsPerSecond": "1.5",
        "prefixHitRatio": "0.62",
        "requests": 450,
        "since": "2026-01-02T03:05:00Z",
        "until": "2026-01-02T03:10:00Z",
    }
    shell.cluster.edit(INFERENCE_DECISION, name, {"status": {"observed": observed}}, "team-a")
    said = shell("explain", "chat").out
    rows = {line.split()[0]: line for line in said.splitlines() if line.startswith("  ")}
    assert "310ms" in rows["ttft"] and "10s" in rows["ttft"]
    assert "42ms" in rows["tpot"]
    assert "912" in rows["tokens/s"] and "1.5" in rows["requests/s"]
    assert "Observed: 450 requests until 2026-01-02T03:10:00Z" in said
    assert "62% of the prompt tokens" in said
    assert "Pods whose metrics cannot be read: 1." in said


def test_explain_and_plan_say_when_observed_traffic_was_decided_by(shell):
    shell.nodes(node("n1"))
    shell.apply(workload(policy={"traffic": "Observed"}), status={"conditions": []})
    name = shell.decide("chat", active="2026-01-02T03:04:00Z")
    assert "observed traffic" not in shell("explain", "chat").out
    body = shell.cluster.peek(INFERENCE_DECISION, name, "team-a")
    seen = {"requests": 450, "since": "2026-01-02T03:05:00Z", "until": "2026-01-02T03:10:00Z"}
    body["spec"]["inputs"] |= {"observed": seen}
    body["spec"]["inputs"]["traffic"] |= {"requestsPerSecond": "0.25", "inputTokens": {"mean": 321}}
    shell.cluster.put(INFERENCE_DECISION, body)
    said = shell("explain", "chat").out
    assert "by observed traffic: 0.25 requests/s, 321 tokens in" in said
    assert "(450 requests until 2026-01-02 03:10 UTC)" in said
    planned = shell.cluster.peek(INFERENCE_DECISION, shell.decide("chat"), "team-a")["spec"]["inputs"]
    assert planned["observed"] == seen
    assert planned["traffic"]["requestsPerSecond"] == "0.25"


def test_explain_of_a_refusal_names_the_budget_that_would_work(shell):
    shell.nodes(node("n1"))
    shell.apply(workload(budget="0.01"))
    shell.decide("chat")
    said = shell("explain", "chat").out
    assert "Refused   BudgetTooLow: cheapest candidate" in said
    assert "would work; 0.01 USD/h may be spent" in said


def test_explain_of_a_batch_shows_its_deadline_and_its_pace(shell):
    shell.nodes(node("n1"))
    batch = {"batch": {"requests": 1000, "deadline": "8h"}}
    traffic = {**batch, "inputTokens": {"mean": 500}, "outputTokens": {"mean": 100}}
    manifest = workload(traffic=traffic)
    manifest["spec"]["budget"] = {"total": "50"}
    manifest["spec"].pop("slo")
    manifest["spec"].pop("methods")
    shell.apply(manifest)
    shell.decide("chat", active="2026-01-01T00:00:00Z")
    said = shell("explain", "chat").out
    (deadline,) = [line for line in said.splitlines() if line.strip().startswith("deadline")]
    assert "8h" in deadline and "%" in deadline
    assert "50.00 USD in total" in said
    assert "Tokens/s" in said and "TTFT p95" not in said


def test_explain_before_the_first_look_says_so(shell):
    shell.apply(workload())
    said = shell("explain", "chat").out
    assert "Nothing   was decided" in said and "has not looked at this workload yet" in said


def test_explain_shows_conditions_that_are_not_fine_and_no_others(shell):
    conditions = [
        {"type": "Ready", "status": "False", "reason": "OverBudget", "message": "costs 7, the budget is 6"},
        {"type": "WithinBudget", "status": "False", "reason": "OverBudget", "message": "costs 7, the budget is 6"},
        {"type": "Decided", "status": "True", "reason": "Kept", "message": "another would gain 3%"},
        {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "the spec is valid"},
        {"type": "SLOMet", "status": "Unknown", "reason": "NoTraffic", "message": "no traffic was observed"},
    ]
    shell.apply(workload(), status={"conditions": conditions, "observedGeneration": 1})
    said = shell("explain", "chat").out
    assert said.count("costs 7, the budget is 6") == 1 and "as above" in said
    assert "another would gain 3%" in said
    assert "the spec is valid" not in said and "no traffic" not in said


def test_explain_says_when_the_operator_lags_behind(shell):
    condition = {"type": "Ready", "status": "Unknown", "reason": "Deciding", "message": "no decision yet"}
    shell.apply(workload(), status={"conditions": [condition], "observedGeneration": 0})
    assert "has seen generation 0 of 1" in shell("explain", "chat").out


def test_explain_shows_a_proposal_and_how_to_approve_it(shell):
    shell.nodes(node("n1"))
    shell.apply(workload(policy={"mode": "Recommend"}))
    shell.decide("chat", phase="Proposed")
    said = shell("explain", "chat").out
    assert "Proposed  1 x" in said and "kubectl metainf pin chat approves it" in said


def test_the_text_of_others_cannot_steer_a_terminal(shell):
    nasty = "\x1b]0;owned\x07\x1b[2Jtext\r\n[bold]markup[/bold] :smile:"
    condition = {"type": "Ready", "status": "False", "reason": "InvalidSpec", "message": nasty}
    shell.apply(workload(), status={"conditions": [condition], "observedGeneration": 1})
    said = shell("explain", "chat").out
    assert "\x1b" not in said and "\x07" not in said and "\r" not in said
    assert "[bold]markup[/bold] :smile:" in said
    assert printable("a\tb\nc\x9bd") == "a b c?d"


def test_a_decision_of_an_earlier_workload_of_the_name_is_left_out(shell):
    shell.nodes(node("n1"))
    shell.apply(workload())
    name = shell.decide("chat", active="2026-01-01T00:00:00Z")
    owner = {"kind": "InferenceWorkload", "uid": "another", "controller": True}
    shell.cluster.edit(INFERENCE_DECISION, name, {"metadata": {"ownerReferences": [owner]}}, "team-a")
    assert "nothing was decided yet" in shell("history", "chat").err


def test_a_damaged_decision_is_named_and_passed_over(shell):
    shell.nodes(node("n1"))
    shell.apply(workload())
    name = shell.decide("chat", active="2026-01-01T00:00:00Z")
    shell.cluster.edit(INFERENCE_DECISION, name, {"spec": {"confidence": "quite"}}, "team-a")
    assert f"decision {name} cannot be read" in shell("explain", "chat").err


# history, diff


@pytest.fixture
def switched(shell):
    """A workload that was refused, then chosen, then chosen anew at another price: names, the oldest first."""
    shell.nodes(node("n1"))
    shell.apply(workload(budget="0.01"))
    names = [shell.decide("chat", made="2026-01-01T00:00:00Z")]
    shell.cluster.edit(INFERENCE_WORKLOAD, "chat", {"spec": {"budget": {"perHour": "20"}}}, "team-a")
    names.append(shell.decide("chat", active="2026-01-02T00:00:00Z", made="2026-01-02T00:00:00Z"))
    shell.supersede(names[1])
    shell.cluster.edit(NODE, "n1", {"metadata": {"annotations": {"metainf.dev/cost-per-hour": "2.00"}}})
    names.append(shell.decide("chat", active="2026-01-03T00:00:00Z", made="2026-01-03T00:00:00Z"))
    return names


def test_history_lists_the_latest_first(shell, switched):
    lines = shell("history", "chat").out.splitlines()[3:]
    assert [line.split()[2] for line in lines] == [name.removeprefix("chat-") for name in reversed(switched)]
    assert [line.split()[3] for line in lines] == ["Active", "Superseded", "Refused"]
    assert "BudgetTooLow" in lines[2] and "would work" in lines[2]


def test_diff_shows_only_what_differs(shell, switched):
    said = shell("diff", "chat").out
    assert f"{switched[1]} -> {switched[2]}" in said
    (price,) = [line for line in said.splitlines() if "3.20 USD" in line]
    assert "2.00 USD" in price and price.endswith("-38%")
    assert "the same: inputs, arguments, predicted" in said
    assert "--port" not in said and "ttft" not in said


def test_diff_takes_names_cut_to_their_digits(shell, switched):
    digits = [name.removeprefix("chat-")[:6] for name in switched]
    said = shell("diff", "chat", digits[0], digits[1]).out
    assert "BudgetTooLow" in said and f"{switched[0]} -> {switched[1]}" in said
    assert f"{switched[0]} -> {switched[2]}" in shell("diff", "chat", switched[0]).out


@pytest.mark.parametrize(
    ("names", "says"),
    [
        pytest.param(["nope"], "no decision nope; name one of", id="no such decision"),
        pytest.param(["a", "b", "c"], "3 are named", id="three"),
        pytest.param([""], "means several", id="several are meant"),
    ],
)
def test_diff_refuses_names_that_mean_nothing(shell, switched, names, says):
    assert says in shell("diff", "chat", *names, code=2).err


def test_diff_of_a_single_decision_says_that_it_is_the_only_one(shell):
    shell.nodes(node("n1"))
    shell.apply(workload())
    shell.decide("chat", active="2026-01-01T00:00:00Z")
    assert "is the only decision" in shell("diff", "chat", code=2).err


def test_diff_says_when_inputs_differ_that_no_record_spells_out(shell):
    shell.nodes(node("n1"))
    shell.apply(workload())
    first = shell.decide("chat", active="2026-01-01T00:00:00Z")
    shell.supersede(first)
    shell.cluster.edit(INFERENCE_WORKLOAD, "chat", {"spec": {"scaling": {"minReplicas": 2}}}, "team-a")
    shell.decide("chat", active="2026-01-02T00:00:00Z", made="2026-01-02T00:00:00Z")
    assert "The inputs differ in what a record does not spell out" in shell("diff", "chat").out


def test_diff_shows_no_secret_of_an_old_record(shell, switched):
    for number, name in enumerate(switched[1:]):
        record = shell.cluster.peek(INFERENCE_DECISION, name, "team-a")
        argv = [*record["spec"]["chosen"]["argv"], "--api-key", f"sk-{number}", "--max-num-batched-tokens", str(number)]
        shell.cluster.edit(INFERENCE_DECISION, name, {"spec": {"chosen": {"argv": argv}}}, "team-a")
    said = shell("diff", "chat").out
    assert "sk-" not in said
    assert "--max-num-batched-tokens" in said


@pytest.mark.parametrize(
    ("before", "after", "change"),
    [
        ("100ms", "50ms", "-50%"),
        ("900ms", "1.8s", "+100%"),
        ("2 USD", "2.5 USD", "+25%"),
        ("1", "50", "x50"),
        ("-", "5", ""),
        ("0", "5", ""),
        ("TP1", "TP2", ""),
        ("12m3s", "13m", ""),
    ],
)
def test_the_change_of_a_figure(before, after, change):
    assert diff._change(before, after) == change


# pin, unpin


def test_pin_prints_a_patch_and_writes_nothing(shell, switched):
    said = shell("pin", "chat").out
    patch = yaml.safe_load(said)
    chosen = shell.cluster.peek(INFERENCE_DECISION, switched[2], "team-a")["spec"]["chosen"]
    assert patch["metadata"] == {"name": "chat", "namespace": "team-a"}
    candidate = patch["spec"]["policy"]["pinned"]["candidate"]
    assert patch["spec"]["policy"]["mode"] == "Pinned"
    assert (candidate["pool"], candidate["method"], candidate["replicas"]) == (
        chosen["pool"],
        chosen["method"],
        chosen["replicas"],
    )
    assert not shell.cluster.writes


def test_a_pinned_manifest_plans_what_was_pinned(shell, switched):
    patch = yaml.safe_load(shell("pin", "chat", switched[1]).out)
    pinned = workload(policy=patch["spec"]["policy"])
    shown = yaml.safe_load(shell("plan", "--no-hub", "-f", shell.file(pinned), "-o", "yaml").out)
    record = shell.cluster.peek(INFERENCE_DECISION, switched[1], "team-a")
    assert shown["metadata"]["annotations"][CHOICE_ANNOTATION] == record["metadata"]["annotations"][CHOICE_ANNOTATION]


def test_apply_patches_the_live_spec_and_leaves_no_other_pin_beside_it(shell, switched):
    pinned = {"policy": {"mode": "Pinned", "pinned": {"decision": switched[1]}}}
    shell.cluster.edit(INFERENCE_WORKLOAD, "chat", {"spec": pinned}, "team-a")
    said = shell("pin", "chat", switched[2][-4:], "--apply").out
    assert said.startswith("pinned team-a/chat to ") and switched[2] in said
    policy = shell.cluster.peek(INFERENCE_WORKLOAD, "chat", "team-a")["spec"]["policy"]
    assert policy["mode"] == "Pinned" and set(policy["pinned"]) == {"candidate"}
    assert "unpinned" in shell("unpin", "chat", "--mode", "Recommend", "--apply").out
    assert shell.cluster.peek(INFERENCE_WORKLOAD, "chat", "team-a")["spec"]["policy"] == {"mode": "Recommend"}
    assert [call.verb for call in shell.cluster.writes] == [Verb.PATCH, Verb.PATCH]


def test_pin_takes_the_proposal_that_waits(shell, switched):
    shell.cluster.edit(NODE, "n1", {"metadata": {"annotations": {"metainf.dev/cost-per-hour": "1.00"}}})
    proposal = shell.decide("chat", phase="Proposed", made="2026-01-04T00:00:00Z")
    assert proposal in shell("pin", "chat").out


@pytest.mark.parametrize(
    ("layout", "written"),
    [
        (Layout(), {"tensorParallel": 1}),
        (Layout(tensor_parallel=4), {"tensorParallel": 4}),
        (Layout(data_parallel=8, expert_parallel=True), {"dataParallel": 8, "expertParallel": True}),
    ],
)
def test_a_pin_names_what_differs_from_the_defaults(layout, written):
    assert pin.short_layout(layout) == written


@pytest.mark.parametrize("apply", [[], ["--apply"]], ids=["printed", "applied"])
def test_a_refusal_cannot_be_pinned(shell, switched, apply):
    assert "is a refusal" in shell("pin", "chat", switched[0], *apply, code=2).err
    assert not shell.cluster.writes


def test_nothing_decided_is_nothing_to_pin(shell):
    shell.apply(workload())
    assert "no decision is in force" in shell("pin", "chat", code=2).err


def test_unpinning_what_is_not_pinned_does_nothing(shell):
    shell.apply(workload())
    said = shell("unpin", "chat", "--apply")
    assert "is not pinned" in said.err and not shell.cluster.writes


def test_a_change_meanwhile_asks_to_try_again(shell, switched):
    shell.cluster.fail(ConflictError("patching it: conflict", code=409), verb=Verb.PATCH)
    assert "try again" in shell("pin", "chat", "--apply", code=1).err


@pytest.mark.parametrize(
    ("mark", "manager"),
    [
        ({"annotations": {"argocd.argoproj.io/tracking-id": "x"}}, "Argo CD"),
        ({"labels": {"kustomize.toolkit.fluxcd.io/name": "x"}}, "Flux"),
    ],
)
def test_applying_warns_where_git_would_take_it_back(shell, switched, mark, manager):
    shell.cluster.edit(INFERENCE_WORKLOAD, "chat", {"metadata": mark}, "team-a")
    assert f"{manager} manages team-a/chat" in shell("pin", "chat", "--apply").err


# pools


def test_pools_shows_those_without_an_object_and_what_is_free(shell):
    shell.nodes(node("n1"), node("n2"), node("n3", "h100", 8, None))
    shell.apply(workload())
    shell.decide("chat", active="2026-01-01T00:00:00Z")
    lines = shell("pools").out.splitlines()
    (l4,) = [line for line in lines if line.startswith("l4-")]
    (h100,) = [line for line in lines if line.startswith("h100-")]
    assert "7/8" in l4 and "3.20 USD" in l4 and "annotation" in l4
    assert "8/8" in h100 and "unknown" in h100
    assert any("no price is known, so nothing is bought there" in line for line in lines)


def test_pools_names_what_cannot_be_used(shell):
    bad_price = node("n2", cost="-1")
    shell.nodes(node("n1", "mystery"), bad_price)
    said = shell("pools").out
    assert "node n1" in said and "Z9000" in said
    assert "node n2" in said and "not above zero" in said


def test_pools_tells_objects_from_nodes_and_shares_from_whole_nodes(shell):
    pool = {
        "apiVersion": "metainf.dev/v1alpha1",
        "kind": "AcceleratorPool",
        "metadata": {"name": "future"},
        "spec": {
            "nodeSelector": {"pool": "future"},
            "accelerator": {"product": "NVIDIA-L4", "count": 4},
            "price": {"perHour": "3.00", "asOf": "2026-01-01"},
            "billing": "Node",
            "nodes": {"max": 2},
        },
    }
    shell.cluster.put(ACCELERATOR_POOL, pool)
    shell.nodes(node("n1"))
    lines = shell("pools").out.splitlines()
    (row,) = [line for line in lines if line.startswith("future")]
    assert "0 +2" in row and "whole nodes" in row and "2026-01-01" in row and row.endswith("yes")


def test_pools_of_an_empty_cluster_says_so(shell):
    assert "no node with accelerators" in shell("pools").err


def test_on_a_terminal_no_line_is_wider_than_it(shell, switched, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    for command in (["explain", "chat"], ["history", "chat"], ["diff", "chat"], ["pools"]):
        said = shell(*command).out
        assert "\x1b[1m" in said
        plain = "".join(part.partition("m")[2] if i else part for i, part in enumerate(said.split("\x1b[")))
        assert max(map(len, plain.splitlines())) <= 100


def test_the_config_map_is_read_with_the_rights_of_who_asks(shell):
    shell.nodes(node("n1"))
    shell.cluster.fail(ForbiddenError("getting ConfigMap team-a/own: forbidden", code=403), resource=CONFIG_MAP)
    own = {"id": "me/mine", "architecture": {"configMapRef": {"name": "own", "key": "config.json"}}}
    said = shell("plan", "--no-hub", "-f", shell.file(workload(model=own)), code=1)
    assert "getting ConfigMap team-a/own" in said.err
