"""The chart on a real API server, by helm itself: install, upgrade, uninstall, and what its roles allow.

Separate from tests/test_chart.py because rendering, ownership of definitions, admission and authorization are helm's
and the server's. The definitions of these releases are of an API group of their own, so that the lifecycle can be
walked through, deletion included, beside an operator and its workloads.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
import yaml

pytestmark = pytest.mark.e2e

_CHART = Path(__file__).resolve().parent.parent / "charts/metainf"
_RUN = os.getpid()
_SYSTEM = f"metainf-chart-{_RUN}"
_TEAM = f"metainf-team-{_RUN}"
_OTHER = f"metainf-other-{_RUN}"
_GROUP = f"chart-{_RUN}.metainf.dev"
_CRDS = tuple(f"{plural}.{_GROUP}" for plural in ("acceleratorpools", "inferencedecisions", "inferenceworkloads"))
_POOLS = "acceleratorpools"
_MINIMAL_POOL = {
    "apiVersion": f"{_GROUP}/v1alpha1",
    "kind": "AcceleratorPool",
    "metadata": {"name": f"kept-{_RUN}"},
    "spec": {
        "nodeSelector": {"example.com/pool": "none"},
        "accelerator": {"product": "NVIDIA-L4", "memory": "24Gi", "count": 1},
        "price": {"perHour": "0.80", "source": "made up", "asOf": "2026-01-01"},
        "nodes": {"max": 1},
    },
}


class _Cluster(Protocol):
    @property
    def kubeconfig(self) -> Path: ...

    @property
    def bin_dir(self) -> Path: ...


@dataclass(frozen=True, slots=True)
class _Tools:
    """helm and kubectl as the cluster's administrator."""

    cluster: _Cluster
    charts: Path

    def run(self, program: str, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig)}
        command = [str(self.cluster.bin_dir / program), *arguments]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, env=environment, timeout=180, check=False
        )

    def ok(self, program: str, *arguments: str, stdin: str | None = None) -> str:
        done = self.run(program, *arguments, stdin=stdin)
        assert done.returncode == 0, f"{program} {' '.join(arguments)}: {done.stderr or done.stdout}"
        return done.stdout

    def chart(self, name: str, edit: Callable[[str], str] = lambda text: text) -> Path:
        """A copy of the chart whose definitions are of this run's own group, and edited."""
        folder = self.charts / name
        shutil.copytree(_CHART, folder)
        for file in (folder / "files/crds").glob("*.yaml"):
            file.write_text(edit(file.read_text().replace("metainf.dev", _GROUP)))
        return folder

    def definition(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ok("kubectl", "get", "crd", f"{_POOLS}.{_GROUP}", "-o", "json"))
        return found

    def reviewed(self, account: str, asked: list[tuple[str, str, str, str]]) -> list[bool]:
        """Whether a service account may do each of (verb, group, resource, namespace), in one call."""
        reviews = [_review(account, *each) for each in asked]
        document = json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews})
        # Without a separator kubectl would print JSON documents that only stand next to each other.
        output = "jsonpath={.status.allowed}{'\\n'}"
        answer = self.ok("kubectl", "create", "--validate=false", "-f", "-", "-o", output, stdin=document)
        return [line == "true" for line in answer.splitlines()]


def _review(account: str, verb: str, group: str, resource: str, namespace: str) -> dict[str, Any]:
    plural, _, subresource = resource.partition("/")
    plural, _, name = plural.partition("=")
    attributes = {"verb": verb, "group": group, "resource": plural, "subresource": subresource, "name": name}
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{_SYSTEM}:{account}",
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{_SYSTEM}", "system:authenticated"],
            "resourceAttributes": {**attributes, "namespace": namespace},
        },
    }


