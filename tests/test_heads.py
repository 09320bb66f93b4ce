"""Heads that draft: for how long a context they are made, and where that keeps them from drafting."""

import pytest

from choices import VERSION, architecture, device, pool, workload
from metainf.accelerators import Accelerator
from metainf.candidates import enumerate_candidates
from metainf.conflicts import ConflictReason
from metainf.heads import head_conflicts, head_context_tokens
from metainf.settings import Speculation, SpeculationKind
from metainf.workload import MethodLimits

H100, CPU = device("H100-SXM-80GB"), device("CPU-x86-64")
EAGLE = Speculation(SpeculationKind.EAGLE, 3)


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        pytest.param({"max_position_embeddings": 2048}, 2048, id="as EAGLE's authors write it"),
        pytest.param({"transformer_layer_config": {"max_position_embeddings": 40960}}, 40960, id="as speculators do"),
        pytest.param(
            {"max_position_embeddings": 8192, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
            8192,
            id="a scaling that is in the figure",
        ),
        pytest.param(
            {"max_position_embeddings": 8192, "rope_scaling": {"type": "yarn", "factor": 4.0}}, None, id="stretched"
        ),
        pytest.param({}, None, id="not said"),
        pytest.param({"max_position_embeddings": "2048"}, None, id="no number"),
        pytest.param({"max_position_embeddings": True}, None, id="nor this"),
        pytest.param({"transformer_layer_config": [2048]}, None, id="another shape"),
    ],
)
def test_a_heads_config_says_for_how_many_positions_it_is_made(config: dict[str, object], tokens: int | None) -> None:
    assert head_context_tokens(config) == tokens


@pytest.mark.parametrize(
    ("speculation", "context", "longest", "accelerator", "version", "conflicts"),
    [
        pytest.param(EAGLE, 2048, 3000, H100, "0.28.0", True, id="longer requests, the first runner"),
        pytest.param(EAGLE, 2048, 3000, H100, "0.30.0", False, id="longer requests, the second runner"),
        pytest.param(EAGLE, 2048, 3000, CPU, "0.32.0", True, id="longer requests, on a CPU"),
        pytest.param(EAGLE, 2048, 2045, H100, "0.28.0", False, id="just as long, with its drafts"),
        pytest.param(EAGLE, 2048, 2046, H100, "0.28.0", True, id="one more"),
        pytest.param(EAGLE, None, 3000, H100, "0.28.0", False, id="its context is not known"),
        pytest.param(Speculation(SpeculationKind.NGRAM, 4), 2048, 3000, H100, "0.28.0", False, id="no head"),
        pytest.param(None, 2048, 3000, H100, "0.28.0", False, id="nothing drafts"),
    ],
)
def test_a_head_drafts_for_nobody_beyond_its_context_where_the_runner_says_so(
    speculation: Speculation | None,
    context: int | None,
    longest: float,
    accelerator: Accelerator,
    version: str,
    conflicts: bool,
) -> None:
    found = head_conflicts(speculation, context, longest, accelerator, version)
    assert [each.reason for each in found] == [ConflictReason.SPECULATION_CONFLICT] * conflicts


@pytest.mark.parametrize(("version", "speculates"), [("0.28.0", False), (VERSION, True)])
def test_a_method_whose_head_would_not_draft_is_no_candidate(version: str, speculates: bool) -> None:
    asked = workload(methods=MethodLimits(), lengths=(3000, 500), draft_model=True, draft_context_tokens=2048)
    found = enumerate_candidates(asked, architecture(), [pool()], engine_version=version)
    assert ("eagle" in {candidate.name.method for candidate in found.candidates}) is speculates
    said = {rejection.detail for rejection in found.rejections if rejection.method == "eagle"}
    assert any("is made for 2048 tokens, requests reach 3500" in detail for detail in said) is not speculates
