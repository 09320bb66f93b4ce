"""Arguments that a user adds are those that the engine's own version takes; what it lacks is told with what it has."""

import pytest

from e2e.story import Story, workload

pytestmark = pytest.mark.e2e


def _arguments(story: Story) -> list[str]:
    (deployment,) = story.deployments("chat")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return list(container["args"])


def test_a_flag_that_is_none_is_told_with_the_nearest_and_serves_once_it_is_put_right(story: Story) -> None:
    story.node("l4", "3.40")
    story.apply(workload(engine={"extraArgs": ["--enforce-eagre"]}))
    message = story.says("chat", "Accepted", "False", "InvalidSpec")["message"]
    assert "spec.engine.extraArgs" in message
    assert "vLLM 0.32.0 has no flag --enforce-eagre; did you mean --enforce-eager?" in message
    assert story.condition("chat", "Ready")["reason"] == "InvalidSpec"
    assert story.deployments("chat") == []
    story.change("chat", engine={"extraArgs": ["--enforce-eager"]})
    story.ready("chat")
    assert _arguments(story)[-1] == "--enforce-eager"


def test_a_flag_that_came_later_is_told_with_the_versions_that_have_it_and_works_in_one(story: Story) -> None:
    story.node("l4", "3.40")
    story.apply(workload(engine={"version": "0.28.0", "extraArgs": ["--sse-keep-alive-interval=5"]}))
    message = story.says("chat", "Accepted", "False", "InvalidSpec")["message"]
    assert "vLLM 0.28.0 has no flag --sse-keep-alive-interval; 0.30.0 and 0.32.0 have it" in message
    story.change("chat", engine={"version": "0.30.0"})
    story.ready("chat")
    assert _arguments(story)[-1] == "--sse-keep-alive-interval=5"


def test_a_version_without_a_catalogue_serves_by_the_one_before_it_and_that_is_said(story: Story) -> None:
    story.node("l4", "3.40")
    story.apply(workload(engine={"version": "0.31.0"}))
    story.ready("chat")
    message = story.condition("chat", "Accepted")["message"]
    assert message.endswith("the flags of vLLM 0.31.0 are not catalogued: those of 0.30.0 are taken for them")
    (deployment,) = story.deployments("chat")
    assert deployment["spec"]["template"]["spec"]["containers"][0]["image"].endswith(":v0.31.0")


def test_a_version_older_than_all_that_are_known_is_not_accepted_and_what_runs_is_kept(story: Story) -> None:
    story.node("l4", "3.40")
    story.apply(workload())
    story.ready("chat")
    before = _arguments(story)
    story.change("chat", engine={"version": "0.20.0"})
    message = story.says("chat", "Accepted", "False", "InvalidSpec")["message"]
    assert "vLLM 0.20.0 is not known here" in message and "0.28.0, 0.30.0, 0.32.0" in message
    assert _arguments(story) == before
    story.change("chat", engine={"version": None})
    story.ready("chat")


def test_an_argument_that_would_undo_the_decision_has_a_reason_of_its_own(story: Story) -> None:
    story.node("l4", "3.40")
    story.apply(workload(engine={"extraArgs": ["--max-num-seqs=4"]}))
    message = story.says("chat", "Accepted", "False", "OverridesDecision")["message"]
    assert "--max-num-seqs may not be given: it is part of the method" in message
