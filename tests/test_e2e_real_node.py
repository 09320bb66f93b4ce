"""The real node of the stories, as far as it can be looked at without root: what it is told, and its images."""

import hashlib
import ipaddress
import json
import os
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml

from e2e.cluster import ClusterSetupError, images, node_config, node_packages, real_node
from e2e.cluster.control_plane import NODE_GRACE_S, POD_RANGE, SERVICE_RANGE, USERS
from e2e.cluster.lifecycle import needed_artifacts, up
from e2e.cluster.model import Kind
from e2e.cluster.progress import Progress

_FOLDER = Path("/var/lib/e2e")


def test_containerd_reads_its_configuration_and_asks_no_registry_for_the_sandbox():
    text = node_config.containerd_config(Path("/usr/sbin/runc"), Path("/usr/lib/cni"), _FOLDER / "cni")
    settings = tomllib.loads(text)
    runtime = settings["plugins"]["io.containerd.cri.v1.runtime"]
    assert settings["version"] == 3
    assert runtime["restrict_oom_score_adj"] is True
    assert runtime["cni"] == {"bin_dirs": ["/usr/lib/cni"], "conf_dir": "/var/lib/e2e/cni"}
    assert runtime["containerd"]["runtimes"]["runc"]["options"]["BinaryName"] == "/usr/sbin/runc"
    pinned = settings["plugins"]["io.containerd.cri.v1.images"]["pinned_images"]
    assert pinned["sandbox"] == images.BUSYBOX_IMAGE


def test_addresses_of_machine_node_pods_and_services_do_not_overlap():
    link = ipaddress.ip_network(f"{node_config.HOST_ADDRESS}/30", strict=False)
    assert ipaddress.ip_address(node_config.NODE_ADDRESS) in link
    pods, services = ipaddress.ip_network(node_config.POD_RANGE), ipaddress.ip_network(SERVICE_RANGE)
    assert pods.subnet_of(ipaddress.ip_network(POD_RANGE))
    assert not any(a.overlaps(b) for a, b in ((link, pods), (link, services), (pods, services)))
    (plugin,) = json.loads(node_config.cni_config())["plugins"]
    assert plugin["ipam"]["ranges"] == [[{"subnet": node_config.POD_RANGE}]]


def test_the_node_is_the_one_whose_token_it_has():
    user, groups = USERS["kubelet"]
    assert user == f"system:node:{node_config.NODE_NAME}"
    assert groups == ("system:nodes",)
    for arguments in (
        node_config.kubelet_arguments(Path("kubelet"), Path("k"), Path("c")),
        node_config.kube_proxy_arguments(Path("kube-proxy"), Path("k")),
    ):
        assert f"--hostname-override={node_config.NODE_NAME}" in arguments


@pytest.mark.parametrize(("limit", "expected"), [(20_000, 20_000), (1 << 30, 1_000_000)])
def test_the_kubelet_asks_for_no_more_than_this_machine_gives(limit, expected):
    settings = yaml.safe_load(node_config.kubelet_config(Path("/none"), limit))
    assert settings["maxOpenFiles"] == expected
    assert settings["oomScoreAdj"] == 0
    assert settings["failCgroupV1"] is False
    assert settings["cgroupRoot"] == f"/{node_config.CGROUP}"
    assert settings["nodeLeaseDurationSeconds"] < NODE_GRACE_S


def test_nothing_of_the_whole_machine_is_set():
    arguments = node_config.kube_proxy_arguments(Path("kube-proxy"), Path("k"))
    assert "--conntrack-max-per-core=0" in arguments
    settings = yaml.safe_load(node_config.kubelet_config(Path("/none"), 1024))
    assert "protectKernelDefaults" not in settings  # the kubelet reads what it wants to find, and writes nothing
    assert {"vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops"} <= set(node_config.TUNABLES)


def test_the_name_of_the_link_is_one_that_linux_takes():
    assert len(node_config.LINK) <= 15


def test_an_image_is_an_archive_whose_digests_agree(tmp_path):
    layer = b"not much"
    images.write_image(tmp_path / "image.tar", "example/of:1", layer, {"Cmd": ["/bin/true"]})
    with tarfile.open(tmp_path / "image.tar") as archive:
        read = {member.name: archive.extractfile(member).read() for member in archive}
    (manifest,) = json.loads(read["manifest.json"])
    configuration = json.loads(read[manifest["Config"]])
    digest = hashlib.sha256(layer).hexdigest()
    assert manifest["RepoTags"] == ["example/of:1"]
    assert read[manifest["Layers"][0]] == layer
    assert configuration["rootfs"]["diff_ids"] == [f"sha256:{digest}"]
    assert configuration["config"]["Cmd"] == ["/bin/true"]