@pytest.fixture(scope="module")
def tools(cluster: _Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Tools]:
    tools = _Tools(cluster, tmp_path_factory.mktemp("charts"))
    for namespace in (_SYSTEM, _TEAM, _OTHER):
        tools.ok("kubectl", "create", "namespace", namespace)
        tools.ok("kubectl", "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    yield tools
    tools.run("kubectl", "delete", "namespace", _SYSTEM, _TEAM, _OTHER, "--wait=false")


@pytest.fixture
def release(tools: _Tools) -> Iterator[Callable[..., str]]:
    """Install a release that is uninstalled after the test; without definitions, unless asked."""
    names: list[str] = []

    def install(name: str, *options: str, chart: Path = _CHART) -> str:
        names.append(name)
        return tools.ok("helm", "install", name, str(chart), "--namespace", _SYSTEM, *options)

    yield install
    for name in names:
        tools.run("helm", "uninstall", name, "--namespace", _SYSTEM, "--ignore-not-found")
    _delete_definitions(tools)


def _delete_definitions(tools: _Tools) -> None:
    """Delete this run's definitions once they can be listed.

    The API server cleans up one whose storage it is still setting up only at its next try, minutes later.
    """
    deadline = time.monotonic() + 60
    for name in _CRDS:
        while tools.run("kubectl", "get", "crd", name).returncode == 0 and time.monotonic() < deadline:
            if tools.run("kubectl", "get", name, "--all-namespaces").returncode == 0:
                break
            time.sleep(0.5)
    tools.run("kubectl", "delete", "crd", *_CRDS, "--ignore-not-found")


@pytest.mark.parametrize("values", [None, "namespaced-values.yaml", "everything-values.yaml"])
def test_helm_lint_has_nothing_to_say(tools: _Tools, values: str | None) -> None:
    options = [] if values is None else ["--values", str(_CHART / "ci" / values)]
    tools.ok("helm", "lint", str(_CHART), "--strict", *options)


@pytest.mark.parametrize("values", [None, "namespaced-values.yaml", "everything-values.yaml"])
def test_the_same_values_render_to_the_same_bytes(tools: _Tools, values: str | None) -> None:
    options = [] if values is None else ["--values", str(_CHART / "ci" / values)]
    first, second = (tools.ok("helm", "template", "metainf", str(_CHART), *options) for _ in range(2))
    assert first == second
    assert all(document["kind"] for document in yaml.safe_load_all(first) if document)


@pytest.mark.parametrize("switch", ["true", "false"])
def test_alerts_about_workloads_are_rendered_unless_they_are_switched_off(tools: _Tools, switch: str) -> None:
    options = ["--set", f"metrics.prometheusRule.enabled=true,metrics.prometheusRule.workloads={switch}"]
    documents = yaml.safe_load_all(tools.ok("helm", "template", "metainf", str(_CHART), *options))
    (rule,) = [document for document in documents if document and document["kind"] == "PrometheusRule"]
    alerts = {each["alert"]: each for group in rule["spec"]["groups"] for each in group["rules"]}
    assert {"MetaInfNobodyLeads", "MetaInfPassesFail", "MetaInfForbidden"} <= alerts.keys()
    if switch == "false":
        assert len(alerts) == 3
        return
    assert len(alerts) == 5
    for name, kind in (("MetaInfSLOMissed", "SLOMet"), ("MetaInfOverBudget", "WithinBudget")):
        asked = f'metainf_workload_condition{{job="metainf",type="{kind}",status="False"}}'
        assert alerts[name]["expr"] == f"max by (namespace, name) ({asked}) == 1"
        assert alerts[name]["for"] == "15m"
        assert "{{ $labels.namespace }}/{{ $labels.name }}" in alerts[name]["annotations"]["summary"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param(["--set", "rbac.nodeAccess=false"], "pools.manifests", id="no nodes and no pools"),
        pytest.param(["--set", "pools.configMap.name=x"], "set rbac.nodeAccess to false", id="pools beside nodes"),
        pytest.param(["--set", "replica=2"], "additional properties 'replica' not allowed", id="a value that is none"),
        pytest.param(["--set", "replicas=many"], "want integer", id="a word for a number"),
        pytest.param(["--set", "operator.logLevel=loud"], "/operator/logLevel", id="an unknown log level"),
        pytest.param(["--set", "watch.namespaces={Team_A}"], "/watch/namespaces/0", id="a bad namespace"),
        pytest.param(["--set", "leaderElection.retryPeriodSeconds=12"], "must be shorter", id="lease times"),
        pytest.param(["--set", "operator.drainSeconds=30"], "less than terminationGrace", id="drain too long"),
        pytest.param(["--set", "operator.observeWindowSeconds=59"], "at least twice", id="window too short"),
        pytest.param(["--set", "operator.observeWindowSeconds=3601"], "/operator/observeWindowSeconds", id="too long"),
        pytest.param(["--set", "operator.observeIntervalSeconds=2"], "at most 120 times", id="too many readings"),
    ],
)
def test_refuses_values_that_cannot_be(tools: _Tools, options: list[str], says: str) -> None:
    done = tools.run("helm", "template", "metainf", str(_CHART), *options)
    assert done.returncode != 0
    assert says in done.stderr


