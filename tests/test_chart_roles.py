"""What the chart's roles allow against what the operator's code calls, in both directions.

Separate from tests/test_chart.py because the calls are read out of the code: a call that is added without its right
fails here, and not in somebody's cluster.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from metainf_operator import resources
from metainf_operator.resources import ALL_RESOURCES, Resource

_ROOT = Path(__file__).resolve().parent.parent
_CHART = _ROOT / "charts/metainf"
_CODE = _ROOT / "operator/metainf_operator"

Grant = tuple[str, str, str]
"""API group, resource with subresource, verb."""

_BY_CONSTANT: dict[str, Resource] = {
    name: value for name, value in vars(resources).items() if isinstance(value, Resource)
}
_BY_KIND = {(resource.group, resource.version, resource.plural): resource for resource in ALL_RESOURCES}
_VERBS = {
    "get": ("get",),
    "list": ("list",),
    "watch": ("watch",),
    "apply": ("patch", "create"),
    "apply_status": ("patch",),
    "create": ("create",),
    "update": ("update",),
    "patch_merge": ("patch",),
    "delete": ("delete",),
}
# The door and its decorators pass on what others ask; a plugin of kubectl acts with its user's rights.
_NOT_ASKING = {"cluster.py", "cluster_api.py", "cluster_decorator.py", "metered.py", "kubectl.py", "feeds.py"}
_CLUSTERS = {"cluster", "reader", "writer", "inner"}


def _grants(rules: list[dict[str, Any]]) -> set[Grant]:
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def _granted(name: str) -> set[Grant]:
    text = (_CHART / "templates/_rbac.tpl").read_text()
    found = re.search(rf'define "metainf\.rules\.{name}" -}}}}\n(.*?){{{{- end }}}}', text, re.DOTALL)
    assert found is not None, name
    return _grants(yaml.safe_load(found.group(1)))


def _of_the_lease() -> set[Grant]:
    return {("coordination.k8s.io", "leases", verb) for verb in ("get", "update", "create")}


def _modules() -> Iterator[tuple[str, ast.Module]]:
    for file in sorted(_CODE.rglob("*.py")):
        if file.name not in _NOT_ASKING and "plugin" not in file.parts:
            yield file.name, ast.parse(file.read_text())


def _constants(node: ast.AST) -> set[Resource]:
    names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    return {_BY_CONSTANT[name] for name in names if name in _BY_CONSTANT}


def _receiver(function: ast.Attribute) -> str:
    value = function.value
    return value.attr if isinstance(value, ast.Attribute) else value.id if isinstance(value, ast.Name) else ""


def _asked(module: str, tree: ast.Module) -> set[Grant]:
    """Calls of the cluster's operations; where the kind is a variable, every kind that its function names."""
    found: set[Grant] = set()
    for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)):
        for call in (n for n in ast.walk(function) if isinstance(n, ast.Call) and n.args):
            if not isinstance(call.func, ast.Attribute) or call.func.attr not in _VERBS:
                continue
            kinds = _constants(call.args[0])
            if not kinds and _receiver(call.func) in _CLUSTERS:
                kinds = _constants(function)
                assert kinds, f"{module}:{call.lineno}: of which kind? name its constant in {function.name}"
            suffix = "/status" if call.func.attr == "apply_status" else ""
            found |= {(k.group, k.plural + suffix, verb) for k in kinds for verb in _VERBS[call.func.attr]}
    return found


def _fed(trees: Iterable[ast.Module]) -> set[Grant]:
    """Kinds that a `Feed` lists, and those whose feed is also watched by itself, wherever that is."""
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    by_name = {
        keyword.arg: kind
        for call in calls
        for keyword in call.keywords
        if isinstance(keyword.value, ast.Call) and getattr(keyword.value.func, "id", "") == "Feed"
        for kind in _constants(keyword.value.args[0])
    }
    listed = {(kind.group, kind.plural, "list") for kind in by_name.values()}
    watched = {
        (by_name[call.func.value.attr].group, by_name[call.func.value.attr].plural, "watch")
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "watch"
        and isinstance(call.func.value, ast.Attribute)
        and call.func.value.attr in by_name
    }
    return listed | watched


def _handled(tree: ast.Module) -> set[Grant]:
    """Kinds that kopf lists and watches for a handler."""
    found: set[Grant] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "event":
            names = tuple(argument.value for argument in node.args if isinstance(argument, ast.Constant))
            kind = _BY_KIND[names]  # type: ignore[index]
            found |= {(kind.group, kind.plural, "list"), (kind.group, kind.plural, "watch")}
    return found


def _called() -> set[Grant]:
    found = _fed(tree for _, tree in _modules())
    for name, tree in _modules():
        found |= _asked(name, tree)
        if name == "handlers.py":
            found |= _handled(tree)
    if "blockOwnerDeletion" in (_CODE / "children.py").read_text():
        found.add(("metainf.dev", "inferenceworkloads/finalizers", "update"))
    return found


def _is_of_the_cluster(grant: Grant) -> bool:
    group, resource, _ = grant
    plural = resource.partition("/")[0]
    return not next(r for r in ALL_RESOURCES if (r.group, r.plural) == (group, plural)).namespaced


def test_the_roles_allow_what_the_code_calls_and_nothing_else() -> None:
    granted = _granted("workloads") | _granted("inventory") | _of_the_lease()
    called = _called()
    assert sorted(called - granted) == [], "called, but not granted"
    assert sorted(granted - called) == [], "granted, but never called"


def test_the_code_is_searched_for_calls_and_not_passed_over() -> None:
    # A net with a hole would let the test above pass: these are calls of each way to make one.
    assert {
        ("apps", "deployments", "create"),  # server-side apply
        ("metainf.dev", "inferenceworkloads/status", "patch"),
        ("metainf.dev", "inferencedecisions", "watch"),  # a feed that is watched without kopf
        ("", "nodes", "watch"),  # a handler of kopf
        ("", "services", "get"),  # a kind in a variable
        ("events.k8s.io", "events", "create"),
        ("", "configmaps", "get"),
    } <= _called()


def test_rights_across_the_cluster_are_apart_from_those_in_a_namespace() -> None:
    assert not [grant for grant in _granted("workloads") if _is_of_the_cluster(grant)]
    # Pods of every namespace stand on the nodes and take their room.
    others = {grant for grant in _granted("inventory") if not _is_of_the_cluster(grant)}
    assert others == {("", "pods", "list"), ("", "pods", "watch")}


def test_no_role_has_a_wildcard_or_reads_secrets() -> None:
    for file in (_CHART / "templates").rglob("*"):
        if file.suffix in (".yaml", ".tpl"):
            text = file.read_text()
            assert not re.search(r"(verbs|resources|apiGroups): \[.*\*", text), file.name
            assert not re.search(r"resources:.*\bsecrets\b", text), file.name


def test_kopf_is_told_not_to_scan_since_nothing_is_granted_for_it() -> None:
    settings = "\n".join(file.read_text() for file in _CODE.rglob("*.py"))
    assert "settings.scanning.disabled = True" in settings
    assert "settings.posting.enabled = False" in settings
    assert "standalone=True" in settings
