"""What the command line says of itself: every option has a sentence, and the examples are commands that it takes."""

import argparse
import json
import shlex
from collections.abc import Iterator

import pytest

from metainf import cli

COMMANDS = ("bench", "corpus", "evaluate", "flags", "plan", "predict", "train")


def parsers(command: str) -> Iterator[argparse.ArgumentParser]:
    """The parser of a command and those of its actions."""
    waiting = [_subparsers(cli._parser(command)[0])[command]]
    while waiting:
        parser = waiting.pop()
        yield parser
        waiting += _subparsers(parser).values()


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= action.choices
    return found


def examples(parser: argparse.ArgumentParser) -> list[list[str]]:
    """The commands of a parser's epilog that stand alone, as words."""
    text = (parser.epilog or "").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines()]
    return [shlex.split(line.partition("#")[0].partition(">")[0]) for line in lines if line.startswith("metainf ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_a_sentence(command: str) -> None:
    for parser in parsers(command):
        for action in parser._actions:
            if not isinstance(action, argparse._SubParsersAction):
                assert action.help, f"{parser.prog} {action.option_strings or action.dest}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_number_says_what_it_counts(command: str) -> None:
    for parser in parsers(command):
        for action in parser._actions:
            if action.type in (int, float):
                assert action.metavar, f"{parser.prog} {action.option_strings}"


@pytest.mark.parametrize("command", ["plan", "predict"])
def test_the_examples_are_commands_that_it_takes(command: str) -> None:
    (parser,) = parsers(command)
    found = examples(parser)
    assert len(found) >= 2
    for words in found:
        whole, _ = cli._parser(command)
        assert whole.parse_args(words[1:]).command == command


def test_the_first_example_of_predict_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    (parser,) = parsers("predict")
    assert cli.main(examples(parser)[0][1:]) == 0
    assert json.loads(capsys.readouterr().out)["ttft"]["p95"] > 0


def test_the_line_of_a_batch_that_help_shows_is_answered() -> None:
    from metainf.cli.predict import answers
    from metainf.predictors.analytical import AnalyticalPredictor

    (parser,) = parsers("predict")
    shown = (parser.epilog or "").partition("instead of strings:")[2].partition("\n\n")[0]
    (found,) = answers([" ".join(shown.split())], AnalyticalPredictor(), 0.9)
    assert "error" not in found