def test_definitions_outlive_the_release_and_go_over_to_the_next_one(
    tools: _Tools, release: Callable[..., str]
) -> None:
    chart = tools.chart("lifecycle")
    release("first", chart=chart)
    tools.ok("kubectl", "wait", "--for=condition=Established", "--timeout=30s", f"crd/{_POOLS}.{_GROUP}")
    tools.ok("kubectl", "apply", "--server-side", "-f", "-", stdin=json.dumps(_MINIMAL_POOL))

    said = tools.ok("helm", "uninstall", "first", "--namespace", _SYSTEM)
    assert f"[CustomResourceDefinition] {_POOLS}.{_GROUP}" in said
    assert tools.ok("kubectl", "get", f"{_POOLS}.{_GROUP}", "-o", "name").strip()

    release("first", chart=chart)  # the same name needs no option
    tools.ok("helm", "uninstall", "first", "--namespace", _SYSTEM)

    refused = tools.run("helm", "install", "second", str(chart), "--namespace", _SYSTEM)
    assert 'must equal "second": current value is "first"' in refused.stderr

    release("second", "--take-ownership", chart=chart)
    assert tools.definition()["metadata"]["annotations"]["meta.helm.sh/release-name"] == "second"
    assert tools.ok("kubectl", "get", f"{_POOLS}.{_GROUP}", "-o", "name").strip()
    tools.ok("helm", "upgrade", "second", str(chart), "--namespace", _SYSTEM)
    tools.ok("kubectl", "delete", f"{_POOLS}.{_GROUP}", "--all")


def test_an_upgrade_brings_newer_definitions(tools: _Tools, release: Callable[..., str]) -> None:
    older = tools.chart("older", lambda text: text.replace("shortNames: [apool]", "shortNames: [oldpool]"))
    release("upgraded", chart=older)
    assert tools.definition()["spec"]["names"]["shortNames"] == ["oldpool"]

    tools.ok("helm", "upgrade", "upgraded", str(tools.chart("newer")), "--namespace", _SYSTEM)
    assert tools.definition()["spec"]["names"]["shortNames"] == ["apool"]

    # Switched off, they stay; switched on again, they are still this release's.
    tools.ok("helm", "upgrade", "upgraded", str(older), "--namespace", _SYSTEM, "--set", "crds.install=false")
    assert tools.definition()["spec"]["names"]["shortNames"] == ["apool"]
    tools.ok("helm", "upgrade", "upgraded", str(older), "--namespace", _SYSTEM, "--set", "crds.install=true")
    assert tools.definition()["spec"]["names"]["shortNames"] == ["oldpool"]


def test_definitions_applied_by_hand_are_taken_over(tools: _Tools, release: Callable[..., str]) -> None:
    chart = tools.chart("by-hand")
    tools.ok("kubectl", "apply", "--server-side", "-f", str(chart / "files/crds"))
    release("adopting", "--take-ownership", "--force-conflicts", chart=chart)
    assert tools.definition()["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_pods_pass_the_restricted_standard_and_an_upgrade_scales_them(
    tools: _Tools, release: Callable[..., str]
) -> None:
    said = release("metainf", "--set", "crds.install=false")
    assert f"kubectl -n {_SYSTEM} rollout status deployment/metainf" in said
    assert "metainf.dev/cost-per-hour" in said
    _await_pods(tools, 1)
    assert "not found" in tools.run("kubectl", "get", "pdb", "metainf", "-n", _SYSTEM).stderr

    tools.ok("helm", "upgrade", "metainf", str(_CHART), "--namespace", _SYSTEM, "--reuse-values", "--set", "replicas=2")
    _await_pods(tools, 2)
    tools.ok("kubectl", "get", "pdb", "metainf", "-n", _SYSTEM)
    # The pod of `helm test` too, which no fake node can run to its end.
    for pod in yaml.safe_load_all(tools.ok("helm", "get", "hooks", "metainf", "--namespace", _SYSTEM)):
        tools.ok("kubectl", "create", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))


