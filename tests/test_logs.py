"""Log lines: JSON for machines, plain for people, the same fields in both."""

import json
import logging
from collections.abc import Iterator

import pytest

from metainf_operator.logs import configure_logging
from metainf_operator.settings import LogFormat, LogLevel


@pytest.fixture(autouse=True)
def _root_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    noisy = [logging.getLogger(name) for name in ("kopf", "aiohttp", "asyncio", "urllib3", "huggingface_hub")]
    before = (root.handlers[:], root.level, [each.level for each in noisy])
    yield
    root.handlers[:], level, levels = before
    root.setLevel(level)
    for each, old in zip(noisy, levels, strict=True):
        each.setLevel(old)


def test_json_lines_hold_message_fields_and_exception(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogLevel.INFO, LogFormat.JSON)
    logger = logging.getLogger("metainf_operator.test")
    logger.info("selected %s", "it", extra={"workload": "team/chat", "cost": object})
    logger.debug("too quiet")
    try:
        raise ValueError("why")
    except ValueError:
        logger.exception("failed")
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (first["message"], first["level"], first["logger"]) == ("selected it", "info", "metainf_operator.test")
    assert (first["workload"], "object" in first["cost"]) == ("team/chat", True)
    assert first["time"].endswith("+00:00")
    assert "ValueError: why" in second["exception"]


def test_plain_lines_hold_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogLevel.DEBUG, LogFormat.PLAIN)
    logger = logging.getLogger("metainf_operator.test")
    logger.debug("one pass", extra={"workload": "team/chat", "k8s_skip": 1})
    try:
        raise ValueError("why")
    except ValueError:
        logger.exception("failed")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].endswith("debug   one pass  workload=team/chat")
    assert lines[-1] == "ValueError: why"


def test_clients_speak_only_of_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogLevel.DEBUG, LogFormat.PLAIN)
    logging.getLogger("kopf.something").info("chatter")
    logging.getLogger("kopf").warning("trouble")
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["trouble"]
