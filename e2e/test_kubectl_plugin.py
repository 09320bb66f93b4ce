"""`kubectl metainf` on a real API server: found by kubectl, of one mind with the operator, within its user's rights.

Separate from tests/test_kubectl.py, which tells every answer of every subcommand on a fake: here stands what needs the
real kubectl, the real operator beside it, and real roles.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.cluster import token_kubeconfig
from e2e.story import Story, workload
from e2e.waiting import eventually

pytestmark = pytest.mark.e2e

_POOLS = Path(__file__).resolve().parent.parent / "crds/examples/acceleratorpools.yaml"


@dataclass(frozen=True)
class Plugin:
    """Runs `kubectl metainf` as a user does, in the story's namespace."""

    story: Story
    folder: Path

    def __call__(
        self, *arguments: str, code: int = 0, stdin: str = "", kubeconfig: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        cluster = self.story.cluster
        paths = [str(Path(sys.executable).parent), str(cluster.bin_dir), os.environ["PATH"]]
        environment = {
            **os.environ,
            "PATH": os.pathsep.join(paths),
            "KUBECONFIG": str(kubeconfig or cluster.kubeconfig),
        }
        command = ["kubectl", "metainf", *arguments, "-n", self.story.namespace]
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, env=environment, timeout=120, check=False
        )
        assert done.returncode == code, f"{' '.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def file(self, *manifests: dict[str, Any]) -> str:
        path = self.folder / "manifests.yaml"
        path.write_text(yaml.safe_dump_all(manifests))
        return str(path)


@pytest.fixture
def metainf(story: Story, tmp_path: Path) -> Plugin:
    return Plugin(story, tmp_path)


def _of_spec(record: dict[str, Any]) -> dict[str, Any]:
    """The record's spec without what only a live workload has."""
    return {name: value for name, value in record["spec"].items() if name != "workloadRef"}


@pytest.mark.parametrize(("budget", "code"), [("20", 0), ("0.01", 3)], ids=["chosen", "refused"])
def test_plan_gives_the_record_that_the_operator_then_writes(
    story: Story, metainf: Plugin, budget: str, code: int
) -> None:
    story.node("l4", "3.40")
    story.node("h100", "55.04")
    manifest = workload(budget={"perHour": budget})
    planned = json.loads(metainf("plan", "--no-hub", "-o", "json", "-f", metainf.file(manifest), code=code).stdout)
    assert story.kube.list("InferenceDecision") == []
    story.apply(manifest)
    (written,) = eventually(lambda: _some(story.decisions("chat")))
    assert written["metadata"]["name"] == planned["metadata"]["name"]
    assert _of_spec(written) == _of_spec(planned)
    again = json.loads(metainf("plan", "--no-hub", "-o", "json", "chat", code=code).stdout)
    assert again["spec"] == written["spec"]