def _await_pods(tools: _Tools, count: int) -> None:
    """Pods that admission refuses never come; whether a node is there to run them does not matter."""
    wait = ["wait", "--for=jsonpath={.status.updatedReplicas}=" + str(count), "deployment/metainf"]
    tools.ok("kubectl", *wait, "-n", _SYSTEM, "--timeout=30s")


_Asked = tuple[str, str, str, str]
_IN_A_TEAM: list[_Asked] = [
    ("list", "metainf.dev", "inferenceworkloads", _TEAM),
    ("watch", "metainf.dev", "inferenceworkloads", _TEAM),
    ("patch", "metainf.dev", "inferenceworkloads/status", _TEAM),
    ("update", "metainf.dev", "inferenceworkloads/finalizers", _TEAM),
    ("create", "metainf.dev", "inferencedecisions", _TEAM),
    ("patch", "metainf.dev", "inferencedecisions", _TEAM),
    ("delete", "metainf.dev", "inferencedecisions", _TEAM),
    ("create", "apps", "deployments", _TEAM),
    ("patch", "apps", "deployments", _TEAM),
    ("delete", "apps", "deployments", _TEAM),
    ("create", "", "services", _TEAM),
    ("patch", "policy", "poddisruptionbudgets", _TEAM),
    ("get", "", "configmaps", _TEAM),
    ("create", "events.k8s.io", "events", _TEAM),
]
_NEVER: list[_Asked] = [
    ("get", "", "secrets", _TEAM),
    ("list", "", "secrets", _SYSTEM),
    ("list", "", "configmaps", _TEAM),
    ("create", "metainf.dev", "inferenceworkloads", _TEAM),
    ("patch", "metainf.dev", "inferenceworkloads", _TEAM),
    ("delete", "metainf.dev", "inferenceworkloads", _TEAM),
    ("create", "", "pods", _TEAM),
    ("delete", "", "pods", _TEAM),
    ("create", "", "pods/exec", _TEAM),
    ("patch", "", "nodes", ""),
    ("create", "metainf.dev", "acceleratorpools", ""),
    ("patch", "apiextensions.k8s.io", "customresourcedefinitions", ""),
    ("create", "rbac.authorization.k8s.io", "roles", _SYSTEM),
    ("impersonate", "", "users", ""),
    ("update", "coordination.k8s.io", "leases=somebody-elses", _SYSTEM),
    ("create", "coordination.k8s.io", "leases", _TEAM),
]
_OF_THE_CLUSTER: list[_Asked] = [
    ("list", "", "nodes", ""),
    ("watch", "", "pods", ""),
    ("list", "metainf.dev", "acceleratorpools", ""),
    ("patch", "metainf.dev", "acceleratorpools/status", ""),
]


def _own_lease(name: str) -> list[_Asked]:
    group = "coordination.k8s.io"
    return [("create", group, "leases", _SYSTEM), ("update", group, f"leases={name}", _SYSTEM)]


def _elsewhere(asked: list[_Asked]) -> list[_Asked]:
    return [(verb, group, resource, _OTHER) for verb, group, resource, _ in asked]


