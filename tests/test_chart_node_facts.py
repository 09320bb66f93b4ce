"""The chart's DaemonSet of node facts against the code that runs in it: flags, rights, labels, defaults.

Separate from tests/test_chart.py, which is of the operator itself; what helm and a server say is asked in
e2e/test_node_facts.py.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from metainf_operator.node_facts.labels import LABEL_PATTERN, MigStrategy
from metainf_operator.node_facts.settings import ENVIRONMENT_PREFIX, settings_from
from metainf_operator.node_label_keys import product_names

_ROOT = Path(__file__).resolve().parent.parent
_CHART = _ROOT / "charts/metainf"
_VALUES: dict[str, Any] = yaml.safe_load((_CHART / "values.yaml").read_text())["nodeFacts"]
_DAEMON_SET = (_CHART / "templates/node-facts.yaml").read_text()
_HELPERS = (_CHART / "templates/_helpers.tpl").read_text()


def _flags() -> set[str]:
    return set(re.findall(r"- --([a-z-]+)=", _DAEMON_SET))


def test_every_flag_of_the_template_is_one_of_the_process() -> None:
    environment = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    values = {"mig-strategy": "none", "log-level": "info", "log-format": "json", "driver-root": "/driver-root"}
    arguments = [f"--{flag}={values.get(flag, '60')}" for flag in sorted(_flags())]
    assert len(arguments) >= 6
    settings = settings_from([*arguments, "--node-name=n"], environment)
    assert settings.driver_root == Path("/driver-root")


def test_the_defaults_of_the_chart_are_those_of_the_process() -> None:
    settings = settings_from(["--node-name=n"], {"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert _VALUES["intervalSeconds"] == settings.interval_s
    assert _VALUES["resyncSeconds"] == settings.resync_s
    assert _VALUES["migStrategy"] == settings.mig_strategy
    assert (_VALUES["driverRoot"] or None) == settings.driver_root
    assert _VALUES["enabled"] is False


def test_the_name_of_the_node_comes_from_its_variable() -> None:
    assert f"- name: {ENVIRONMENT_PREFIX}NODE_NAME\n" in _DAEMON_SET
    assert "fieldPath: spec.nodeName\n" in _DAEMON_SET


def test_the_schema_knows_the_strategies_that_there_are() -> None:
    schema = yaml.safe_load((_CHART / "values.schema.json").read_text())["properties"]["nodeFacts"]["properties"]
    assert schema["migStrategy"]["enum"] == [str(strategy) for strategy in MigStrategy]


def test_the_policy_allows_the_labels_that_are_written_and_no_other() -> None:
    found = re.search(r'define "metainf\.nodeFactsLabels" -}}\n(.*)\n{{- end }}', _HELPERS)
    assert found is not None
    assert found[1] == LABEL_PATTERN
    assert '"' not in LABEL_PATTERN  # it stands in a raw string of CEL


def test_the_account_may_get_and_patch_nodes_which_is_what_its_door_asks() -> None:
    rules = re.search(
        r'define "metainf\.rules\.nodeFacts" -}}\n(.*?){{- end }}',
        (_CHART / "templates/_rbac.tpl").read_text(),
        re.DOTALL,
    )
    assert rules is not None
    assert yaml.safe_load(rules[1]) == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "patch"]}]
    door = (_ROOT / "operator/metainf_operator/node_facts/door.py").read_text()
    assert sorted(set(re.findall(r'"(GET|PATCH|POST|PUT|DELETE)"', door))) == ["GET", "PATCH"]


def test_pods_go_to_nodes_that_somebody_marks_as_having_such_a_gpu() -> None:
    # What marks a node for the pods names an NVIDIA GPU to the inventory too, or only its vendor.
    marks = re.findall(r'"([a-z0-9.]+/?[a-z0-9.-]+)"', "".join(re.findall(r"range list (.*) }}", _DAEMON_SET)))
    assert len(marks) > 10
    products = {"nvidia.com/gpu.product", "cloud.google.com/gke-accelerator", "k8s.amazonaws.com/accelerator",
                "eks.amazonaws.com/instance-gpu-name", "gpu.nvidia.com/model"}  # fmt: skip
    assert products <= set(marks)
    assert [key for key in products if not list(product_names({key: "nvidia-l4"}))] == []


def test_what_selects_pods_of_the_operator_leaves_these_out() -> None:
    for file in ("deployment.yaml", "service.yaml", "poddisruptionbudget.yaml", "networkpolicy.yaml"):
        assert "app.kubernetes.io/component: operator" in (_CHART / "templates" / file).read_text(), file
    assert "app.kubernetes.io/component: operator" not in _DAEMON_SET