def _some(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert found, "there is no decision yet"
    return found


def test_plan_counts_what_others_hold(story: Story, metainf: Plugin) -> None:
    story.node("h100", "55.04")
    everything = workload("greedy", scaling={"replicas": 8}, budget={"perHour": "60"})
    story.apply(everything)
    story.ready("greedy")
    wish = metainf.file(
        workload("late", placement={"pools": [story.status("greedy")["pool"]]}, budget={"perHour": "60"})
    )
    said = metainf("plan", "--no-hub", "-f", wish, code=3)
    assert "NoCapacity" in said.stdout


def test_explain_history_and_diff_follow_a_switch(story: Story, metainf: Plugin) -> None:
    story.node("l4", "3.40")
    story.node("h100", "55.04")
    story.apply(workload())
    story.ready("chat")
    first = story.decision("chat")["metadata"]["name"]
    story.change("chat", budget={"perHour": "60"}, slo={"tpot": {"p95": "20ms"}, "ttft": {"p95": "200ms"}})
    second = eventually(lambda: _other(story, first), 60.0)
    story.ready("chat", 60.0)
    explained = metainf("explain", "chat").stdout
    assert second in explained and f"({first})" in explained
    assert "ttft p95" in explained and "55.04 USD" in explained
    lines = metainf("history", "chat").stdout.splitlines()
    assert "Active" in next(line for line in lines if second.removeprefix("chat-") in line)
    assert "Superseded" in next(line for line in lines if first.removeprefix("chat-") in line)
    compared = metainf("diff", "chat").stdout
    assert f"{first} -> {second}" in compared and "limits.slo.tpot.p95" in compared


def _other(story: Story, first: str) -> str:
    active = [d["metadata"]["name"] for d in story.decisions("chat", "Active")]
    assert active and active != [first], f"still {active}"
    return str(next(name for name in active if name != first))


def test_pin_approves_a_proposal_and_unpin_takes_it_back(story: Story, metainf: Plugin) -> None:
    story.node("l4", "3.40")
    story.apply(workload(policy={"mode": "Recommend"}))
    story.says("chat", "Ready", "Unknown", "AwaitingApproval")
    # Nodes of the story before may still be going: the proposal that stands is the one for the pools as they are.
    proposal = eventually(lambda: _proposal_of_today(story, metainf))
    printed = yaml.safe_load(metainf("pin", "chat").stdout)
    assert story.kube.get("InferenceWorkload", "chat")["spec"]["policy"]["mode"] == "Recommend"
    assert "pinned" in metainf("pin", "chat", "--apply").stdout
    story.ready("chat")
    assert story.decision("chat")["metadata"]["name"] == proposal["metadata"]["name"]
    policy = story.kube.get("InferenceWorkload", "chat")["spec"]["policy"]
    wanted = printed["spec"]["policy"]["pinned"]["candidate"]
    assert {**policy["pinned"]["candidate"], "layout": None} == {**wanted, "layout": None}
    metainf("unpin", "chat", "--apply")
    policy = story.kube.get("InferenceWorkload", "chat")["spec"]["policy"]
    assert policy["mode"] == "Auto" and "pinned" not in policy


def _proposal_of_today(story: Story, metainf: Plugin) -> dict[str, Any]:
    name = json.loads(metainf("plan", "--no-hub", "-o", "json", "chat").stdout)["metadata"]["name"]
    found = {each["metadata"]["name"]: each for each in story.decisions("chat", "Proposed")}
    assert name in found
    return found[name]


def test_the_printed_patch_is_one_that_kubectl_takes(story: Story, metainf: Plugin) -> None:
    story.node("l4", "3.40")
    story.apply(workload())
    story.ready("chat")
    file = metainf.folder / "patch.yaml"
    for command, mode in (("pin", "Pinned"), ("unpin", "Auto")):
        file.write_text(metainf(command, "chat").stdout)
        kubectl = [str(story.cluster.bin_dir / "kubectl"), "patch", "inferenceworkload", "chat", "-n", story.namespace]
        done = subprocess.run(
            [*kubectl, "--type", "merge", "--patch-file", str(file)],
            capture_output=True,
            text=True,
            env=story.cluster.environment(),
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert story.kube.get("InferenceWorkload", "chat")["spec"]["policy"]["mode"] == mode


def test_pools_shows_derived_pools_and_nodes_that_cannot_be_used(story: Story, metainf: Plugin) -> None:
    priced = story.node("l4", "3.40")
    story.node("h100", "55.04")
    story.price(priced, "-1")
    said = eventually(lambda: _shows(metainf, f"node {priced}"))
    assert "not above zero" in said and "55.04 USD" in said


def _shows(metainf: Plugin, text: str) -> str:
    said = metainf("pools").stdout
    assert text in said
    return said


@pytest.fixture
def tenant(story: Story) -> Callable[[], Path]:
    """A kubeconfig of one who may view this namespace and nothing else."""

    def made() -> Path:
        story.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "tenant"}})
        rules = [
            {
                "apiGroups": ["metainf.dev"],
                "resources": ["inferenceworkloads", "inferencedecisions"],
                "verbs": ["get", "list"],
            },
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
            {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list"]},
        ]
        group = "rbac.authorization.k8s.io"
        role = {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": {"name": "tenant"}, "rules": rules}
        story.apply(role)
        binding = {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "tenant"},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "tenant"},
            "subjects": [{"kind": "ServiceAccount", "name": "tenant", "namespace": story.namespace}],
        }
        story.apply(binding)
        return token_kubeconfig(story.cluster, story.namespace, "tenant")

    return made


def test_a_tenant_reads_its_own_and_is_told_what_it_may_not(
    story: Story, metainf: Plugin, tenant: Callable[[], Path]
) -> None:
    story.node("l4", "3.40")
    story.apply(workload())
    story.ready("chat")
    who = tenant()
    eventually(lambda: metainf("explain", "chat", kubeconfig=who))  # a role takes a moment to be known
    for command in (["pools"], ["plan", "chat"], ["pin", "chat", "--apply"]):
        refused = metainf(*command, code=1, kubeconfig=who)
        assert refused.stdout == "" and refused.stderr.count("\n") == 1
        assert "forbidden" in refused.stderr and "ask for" in refused.stderr
    planned = metainf("plan", "chat", "--no-hub", "--pools", str(_POOLS), kubeconfig=who)
    assert "Chosen" in planned.stdout


def test_a_server_that_does_not_answer_is_one_line(story: Story, metainf: Plugin, tmp_path: Path) -> None:
    config = yaml.safe_load(story.cluster.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    nowhere = tmp_path / "nowhere"
    nowhere.write_text(yaml.safe_dump(config))
    said = metainf("explain", "chat", code=1, kubeconfig=nowhere)
    assert said.stderr.count("\n") == 1 and "check --kubeconfig" in said.stderr