@pytest.mark.parametrize(
    ("options", "allowed", "denied"),
    [
        pytest.param(
            [],
            [*_IN_A_TEAM, *_elsewhere(_IN_A_TEAM), *_OF_THE_CLUSTER, *_own_lease("metainf-operator")],
            _NEVER,
            id="the whole cluster",
        ),
        pytest.param(
            ["--set", f"watch.namespaces={{{_TEAM}}}"],
            [*_IN_A_TEAM, *_OF_THE_CLUSTER, *_own_lease("metainf")],
            [*_NEVER, *_elsewhere(_IN_A_TEAM)],
            id="one namespace, nodes read",
        ),
        pytest.param(
            [
                *("--values", str(_CHART / "ci/namespaced-values.yaml")),
                *("--set", f"watch.namespaces={{{_TEAM}}}"),
            ],
            [*_IN_A_TEAM, *_own_lease("metainf")],
            [*_NEVER, *_elsewhere(_IN_A_TEAM), *_OF_THE_CLUSTER],
            id="one namespace, nodes not read",
        ),
    ],
)
def test_the_service_account_may_do_its_work_and_no_more(
    tools: _Tools, release: Callable[..., str], options: list[str], allowed: list[_Asked], denied: list[_Asked]
) -> None:
    release("metainf", "--set", "crds.install=false", *options)
    may = dict(zip([*allowed, *denied], tools.reviewed("metainf", [*allowed, *denied]), strict=True))
    assert [asked for asked in allowed if not may[asked]] == []
    assert [asked for asked in denied if may[asked]] == []


def test_a_namespace_admin_installs_it_once_the_cluster_admin_gave_the_roles(tools: _Tools) -> None:
    # RBAC lets nobody grant what they do not hold, so the two Roles are the cluster admin's to make.
    values = ["-f", str(_CHART / "ci/namespaced-values.yaml"), "--set", f"watch.namespaces={{{_TEAM}}}"]
    rendered = ["template", "metainf", str(_CHART), "-n", _TEAM, *values]
    kinds = {document["kind"] for document in yaml.safe_load_all(tools.ok("helm", *rendered)) if document}
    assert not kinds & {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}
    roles = tools.ok("helm", *rendered, "--show-only", "templates/rbac.yaml")
    tools.ok("kubectl", "apply", "-f", "-", stdin=roles)
    tools.ok("kubectl", "create", "rolebinding", "owner", "--clusterrole=admin", "--user=anna", "-n", _TEAM)

    as_anna = ["-n", _TEAM, "--kube-as-user=anna"]
    tools.ok("helm", "install", "metainf", str(_CHART), *as_anna, *values, "--set", "rbac.create=false")
    assert "nodes.max" not in tools.ok("helm", "get", "notes", "metainf", *as_anna)
    tools.ok("helm", "uninstall", "metainf", *as_anna)


@pytest.mark.parametrize(
    ("role", "verb", "resource", "allowed"),
    [
        ("view", "get", "inferencedecisions", True),
        ("view", "create", "inferenceworkloads", False),
        ("edit", "create", "inferenceworkloads", True),
        ("edit", "patch", "inferenceworkloads/scale", True),
        ("edit", "delete", "inferencedecisions", False),
        ("admin", "delete", "inferencedecisions", True),
        ("admin", "patch", "inferencedecisions", False),
    ],
)
def test_built_in_roles_learn_of_the_resources(
    tools: _Tools, release: Callable[..., str], role: str, verb: str, resource: str, allowed: bool
) -> None:
    account = f"{role}-{verb}-{resource.replace('/', '-')}"
    binding = [f"--clusterrole={role}", f"--serviceaccount={_SYSTEM}:{account}", "-n", _TEAM]
    tools.ok("kubectl", "create", "rolebinding", account, *binding)
    release("metainf", "--set", "crds.install=false")
    # Aggregation is a controller's work, some moments later: wait for what every one of these roles gains.
    deadline = time.monotonic() + 20
    while not all(tools.reviewed(account, [("list", "metainf.dev", "inferenceworkloads", _TEAM)])):
        assert time.monotonic() < deadline, f"the role {role} never learned of InferenceWorkloads"
        time.sleep(0.3)
    while tools.reviewed(account, [(verb, "metainf.dev", resource, _TEAM)]) != [allowed]:
        assert time.monotonic() < deadline, f"{role} {verb} {resource}: expected {allowed}"
        time.sleep(0.3)
