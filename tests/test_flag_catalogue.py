"""The file that a version's flags are kept in: written in one way, and checked when it is read."""

import json
from importlib import resources

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metainf.engine_versions import flag_catalogue, known_engine_versions
from metainf.errors import ArtifactError, SchemaMismatchError
from metainf.flag_catalogue import (
    CATALOGUE_SCHEMA,
    CatalogueOrigin,
    FlagCatalogue,
    FlagKind,
    FlagSpec,
    catalogue_text,
    read_catalogue,
)

ORIGIN = CatalogueOrigin("0.99.0", "vllm 0.99.0", "vllm.cli.make_arg_parser", "cuda", "3.12")


def catalogue(*specs):
    return FlagCatalogue(ORIGIN, {spec.name: spec for spec in specs})


def document(**changes):
    text = catalogue_text(catalogue(FlagSpec("seed", FlagKind.INT, default=0)))
    return json.dumps(json.loads(text) | changes)


def flag(**entry):
    return document(flags={"seed": {"kind": "int"} | entry})


names = st.from_regex(r"[a-z]{1,8}(-[a-z0-9]{1,8}){0,3}", fullmatch=True)
values = st.one_of(st.none(), st.booleans(), st.integers(-9, 1 << 40), st.floats(allow_nan=False, allow_infinity=False))
defaults = st.one_of(values, st.text(), st.lists(st.one_of(st.text(), st.integers()), max_size=3).map(tuple))


@st.composite
def specs(draw):
    name, kind = draw(names), draw(st.sampled_from(FlagKind))
    return FlagSpec(
        name=name,
        kind=kind,
        negations=(f"--no-{name}",) if kind is FlagKind.SWITCH else (),
        default=draw(defaults),
        choices=tuple(draw(st.lists(st.text(), min_size=1, max_size=3))) if kind is FlagKind.CHOICE else (),
        folds_choices=draw(st.booleans()),
        group=draw(st.text()),
        config=draw(st.text()),
        nargs=draw(st.sampled_from(["", "+", "2"])),
        deprecated=draw(st.booleans()),
    )


@settings(deadline=None)
@given(st.lists(specs(), min_size=1, unique_by=lambda spec: spec.name.removeprefix("no-")))
def test_what_is_written_is_read_back(found):
    made = catalogue(*found)
    again = read_catalogue(catalogue_text(made))
    assert again.flags == made.flags
    assert [type(again.flags[n].default) for n in made.flags] == [type(made.flags[n].default) for n in made.flags]
    assert again.origin == made.origin


def test_the_same_flags_make_the_same_file_in_whatever_order_they_come():
    first, second = FlagSpec("b", FlagKind.STR), FlagSpec("a", FlagKind.SWITCH, negations=("--no-a",), default=False)
    text = catalogue_text(catalogue(first, second))
    assert text == catalogue_text(catalogue(second, first))
    assert text.splitlines()[-4:] == [
        '"a": {"default": false, "kind": "switch", "negations": ["--no-a"]},',
        '"b": {"kind": "str"}',
        "}",
        "}",
    ]


@pytest.mark.parametrize("version", known_engine_versions())
def test_the_files_that_are_kept_are_as_they_would_be_written(version):
    text = resources.files("metainf").joinpath("data", "flags", f"{version}.json").read_text(encoding="utf-8")
    assert catalogue_text(flag_catalogue(version)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "not JSON", id="nothing"),
        pytest.param("[" * 100_000, "not JSON", id="too deep"),
        pytest.param("[]", "format", id="a list"),
        pytest.param("{}", "format", id="another file"),
        pytest.param(document(engine=""), "engine", id="no version"),
        pytest.param(document(python=3.11), "python", id="a number for a text"),
        pytest.param(document(more=1), "'more' is not a field", id="a foreign field"),
        pytest.param(document(flags={}), "there are none", id="no flags"),
        pytest.param(document(flags=[]), "there are none", id="a list of flags"),
        pytest.param(document(flags={"": {"kind": "int"}}), "not the name", id="no name"),
        pytest.param(document(flags={"--x": {"kind": "int"}}), "not the name", id="dashes in the name"),
        pytest.param(document(flags={"x": 3}), "not the name", id="no object"),
        pytest.param(flag(kind="integer"), "'integer' is not a kind", id="no kind"),
        pytest.param(flag(kind=["int"]), "is not a kind", id="a list for a kind"),
        pytest.param(flag(help="text"), "'help' is not a field", id="a foreign field of a flag"),
        pytest.param(flag(kind="choice"), "a choice of nothing", id="no choices"),
        pytest.param(flag(kind="switch"), "0 negations", id="a switch that cannot be off"),
        pytest.param(flag(negations=["--no-seed"]), "1 negations", id="a number that can be off"),
        pytest.param(flag(aliases=["seed"]), "no dash", id="an alias without a dash"),
        pytest.param(flag(aliases="-s"), "not a list", id="a text for a list"),
        pytest.param(flag(choices=[1]), "no text", id="a number among choices"),
        pytest.param(flag(deprecated="yes"), "neither true nor false", id="a word for a truth"),
        pytest.param(flag(group=1), "group", id="a number for a group"),
        pytest.param(flag(default={"a": 1}), "default", id="an object for a default"),
        pytest.param(flag(default=[[1]]), "default", id="lists in a default"),
        pytest.param(
            document(flags={"a": {"kind": "int", "aliases": ["-x"]}, "b": {"kind": "int", "aliases": ["-x"]}}),
            "-x is both --a and --b",
            id="two flags of one spelling",
        ),
    ],
)
def test_a_file_that_cannot_be_right_is_refused(text, message):
    with pytest.raises(ArtifactError, match=message):
        read_catalogue(text)


def test_a_file_of_a_later_schema_is_told_from_a_broken_one():
    with pytest.raises(SchemaMismatchError, match=f"schema is {CATALOGUE_SCHEMA + 1}"):
        read_catalogue(document(schema=CATALOGUE_SCHEMA + 1))


def test_choices_may_be_written_in_another_case_where_the_parser_folds_them():
    plain = FlagSpec("moe-backend", FlagKind.CHOICE, choices=("deep_gemm",))
    folding = FlagSpec("moe-backend", FlagKind.CHOICE, choices=("deep_gemm",), folds_choices=True)
    assert [plain.takes(each) for each in ("deep_gemm", "Deep-Gemm", "deep")] == [True, False, False]
    assert [folding.takes(each) for each in ("deep_gemm", "Deep-Gemm", "deep")] == [True, True, False]
    assert FlagSpec("seed", FlagKind.INT).takes("anything")