def test_the_image_of_busybox_has_the_program_and_a_link_for_each_name(tmp_path, monkeypatch):
    program = tmp_path / "busybox"
    program.write_bytes(b"\x7fELF")
    monkeypatch.setattr(images, "path_of", lambda name: program)
    images.busybox_image(tmp_path / "image.tar")
    with tarfile.open(tmp_path / "image.tar") as archive:
        (name,) = (member.name for member in archive if member.name.endswith(".tar"))
        with tarfile.open(fileobj=archive.extractfile(name)) as layer:
            members = {member.name: member for member in layer}
            assert layer.extractfile("bin/busybox").read() == b"\x7fELF"
    assert members["bin/busybox"].mode == 0o755
    assert members["bin/sh"].linkname == "busybox"
    assert members["tmp"].isdir()


def test_says_which_package_an_image_lacks(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "path_of", lambda name: None)
    with pytest.raises(ClusterSetupError, match="install busybox-static"):
        images.busybox_image(tmp_path / "image.tar")


@pytest.fixture
def sources(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_ROOT", tmp_path)
    for name in images._SOURCE_FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    for name in images._SOURCES:
        (tmp_path / name / "__pycache__").mkdir(parents=True)
        (tmp_path / name / "module.py").write_text(name)
    return tmp_path


@pytest.mark.parametrize("file", [*images._SOURCE_FILES, *(f"{name}/module.py" for name in images._SOURCES)])
def test_the_operators_image_is_another_when_anything_in_it_changes(sources, file):
    before = images._digest()
    (sources / file).write_text("changed")
    assert images._digest() != before


def test_bytecode_does_not_make_another_image(sources):
    before = images._digest()
    (sources / "metainf/__pycache__/module.cpython-311.pyc").write_text("bytecode")
    assert images._digest() == before


def _assembler(folder, body):
    file = folder / "assemble.py"
    file.write_text(f"import pathlib, sys\noutput = pathlib.Path(sys.argv[sys.argv.index('--output') + 1])\n{body}")
    return file


def test_an_image_is_assembled_once_and_few_are_kept(sources, tmp_path, monkeypatch):
    done = "output.write_text(sys.argv[sys.argv.index('--tag') + 1])\nprint('made')\n"
    monkeypatch.setattr(images, "_ASSEMBLE", _assembler(tmp_path, done))
    made = images.operator_image(Progress(), tmp_path / "cache")
    assert made.archive.read_text() == f"docker.io/library/{made.name}"
    monkeypatch.setattr(images, "_ASSEMBLE", tmp_path / "nowhere.py")
    assert images.operator_image(Progress(), tmp_path / "cache") == made

    monkeypatch.setattr(images, "_ASSEMBLE", _assembler(tmp_path, done))
    for content in ("second", "third"):
        (sources / "README.md").write_text(content)
        images.operator_image(Progress(), tmp_path / "cache")
    assert len(list((tmp_path / "cache/image").glob("operator-*.tar"))) == images._KEPT
    assert not made.archive.exists()


def test_a_failed_assembly_says_why_and_leaves_no_half_an_image(sources, tmp_path, monkeypatch):
    failing = "output.write_text('half')\nsys.exit('no room')\n"
    monkeypatch.setattr(images, "_ASSEMBLE", _assembler(tmp_path, failing))
    with pytest.raises(ClusterSetupError, match="no room"):
        images.operator_image(Progress(), tmp_path / "cache")
    assert list((tmp_path / "cache/image").iterdir()) == []


@pytest.mark.parametrize(
    ("platform", "user", "says"),
    [
        pytest.param("darwin", 0, "needs Linux", id="no Linux"),
        pytest.param("linux", 1000, "needs root", id="no root"),
        pytest.param("linux", 0, "there is no apt-get", id="no Debian"),
    ],
)
def test_says_why_there_can_be_no_real_node(platform, user, says, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(node_packages, "path_of", lambda program: None)
    monkeypatch.setattr(node_packages, "cni_folder", lambda: None)
    reason = node_packages.why_no_real_node()
    assert reason is not None
    assert says in reason
    with pytest.raises(ClusterSetupError, match=says):
        node_packages.install_missing(Progress())


def test_names_the_packages_that_are_missing(monkeypatch):
    here = {"ip": Path("/usr/sbin/ip"), "runc": Path("/usr/sbin/runc")}
    monkeypatch.setattr(node_packages, "path_of", here.get)
    monkeypatch.setattr(node_packages, "cni_folder", lambda: None)
    lacking = set(node_packages.missing_packages())
    assert lacking == {"iptables", "conntrack", "busybox-static", "debootstrap", "containernetworking-plugins"}


def test_only_a_built_cluster_gets_a_real_node(tmp_path):
    assert "containerd" in {artifact.name for artifact in needed_artifacts(Kind.BUILT, with_node=True)}
    assert "containerd" not in {artifact.name for artifact in needed_artifacts(Kind.BUILT)}
    with pytest.raises(ClusterSetupError, match="take --kind built"):
        up(tmp_path / "cluster", kind=Kind.KIND, with_node=True)


def test_removing_where_no_node_was_is_fine(tmp_path):
    real_node.stop(tmp_path)
    real_node.remove(tmp_path)
    assert not real_node.has_real_node(tmp_path)
