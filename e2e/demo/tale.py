"""What the demo tells, act by act: each changes one thing, and waits until what is to come of it came.

Separate from how it is shown and from the cluster that it is played on. Prices and budgets that it sets are read off
the records that MetaInf wrote, so that the tale holds when the predictor learns.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from e2e.cluster.fake_nodes import COST_ANNOTATION
from e2e.demo.fleet import FLEET, kind_of_pool, told
from e2e.demo.sights import Rollout, Sight
from e2e.demo.stage import Stage, TaleError

__all__ = ["EXAMPLES", "Seen", "play"]

EXAMPLES = Path(__file__).resolve().parents[2] / "crds" / "examples"
_ORDER = ("chat", "long-shared-prompt", "batch", "cpu", "moe-8-gpus", "budget-too-low")
_OUTCOMES = {
    "chat": ("True", "Serving"),
    "handbook": ("True", "Serving"),
    "nightly-labels": ("True", "Serving"),
    "mail-subjects": ("True", "Serving"),
    "assistants": ("Unknown", "AwaitingApproval"),
    "wishful": ("False", "BudgetTooLow"),
}
"""Ready and its reason, by workload."""
_CHEAPER_BY = Decimal("0.45")


@dataclass(frozen=True, slots=True)
class Seen:
    """What came true, for the summary."""

    before: tuple[Sight, ...]
    moved_from: Sight
    moved_to: Sight
    refused: str
    budget: str
    accepted: Sight


def play(stage: Stage) -> Seen:
    """All acts. TaleError: one did not come true."""
    stage.order = tuple(_OUTCOMES)
    _show_pools(stage)
    before = _apply_examples(stage)
    stage.screen.pause()
    moved_from, moved_to = _drop_a_price(stage, "chat")
    stage.screen.pause()
    refused, budget, accepted = _raise_a_budget(stage, "wishful")
    return Seen(before, moved_from, moved_to, refused, budget, accepted)


def _show_pools(stage: Stage) -> None:
    stage.screen.say("\n1. Five pools of five clouds, and CPUs: what their nodes tell", "bold")
    stage.kube.apply(yaml.safe_load((EXAMPLES / "acceleratorpool-cpu.yaml").read_text()))
    by_name = {node["metadata"]["name"]: node for node in stage.kube.list("Node")}
    rows = [(f"{kind.count} x {kind.name}", kind.where, *told(by_name[kind.node_names[0]])) for kind in FLEET]
    stage.screen.table(("Nodes", "Where", "Accelerator", "Price or type"), rows)
    stage.screen.say("AWS prices are in the list that MetaInf ships; the CPU pool's is in its AcceleratorPool.", "dim")


def _apply_examples(stage: Stage) -> tuple[Sight, ...]:
    with stage.screen.act("2. The examples of crds/examples"):
        for name in _ORDER:
            stage.kube.apply(yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text()))
            stage.screen.step(f"kubectl apply -f crds/examples/{name}.yaml")
        for name, (ready, reason) in _OUTCOMES.items():
            stage.until(f"{name} to be {ready}/{reason}", partial(stage.is_so, name, ready, reason))
        stage.screen.look(stage.sights())
    return tuple(stage.sights())


def _drop_a_price(stage: Stage, name: str) -> tuple[Sight, Sight]:
    before, record = stage.sight(name), stage.decision(name)
    other = _runner_up_elsewhere(record)
    pool = other["pool"]
    price = next(p for p in record["spec"]["prices"] if p["pool"] == pool)
    now = Decimal(price["perHour"])
    wished = before.cost_per_hour * (1 - _CHEAPER_BY) / Decimal(other["costPerHour"])
    then = max(Decimal(1), (now * wished).quantize(Decimal(1)))
    with stage.screen.act(f"3. A price falls: {pool} from {now.normalize():f} to {then} USD/h a node"):
        stage.screen.say(
            f"{name} runs on {before.pool} for {before.cost}/h. Its record has as a runner-up {other['method']} "
            f"{other['layoutName']} on {pool} for {other['costPerHour']} USD/h."
        )
        for node in kind_of_pool(pool).node_names:
            annotations = {COST_ANNOTATION: str(then)}
            stage.kube.patch("Node", node, {"metadata": {"annotations": annotations}})
        stage.screen.step(f"kubectl annotate node {kind_of_pool(pool).name}-... {COST_ANNOTATION}={then} --overwrite")
        stage.until("the cooldown to hold chat back", lambda: _held_back(stage, name))
        stage.screen.step(f"{name} is kept: {stage.condition(name, 'Decided')['message']}")
        stage.screen.pause()
        stage.kube.patch("InferenceWorkload", name, {"spec": {"policy": {"cooldown": "0s"}}})
        stage.screen.step(f"kubectl patch miw {name}: spec.policy.cooldown 0s, so that nobody has to wait half an hour")
        after = _watch_the_switch(stage, name, before, pool)
    return before, after


def _runner_up_elsewhere(record: dict[str, Any]) -> dict[str, Any]:
    """The best alternative on another pool that keeps every limit."""
    chosen = record["spec"]["chosen"]["pool"]
    for each in record["spec"].get("alternatives", ()):
        if each["pool"] != chosen and each["verdict"].startswith("keeps every limit"):
            return dict(each)
    name = record["metadata"]["name"]
    raise TaleError(f"no runner-up of {name} on another pool than {chosen} keeps every limit: whose price is to fall?")


def _held_back(stage: Stage, name: str) -> str:
    decided = stage.condition(name, "Decided")
    if decided.get("reason") == "Kept" and "cooldown" in decided["message"]:
        return ""
    return f"Decided says {decided.get('reason')}: {decided.get('message')}"


def _watch_the_switch(stage: Stage, name: str, before: Sight, pool: str) -> Sight:
    steps: list[Rollout] = []
    decisions = [before.decision]

    def moved() -> str:
        now, seen = stage.rollout(name), stage.sight(name)
        if seen.decision and seen.decision != decisions[-1]:
            decisions.append(seen.decision)
            stage.screen.step(f"decision {seen.decision} takes the place of {before.decision}")
        if now.reason and now not in steps[-1:]:
            steps.append(now)
            stage.screen.step(now.sentence())
        done = seen.pool == pool and (seen.ready, seen.reason) == ("True", "Serving") and len(now.sides) == 1
        return "" if done else f"{now.sentence()} ({seen.why})"

    stage.until(f"{name} to serve from {pool}", moved, within_s=60)
    _check_the_switch(stage, steps, before)
    return stage.sight(name)


def _check_the_switch(stage: Stage, steps: list[Rollout], before: Sight) -> None:
    """The promise of a switch: both sides stood at once, and the Service never sent to a side without a replica."""
    if not any(len(step.sides) == 2 for step in steps):
        raise TaleError("the switch had no moment with the old side and the new one standing")
    for step in steps:
        ready = {candidate: count for candidate, count, _ in step.sides}
        if len(step.sides) == 2 and ready.get(step.serving, 0) == 0:
            raise TaleError(f"the Service sent to a side that was not ready: {step.sentence()}")
    phase = stage.kube.get("InferenceDecision", before.decision).get("status", {}).get("phase")
    if phase != "Superseded":
        raise TaleError(f"decision {before.decision} is {phase}, not Superseded")
    stage.screen.step(f"decision {before.decision} is {phase}")


def _budget_that_works(refused: Sight) -> str:
    """What the cheapest candidate costs at today's prices, as the condition's message has it.

    Not from the refusal's record: that is of the prices at which it was first refused.
    """
    found = re.search(r"costs ([0-9.]+) USD/h; the budget is", refused.why)
    if found is None:
        raise TaleError(f"the refusal of {refused.name} names no budget that would work: {refused.why}")
    return found[1]


def _raise_a_budget(stage: Stage, name: str) -> tuple[str, str, Sight]:
    with stage.screen.act(f"4. A budget too low, and the one that works: {name}"):
        refused = stage.sight(name)
        stage.screen.step(f"{name} {refused.ready}/{refused.reason}: {refused.why}")
        per_hour = _budget_that_works(refused)
        stage.kube.patch("InferenceWorkload", name, {"spec": {"budget": {"perHour": per_hour}}})
        stage.screen.step(f"kubectl patch miw {name}: spec.budget.perHour {per_hour}")
        stage.until(f"{name} to be accepted", lambda: stage.is_so(name, "True", "Serving"))
        accepted = stage.sight(name)
        if accepted.cost_per_hour > Decimal(per_hour):
            raise TaleError(f"{name} costs {accepted.cost}/h, above its budget of {per_hour} USD/h")
        stage.screen.look(stage.sights())
    return refused.why, per_hour, accepted
