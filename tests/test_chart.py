"""The chart as files: one with the CRDs, the settings and the metrics of the operator.

What only helm and a server can say (rendering, ownership, admission, authorization) is asked in e2e/test_chart.py.
"""

import dataclasses
import importlib.util
import json
import re
import urllib.error
from collections.abc import Callable, Iterator
from email.message import Message
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from metainf.planning import HTTP_PORT
from metainf_operator.children import LABEL_SERVING, LABEL_WORKLOAD
from metainf_operator.metrics import SHOWN_CONDITIONS, Metrics
from metainf_operator.settings import OperatorSettings, SettingsError, settings_from

_ROOT = Path(__file__).resolve().parent.parent
_CHART = _ROOT / "charts/metainf"
_VALUES = yaml.safe_load((_CHART / "values.yaml").read_text())
_SCHEMA = json.loads((_CHART / "values.schema.json").read_text())
_DEPLOYMENT = (_CHART / "templates/deployment.yaml").read_text()

# Definitions


def test_the_definitions_are_copies_of_those_in_crds() -> None:
    copies = {file.name: file.read_bytes() for file in (_CHART / "files/crds").iterdir()}
    originals = {file.name: file.read_bytes() for file in (_ROOT / "crds").glob("*.yaml")}
    assert sorted(copies) == sorted(originals)
    for name, content in originals.items():
        assert copies[name] == content, f"out of date: cp crds/{name} charts/metainf/files/crds/"


def test_each_definition_has_the_line_that_the_chart_puts_its_annotations_under() -> None:
    for file in (_CHART / "files/crds").iterdir():
        assert file.read_text().count("\nmetadata:\n") == 1, file.name
        assert "annotations" not in yaml.safe_load(file.read_text())["metadata"]
        # Helm splits documents here, whatever stands around it.
        assert not re.search(r"^---", file.read_text(), re.MULTILINE), file.name


