"""What Argo CD shows of MetaInf's resources: the Lua scripts, run on statuses as the operator's own code writes them.

The folders are laid out as upstream's resource_customizations, and so are the tables of cases: health_test.yaml and
action_test.yaml, which are run here as upstream's own tests would run them.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from lupa import lua51

from metainf.binding_limits import BindingLimit
from metainf.manifests import PolicyMode, parse_workload
from metainf_operator.conditions import Facts, Fault, conditions, merged
from metainf_operator.rollout import Stage

_ROOT = Path(__file__).resolve().parent.parent
_ARGOCD = _ROOT / "deploy/argocd"
_CUSTOMIZATIONS = _ARGOCD / "resource_customizations/metainf.dev"
_KINDS = ("AcceleratorPool", "InferenceDecision", "InferenceWorkload")
_ACTIONS = _CUSTOMIZATIONS / "InferenceWorkload/actions"
_STATUSES = {"Healthy", "Progressing", "Degraded", "Suspended", "Missing", "Unknown"}


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _run(script: Path, manifest: Any) -> Any:
    """Run a script as Argo CD does: Lua 5.1, the manifest as the global `obj`, no access to anything else."""
    lua = lua51.LuaRuntime(register_eval=False, register_builtins=False)
    for name in ("io", "package", "require", "dofile", "loadfile", "debug"):
        lua.globals()[name] = None
    lua.globals().obj = lua.table_from(manifest, recursive=True)
    # A table that came in and one that Lua made look the same from here on.
    return _plain(lua.execute(script.read_text()))


def _plain(value: Any) -> Any:
    if lua51.lua_type(value) != "table":
        return value
    keys = list(value.keys())
    if keys and keys == list(range(1, len(keys) + 1)):
        return [_plain(value[key]) for key in keys]
    return {key: _plain(value[key]) for key in keys}


def _health_cases() -> Iterator[Any]:
    for kind in _KINDS:
        for case in _read(_CUSTOMIZATIONS / kind / "health_test.yaml")["tests"]:
            yield pytest.param(kind, case, id=f"{kind}: {Path(case['inputPath']).stem}")


@pytest.mark.parametrize(("kind", "case"), list(_health_cases()))
def test_health_of_recorded_statuses(kind: str, case: dict[str, Any]) -> None:
    folder = _CUSTOMIZATIONS / kind
    assert _run(folder / "health.lua", _read(folder / case["inputPath"])) == case["healthStatus"]


def test_the_cases_cover_every_recorded_status_and_every_health() -> None:
    for kind in _KINDS:
        cases = _read(_CUSTOMIZATIONS / kind / "health_test.yaml")["tests"]
        recorded = {file.name for file in (_CUSTOMIZATIONS / kind / "testdata").iterdir()}
        assert {Path(case["inputPath"]).name for case in cases} == recorded
    shown = {case["healthStatus"]["status"] for case in cases}
    assert shown == {"Healthy", "Progressing", "Degraded", "Suspended"}


_BASE: dict[str, Any] = {"mode": PolicyMode.AUTO, "priced_pools": ("l4",), "considered": 20, "budget": "6.00 USD/h"}
_RUNS: dict[str, Any] = {"running": "plain/TP1/l4x1", "decision": "chat-1", "cost": Decimal(1), "cost_unit": "USD/h"}


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        pytest.param(Facts(**_BASE, **_RUNS, stage=Stage.SERVING), "Healthy", id="serving"),
        pytest.param(Facts(mode=PolicyMode.AUTO), "Progressing", id="deciding"),
        *(
            pytest.param(Facts(**_BASE, **_RUNS, stage=stage), "Progressing", id=f"under way: {stage}")
            for stage in Stage
            if stage.ready == "Unknown"
        ),
        *(
            pytest.param(Facts(**_BASE, **_RUNS, stage=stage), "Degraded", id=f"needs a person: {stage}")
            for stage in Stage
            if stage.ready == "False"
        ),
        *(
            pytest.param(Facts(**_BASE, limit=limit, limit_message="x"), "Degraded", id=f"refused: {limit}")
            for limit in BindingLimit
        ),
        pytest.param(Facts(mode=PolicyMode.AUTO, fault=Fault.INVALID_SPEC), "Degraded", id="invalid"),
        pytest.param(Facts(mode=PolicyMode.AUTO, fault=Fault.HUB_UNREACHABLE), "Progressing", id="hub away"),
        pytest.param(Facts(**_BASE, suspended=True), "Suspended", id="suspended"),
        pytest.param(Facts(**_BASE, stopped=True), "Degraded", id="stopped by onViolation"),
        pytest.param(
            Facts(**{**_BASE, "mode": PolicyMode.RECOMMEND}, proposed="plain/TP1/l4x1", decision="chat-1"),
            "Suspended",
            id="awaiting approval",
        ),
    ],
)
def test_health_of_what_the_operator_computes(facts: Facts, expected: str) -> None:
    found = merged(conditions(facts), (), generation=2, now=datetime(2026, 1, 1, tzinfo=UTC))
    manifest = {"metadata": {"generation": 2}, "status": {"observedGeneration": 2, "conditions": found}}
    assert _run(_CUSTOMIZATIONS / "InferenceWorkload/health.lua", manifest)["status"] == expected


def test_the_recorded_specs_are_valid_workloads() -> None:
    for file in (_CUSTOMIZATIONS / "InferenceWorkload/testdata").iterdir():
        body = {key: value for key, value in _read(file).items() if key != "status"}
        assert parse_workload(body).name == "chat"


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize(
    "manifest",
    [
        pytest.param({"metadata": {}}, id="no status"),
        pytest.param({"metadata": {}, "status": {}}, id="an empty status"),
        pytest.param({"metadata": {"generation": 1}, "status": {"observedGeneration": 1}}, id="no conditions"),
        pytest.param(
            {"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "conditions": [], "phase": None}},
            id="empty conditions",
        ),
    ],
)
def test_a_status_that_is_not_there_yet_is_progressing(kind: str, manifest: dict[str, Any]) -> None:
    found = _run(_CUSTOMIZATIONS / kind / "health.lua", manifest)
    assert found["status"] == "Progressing"
    assert found["message"]


def test_a_phase_of_a_later_version_is_unknown_and_no_error() -> None:
    found = _run(_CUSTOMIZATIONS / "InferenceDecision/health.lua", {"metadata": {}, "status": {"phase": "Queued"}})
    assert found == {"status": "Unknown", "message": "phase Queued is not known"}


def test_every_phase_of_a_decision_is_known() -> None:
    crd = _read(_ROOT / "crds/metainf.dev_inferencedecisions.yaml")
    status = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
    for phase in status["properties"]["phase"]["enum"]:
        found = _run(_CUSTOMIZATIONS / "InferenceDecision/health.lua", {"metadata": {}, "status": {"phase": phase}})
        assert found["status"] in _STATUSES - {"Unknown"}, phase


@pytest.mark.parametrize(
    "case", _read(_ACTIONS / "action_test.yaml")["discoveryTests"], ids=lambda case: Path(case["inputPath"]).stem
)
def test_actions_are_offered_where_they_do_something(case: dict[str, Any]) -> None:
    offered = _run(_ACTIONS / "discovery.lua", _read(_ACTIONS / case["inputPath"]))
    found = [{"name": name, "disabled": bool(offered[name].get("disabled"))} for name in sorted(offered)]
    assert found == case["result"]


@pytest.mark.parametrize(
    "case", _read(_ACTIONS / "action_test.yaml")["actionTests"], ids=lambda case: str(case["action"])
)
def test_an_action_writes_what_a_person_would(case: dict[str, Any]) -> None:
    found = _run(_ACTIONS / case["action"] / "action.lua", _read(_ACTIONS / case["inputPath"]))
    assert found == _read(_ACTIONS / case["expectedOutputPath"])
    parse_workload({key: value for key, value in found.items() if key != "status"})


def test_every_action_is_a_folder_and_is_tried() -> None:
    folders = {path.parent.name for path in _ACTIONS.glob("*/action.lua")}
    assert folders == {case["action"] for case in _read(_ACTIONS / "action_test.yaml")["actionTests"]}
    assert folders == set(_run(_ACTIONS / "discovery.lua", {"metadata": {}, "spec": {}}))


def test_the_config_map_holds_the_same_scripts() -> None:
    data = _read(_ARGOCD / "argocd-cm.yaml")["data"]
    health = {key: value for key, value in data.items() if ".health." in key}
    assert health == {
        f"resource.customizations.health.metainf.dev_{kind}": (_CUSTOMIZATIONS / kind / "health.lua").read_text()
        for kind in _KINDS
    }
    actions = yaml.safe_load(data["resource.customizations.actions.metainf.dev_InferenceWorkload"])
    assert actions == {
        "discovery.lua": (_ACTIONS / "discovery.lua").read_text(),
        "definitions": [
            {"name": name, "action.lua": (_ACTIONS / name / "action.lua").read_text()}
            for name in ("approve", "resume", "suspend")
        ],
    }


def test_applications_are_complete_and_of_this_chart() -> None:
    documents = [document for file in ("application.yaml", "workloads.yaml")
                 for document in yaml.safe_load_all((_ARGOCD / file).read_text())]  # fmt: skip
    assert [document["kind"] for document in documents] == ["Application", "Application"]
    operator, workloads = documents
    assert (_ROOT / operator["spec"]["source"]["path"] / "Chart.yaml").is_file()
    schema = yaml.safe_load((_ROOT / "charts/metainf/values.schema.json").read_text())
    assert set(operator["spec"]["source"]["helm"]["valuesObject"]) <= set(schema["properties"])
    for document in documents:
        assert "ServerSideApply=true" in document["spec"]["syncPolicy"]["syncOptions"]
    ignored = {(each["kind"], pointer) for each in workloads["spec"]["ignoreDifferences"]
               for pointer in each["jsonPointers"]}  # fmt: skip
    assert ignored == {("InferenceWorkload", "/spec/scaling/replicas")}


def test_the_definitions_survive_the_deletion_of_the_application() -> None:
    template = (_ROOT / "charts/metainf/templates/crds.yaml").read_text()
    assert "argocd.argoproj.io/sync-options: Prune=false,Delete=false" in template
