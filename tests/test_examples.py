"""The examples of crds/: each comes out as its own comment says, on the pools that lie beside it.

What a newcomer tries first. The predictor may get better and choose another method; what is asserted is the story.
"""

from decimal import Decimal
from pathlib import Path

import pytest

from metainf.binding_limits import BindingLimit
from metainf.known_models import known_model
from metainf.manifests import parse_pool, parse_workload, read_documents, standing_pool
from metainf.planning import Plan, outlooks, plan
from metainf.predictors.default import default_predictor
from metainf.selection import NoSelection, Selection

EXAMPLES = Path(__file__).resolve().parent.parent / "crds/examples"
POOLS = {"cpu": "acceleratorpool-cpu", "cpu-kind": "acceleratorpool-kind"}
CHOSEN = ("chat", "long-shared-prompt", "batch", "moe-8-gpus", "draft-model", "cpu", "cpu-kind")


def manifest(name):
    (found,) = read_documents((EXAMPLES / f"{name}.yaml").read_text(), name)
    return found


def planned(name, **spec) -> Plan:
    """The decision on an example, with fields of its spec replaced."""
    asked = manifest(name)
    workload = parse_workload({**asked, "spec": {**asked["spec"], **spec}})
    pools = POOLS.get(name, "acceleratorpools")
    return plan(
        workload,
        known_model(workload.model.id),
        revision=None,
        pools=tuple(
            standing_pool(parse_pool(m)) for m in read_documents((EXAMPLES / f"{pools}.yaml").read_text(), pools)
        ),
        predictor=default_predictor()[0],
        engine_version="0.32.0",
    )


def chosen(name, **spec):
    outcome = planned(name, **spec).outcome
    assert isinstance(outcome, Selection), outcome
    return outcome.chosen.candidate


def expected_tpot_s(made: Plan) -> float:
    (found,) = (each.expected for each in outlooks(made.chosen) if each.label.startswith("tpot"))
    return found


@pytest.mark.parametrize("name", (*CHOSEN, "budget-too-low"))
def test_the_model_of_each_example_needs_no_hub(name):
    assert known_model(manifest(name)["spec"]["model"]["id"]) is not None


@pytest.mark.parametrize("name", CHOSEN)
def test_each_example_but_one_is_chosen(name):
    assert isinstance(planned(name).outcome, Selection)


def test_the_chat_costs_so_little_that_a_switch_can_run_both_sides_within_its_budget():
    budget = Decimal(manifest("chat")["spec"]["budget"]["perHour"])
    here = chosen("chat")
    elsewhere = [
        planned("chat", placement={"pools": [pool]}).outcome
        for pool in ("h100", "l40s", "l40s-spot")
        if pool != here.option.pool.name
    ]
    others = [each.chosen.candidate for each in elsewhere if isinstance(each, Selection)]
    assert others, "no other pool keeps every limit: there is nowhere to switch to"
    halved = min(other.cost_per_hour for other in others) / 2
    assert here.cost_per_hour + halved < budget


def test_the_chat_is_refused_where_it_may_cost_less_than_the_cheapest_share_that_is_quick_enough():
    outcome = planned("chat", budget={"perHour": "3.00"}).outcome
    assert isinstance(outcome, NoSelection)
    assert outcome.limit is BindingLimit.BUDGET_TOO_LOW


def test_the_head_drafts_where_tokens_must_come_fast_and_without_it_nothing_is_as_fast():
    model = manifest("draft-model")["spec"]["model"]
    fast = planned("draft-model")
    without = planned("draft-model", model={name: model[name] for name in model if name != "draftModel"})
    assert fast.chosen.candidate.name.method == "eagle"
    assert model["draftModel"]["id"] in fast.argv[fast.argv.index("--speculative-config") + 1]
    assert expected_tpot_s(without) > 1.2 * expected_tpot_s(fast)


def test_the_shared_prompt_pays_because_its_prefixes_hit_the_cache():
    asked = manifest("long-shared-prompt")["spec"]["traffic"]
    alone = {key: value for key, value in asked.items() if key != "sharedPrefix"}
    assert "prefix-caching" in techniques(planned("long-shared-prompt"))
    without = planned("long-shared-prompt", traffic=alone).outcome
    assert (
        isinstance(without, NoSelection)
        or without.chosen.candidate.cost_per_hour > chosen("long-shared-prompt").cost_per_hour
    )


def techniques(made: Plan) -> set[str]:
    return {technique.value for technique in made.outcome.chosen.candidate.option.method.techniques}


def test_the_batch_takes_spot_nodes_and_lossy_techniques_and_is_done_for_less_than_its_total():
    made = planned("batch")
    assert made.outcome.chosen.candidate.option.pool.name == "l40s-spot"
    assert any("fp8" in name for name in techniques(made))


def test_the_batch_costs_more_where_spot_nodes_and_lossy_techniques_are_not_allowed():
    strict = planned("batch", methods={}, placement={}, budget={"total": "1000"}).outcome
    assert isinstance(strict, Selection)
    assert strict.chosen.objective_value > planned("batch").outcome.chosen.objective_value
    assert strict.chosen.candidate.option.pool.name != "l40s-spot"


def test_the_mixture_of_experts_takes_eight_accelerators_of_one_node():
    candidate = chosen("moe-8-gpus")
    assert candidate.option.request.accelerators == 8
    assert candidate.replicas == 1


def test_the_small_model_runs_without_an_accelerator():
    candidate = chosen("cpu")
    assert candidate.option.pool.is_cpu
    assert candidate.option.request.accelerators == 0


def test_the_wish_is_refused_and_the_budget_that_the_refusal_names_works():
    outcome = planned("budget-too-low").outcome
    assert isinstance(outcome, NoSelection)
    assert outcome.limit is BindingLimit.BUDGET_TOO_LOW
    enough = outcome.cheapest_budget.amount
    candidate = chosen("budget-too-low", budget={"perHour": str(enough)})
    assert candidate.cost_per_hour <= enough
    cent_less = planned("budget-too-low", budget={"perHour": str(enough - Decimal("0.01"))}).outcome
    assert isinstance(cent_less, NoSelection)