def test_the_chart_has_the_version_of_the_distribution() -> None:
    chart = yaml.safe_load((_CHART / "Chart.yaml").read_text())
    project = re.search(r'^version = "(.+)"$', (_ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert project is not None
    assert chart["appVersion"] == project.group(1)


# Values


def _check(schema: dict[str, Any], value: Any, path: str = "") -> list[str]:
    """The part of JSON schema that values.schema.json uses; helm knows all of it."""
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
    wanted = schema.get("type", [])
    wanted = [wanted] if isinstance(wanted, str) else wanted
    is_type = any(isinstance(value, types[t]) and (t == "boolean") == isinstance(value, bool) for t in wanted)
    if wanted and not is_type:
        return [f"{path}: {value!r} is no {' or '.join(wanted)}"]
    problems = []
    if isinstance(value, dict):
        known = schema.get("properties", {})
        for key, child in value.items():
            extra = schema.get("additionalProperties", {})
            if key not in known and extra is False:
                problems.append(f"{path}.{key}: not in the schema")
            problems += _check(known.get(key, extra or {}), child, f"{path}.{key}")
        problems += [f"{path}: lacks {key}" for key in schema.get("required", []) if key not in value]
    if isinstance(value, list):
        for place, child in enumerate(value):
            problems += _check(schema.get("items", {}), child, f"{path}[{place}]")
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        problems.append(f"{path}: {value!r} does not match {schema['pattern']}")
    if "enum" in schema and value not in schema["enum"]:
        problems.append(f"{path}: {value!r} is none of {schema['enum']}")
    if isinstance(value, int) and value < schema.get("minimum", value):
        problems.append(f"{path}: {value} is too little")
    return problems


def _merged(values: Any, changes: Any) -> Any:
    if isinstance(values, dict) and isinstance(changes, dict):
        return values | {key: _merged(values.get(key), change) for key, change in changes.items()}
    return changes


@pytest.mark.parametrize("file", [None, *sorted((_CHART / "ci").glob("*.yaml"))], ids=lambda f: f.stem if f else "none")
def test_values_match_their_schema(file: Path | None) -> None:
    values = _VALUES if file is None else _merged(_VALUES, yaml.safe_load(file.read_text()))
    assert _check(_SCHEMA, values) == []


def _leaves(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value and f"{path}{key}" not in _OPAQUE:
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


_OPAQUE = {"resources", "podSecurityContext", "securityContext", "nodeFacts.resources"}
_NOT_IN_VALUES = {"global", "enabled"}  # what a parent chart may pass


def _schema_leaves(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for key, child in schema["properties"].items():
        if "properties" in child and f"{path}{key}" not in _OPAQUE:
            yield from _schema_leaves(child, f"{path}{key}.")
        else:
            yield f"{path}{key}", child


def test_the_schema_knows_every_value_and_no_other() -> None:
    assert {path for path, _ in _schema_leaves(_SCHEMA)} - _NOT_IN_VALUES == {path for path, _ in _leaves(_VALUES)}


def test_the_schema_is_strict_and_describes_every_value() -> None:
    def walk(schema: dict[str, Any], path: str) -> Iterator[str]:
        if "properties" in schema:
            if schema.get("additionalProperties") is not False:
                yield f"{path} takes anything"
            for key, child in schema["properties"].items():
                if len(child.get("description", "")) < 5:
                    yield f"{path}.{key} is not described"
                yield from walk(child, f"{path}.{key}")

    assert list(walk(_SCHEMA, "")) == []


def test_every_value_has_an_effect() -> None:
    templates = "\n".join(f.read_text() for f in (_CHART / "templates").rglob("*") if f.is_file())
    for path, _ in _leaves(_VALUES):
        last = path.rpartition(".")[2]
        assert f".Values.{path}" in templates or re.search(rf"\.{last}\b", templates), path


def test_the_readme_lists_every_value_with_its_default() -> None:
    text = (_CHART / "README.md").read_text().partition("## Values")[2]
    rows = dict(re.findall(r"^\| `([\w.]+)` \| `(.*?)` \|", text, re.MULTILINE))
    expected = {path: json.dumps(value) if not isinstance(value, str) else value for path, value in _leaves(_VALUES)}
    assert rows == {path: value or '""' for path, value in expected.items()}


# Settings

_FLAGS = set(re.findall(r"--([a-z][-a-z]*)=", _DEPLOYMENT))
# kubeconfig and context are for a process outside of a cluster; the identity is the pod's name, and the Lease stands
# in the pod's namespace, by themselves.
_LEFT_ALONE = {"kubeconfig", "context", "identity", "lease_namespace"}


def test_every_flag_is_a_setting_and_every_setting_has_a_flag() -> None:
    names = {field.name for field in dataclasses.fields(OperatorSettings)}
    flags = {flag.replace("-", "_") for flag in _FLAGS}
    assert flags <= names
    assert names - flags == _LEFT_ALONE


def test_the_network_policy_lets_the_operator_read_the_engines_and_no_other_pod_on_their_port() -> None:
    text = (_CHART / "templates/networkpolicy.yaml").read_text()
    (rule,) = [part for part in text.split("    - ports:\n") if f"port: {HTTP_PORT}\n" in part]
    assert f"key: {LABEL_SERVING}" in rule
    assert "operator: Exists" in rule


def test_the_defaults_of_the_chart_are_those_of_the_operator() -> None:
    operator, lease, engine = _VALUES["operator"], _VALUES["leaderElection"], _VALUES["engine"]
    arguments = [
        f"--workers={operator['workers']}",
        f"--resync-s={operator['resyncSeconds']}",
        f"--observe-interval-s={operator['observeIntervalSeconds']}",
        f"--observe-window-s={operator['observeWindowSeconds']}",
        f"--drain-s={operator['drainSeconds']}",
        f"--max-concurrent-switches={operator['maxConcurrentSwitches']}",
        f"--hub={str(operator['hub']).lower()}",
        f"--opencost-url={operator['opencostUrl']}",
        f"--predictor-artifact={operator['predictorArtifact']}",
        f"--log-level={operator['logLevel']}",
        f"--log-format={operator['logFormat']}",
        f"--lease-duration-s={lease['durationSeconds']}",
        f"--lease-renew-deadline-s={lease['renewDeadlineSeconds']}",
        f"--lease-retry-period-s={lease['retryPeriodSeconds']}",
        "--lease-name=metainf-operator",
        f"--node-access={str(_VALUES['rbac']['nodeAccess']).lower()}",
        f"--engine-version={engine['version']}",
        *(f"--image-{kind}={image}" for kind, image in engine["images"].items()),
        "--health-port=8080",
        "--metrics-port=9090",
    ]
    assert settings_from(arguments, {}) == OperatorSettings()


def test_the_chart_takes_the_windows_that_the_operator_takes() -> None:
    longest = _SCHEMA["properties"]["operator"]["properties"]["observeWindowSeconds"]["maximum"]
    assert settings_from([f"--observe-window-s={longest}"], {}).observe_window_s == longest
    with pytest.raises(SettingsError):
        settings_from([f"--observe-window-s={longest + 1}"], {})


def test_the_drain_ends_before_the_grace_period() -> None:
    assert _VALUES["operator"]["drainSeconds"] < _VALUES["terminationGracePeriodSeconds"]


# Pods


def test_the_defaults_fulfil_the_restricted_pod_security_standard() -> None:
    pod, container = _VALUES["podSecurityContext"], _VALUES["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] == 65532
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    for template in ("deployment.yaml", "tests/installation.yaml"):
        text = (_CHART / "templates" / template).read_text()
        assert "toYaml .Values.podSecurityContext" in text
        assert "toYaml .Values.securityContext" in text


def test_templates_ask_the_cluster_nothing_and_roll_no_dice() -> None:
    for file in (_CHART / "templates").rglob("*"):
        if file.is_file():
            found = re.search(r"\b(lookup|rand\w+|now|genCA|genSelfSignedCert|uuidv4|derivePassword)\b *[\"(.]",
                              file.read_text())  # fmt: skip
            assert found is None, f"{file.name}: {found}"


# Monitoring


def test_alerts_name_metrics_that_there_are() -> None:
    text = (_CHART / "templates/monitoring.yaml").read_text()
    metrics = Metrics()
    known = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    known |= {f"{family.name}_total" for family in metrics.registry.collect() if family.type == "counter"}
    known |= {family.name for family in metrics.registry.collect() if family.type == "gauge"}
    named = set(re.findall(r"metainf_[a-z_]+", "".join(re.findall(r"expr: (.+)", text))))
    assert named
    assert named <= known


def test_alerts_about_workloads_ask_for_conditions_that_are_shown() -> None:
    text = (_CHART / "templates/monitoring.yaml").read_text()
    asked = re.findall(r'metainf_workload_condition\{.*,type="(\w+)",status="(\w+)"\}', text)
    assert asked == [("SLOMet", "False"), ("WithinBudget", "False")]
    assert {kind for kind, _ in asked} <= set(SHOWN_CONDITIONS)


def test_the_readme_names_every_alert() -> None:
    alerts = re.findall(r"- alert: (\w+)", (_CHART / "templates/monitoring.yaml").read_text())
    listed = (_CHART / "README.md").read_text().partition("Alerts of the rule: ")[2].partition("\n\n")[0]
    assert len(alerts) == 5
    assert re.findall(r"MetaInf\w+", listed) == alerts


def test_the_pod_monitor_selects_the_pods_that_the_operator_runs() -> None:
    text = (_CHART / "templates/monitoring.yaml").read_text()
    assert f"- key: {LABEL_WORKLOAD}\n" in text
    assert f"- {LABEL_SERVING}\n" in text
    assert "app.kubernetes.io/managed-by: metainf\n" in text


# What `helm test` runs


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_installation", _CHART / "files/check_installation.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("METAINF_SERVICE_HOST", "10.0.0.9")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    clock = iter(range(0, 10_000, 50))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    return module


_SERVED = json.dumps({"resources": [{"name": name} for name in
                     ("acceleratorpools", "inferencedecisions", "inferenceworkloads")]}).encode()  # fmt: skip


def test_the_installation_check_asks_for_readiness_kinds_and_collections(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def fetch(url: str) -> bytes:
        asked.append(url)
        return _SERVED

    monkeypatch.setattr(check, "fetch", fetch)
    assert check.main("METAINF", "team-a,team-b", "true") == 0
    assert asked == [
        "http://10.0.0.9:8080/readyz",
        "https://[fd00::1]:443/apis/metainf.dev/v1alpha1",
        "https://[fd00::1]:443/apis/metainf.dev/v1alpha1/namespaces/team-a/inferenceworkloads?limit=1",
        "https://[fd00::1]:443/apis/metainf.dev/v1alpha1/namespaces/team-b/inferenceworkloads?limit=1",
        "https://[fd00::1]:443/apis/metainf.dev/v1alpha1/acceleratorpools?limit=1",
        "https://[fd00::1]:443/api/v1/nodes?limit=1",
    ]
    assert "is ready" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        pytest.param(lambda: OSError("connection refused"), "readyz: connection refused", id="the operator is away"),
        pytest.param(
            lambda: urllib.error.HTTPError("", 503, "", Message(), BytesIO(b"caches: not filled")),
            "HTTP 503: caches: not filled",
            id="the operator is not ready",
        ),
        pytest.param(None, "does not serve inferencedecisions", id="a kind is missing"),
    ],
)
def test_the_installation_check_says_what_is_missing(
    check: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: Callable[[], Exception] | None,
    says: str,
) -> None:
    def fetch(_: str) -> bytes:
        if fault is not None:
            raise fault()
        return _SERVED.replace(b"inferencedecisions", b"something")

    monkeypatch.setattr(check, "fetch", fetch)
    assert check.main("METAINF", "*", "false") == 1
    assert says in capsys.readouterr().out
