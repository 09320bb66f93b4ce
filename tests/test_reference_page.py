"""What users may write and what conditions say stands in crds/README.md as the code has it."""

from pathlib import Path

import pytest

from metainf.methods import Method, Requirement, portfolio
from metainf.techniques import Technique
from metainf_operator.conditions import CONDITION_TYPES, REASONS

PAGE = (Path(__file__).parents[1] / "crds" / "README.md").read_text(encoding="utf-8")


def considered(method: Method) -> str:
    conditions = []
    if method.experimental:
        conditions.append("where methods.allow names it")
    if method.lossy:
        conditions.append("with `lossy: Allow`")
    if Requirement.DRAFT_MODEL in method.requires:
        conditions.append("with model.draftModel")
    if Requirement.MTP_LAYERS in method.requires:
        conditions.append("where the model has such layers")
    return ", ".join(conditions) or "always"


def method_rows() -> list[str]:
    return [f"| `{each.name}` | {each.summary} | {considered(each)} |" for each in portfolio()]


def technique_names() -> list[str]:
    return [f"`{each}`" for each in Technique]


def reason_rows() -> list[str]:
    return [f"| {reason} | {sentence} |" for reason, sentence in REASONS.items()]


@pytest.mark.parametrize("row", [*method_rows(), *reason_rows()])
def test_the_page_has_each_method_and_each_reason(row: str) -> None:
    assert PAGE.splitlines().count(row) == 1


def test_the_page_has_no_other_methods_and_reasons() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `") and not line.startswith("| `miw")]
    assert len([row for row in rows if row in method_rows()]) == len(portfolio())
    section = PAGE.partition("## Conditions")[2].partition("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| reason")]
    assert table == reason_rows()


def test_the_page_names_every_technique_and_condition() -> None:
    words = " ".join(PAGE.split())
    assert all(name in words for name in technique_names())
    assert all(name in words for name in CONDITION_TYPES)
