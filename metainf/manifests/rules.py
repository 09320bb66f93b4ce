"""What single texts in the manifests must look like: the patterns and sentences of the CRDs, once more in Python.

Separate because files given to the command line meet no API server, and must be refused for the same reasons in the
same words. A test holds these against the CRDs.
"""

import re
from datetime import date
from decimal import Decimal

from metainf.manifests.reader import TextRule

__all__ = [
    "ABOVE_ZERO",
    "BURSTINESS",
    "CONFIDENCE",
    "CPU",
    "CURRENCY",
    "DATE",
    "DESCRIPTION",
    "DURATION",
    "DURATION_ABOVE_ZERO",
    "ENGINE_ARGUMENT",
    "ENGINE_VERSION",
    "GAIN",
    "IMAGE",
    "KEY",
    "LABEL_VALUE",
    "MEMORY",
    "METHOD",
    "MODEL_ID",
    "OBJECT_NAME",
    "POD_ANNOTATION",
    "POD_LABEL",
    "POOL",
    "POOL_NAME",
    "PRICE",
    "PRICE_SOURCE",
    "PRODUCT",
    "RATE",
    "RATIO",
    "REVISION",
    "SERVED_NAME",
    "TAINT_KEY",
    "TAINT_VALUE",
    "VOLUME_PATH",
    "WORKLOAD_NAME",
    "plain_text",
]

_ANY = re.compile(r".*", re.DOTALL)
_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")
_DURATION = re.compile(r"([0-9]{1,6}(\.[0-9]{1,3})?(ms|s|m|h))+")
_MEMORY = re.compile(r"[0-9]{1,9}(\.[0-9]{1,3})?(Mi|Gi|Ti|M|G|T)")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
_POOL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def _not_zero(text: str) -> bool:
    return re.search("[1-9]", text) is not None


def _above_zero(text: str) -> bool:
    return Decimal(text) > 0


def _is_path_within(text: str) -> bool:
    return not {".", ".."} & set(text.split("/"))


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def plain_text(max_length: int, what: str, *, min_length: int = 0) -> TextRule:
    """Any text of a bounded length."""
    least = " of at least one character" if min_length else ""
    return TextRule(f"write {what}{least}", _ANY, max_length, lambda text: len(text) >= min_length)


WORKLOAD_NAME = TextRule(
    "a workload's name has at most 40 lower-case letters, digits and '-', begins with a letter and ends with a letter "
    "or digit: Services and labels are made from it",
    re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?"),
    253,
)
POOL_NAME = TextRule(
    "a pool's name has at most 63 lower-case letters, digits and '-', and begins and ends with a letter or digit: "
    "labels are made from it",
    _POOL,
    253,
)
OBJECT_NAME = TextRule("write the name of an object: lower-case letters, digits, '-' and '.'", _NAME, 253)
KEY = TextRule("write a key: letters, digits, '-', '_' and '.'", re.compile(r"[-._a-zA-Z0-9]+"), 253)

MODEL_ID = TextRule(
    "write the model's id, such as Qwen/Qwen2.5-7B-Instruct: letters, digits, '-', '_', '.' and '/'",
    re.compile(r"[A-Za-z0-9_][-A-Za-z0-9._]*(/[A-Za-z0-9_][-A-Za-z0-9._]*)*"),
    256,
    lambda text: ".." not in text,
)
REVISION = TextRule(
    "write a branch, tag or commit: letters, digits, '-', '_', '.' and '/'",
    re.compile(r"[A-Za-z0-9][-A-Za-z0-9._/]*"),
    128,
)
SERVED_NAME = TextRule(
    "write a name that clients can send: letters, digits, '-', '_', '.', ':' and '/'",
    re.compile(r"[A-Za-z0-9][-A-Za-z0-9._:/]*"),
    128,
)
VOLUME_PATH = TextRule(
    "write a path within the volume, such as models/qwen: no '/' at either end, no '.' or '..'",
    re.compile(r"[-A-Za-z0-9._+@=]+(/[-A-Za-z0-9._+@=]+)*"),
    512,
    _is_path_within,
)

RATE = TextRule(
    'write a decimal number above zero, at most 9 digits and 6 decimals, without a unit, such as "4" or "0.25"',
    _DECIMAL,
    16,
    _above_zero,
)
ABOVE_ZERO = TextRule(
    'write a decimal number above zero, at most 9 digits and 6 decimals, without a unit, such as "6.00"',
    _DECIMAL,
    16,
    _above_zero,
)
RATIO = TextRule('write a decimal number between 0 and 1, such as "0.8"', _DECIMAL, 16, lambda text: Decimal(text) <= 1)
BURSTINESS = TextRule(
    'write a decimal number from 0 to 100, such as "1"', _DECIMAL, 16, lambda text: Decimal(text) <= 100
)
GAIN = TextRule('write a share as a decimal number, such as "0.1" for 10 %', _DECIMAL, 16)
CONFIDENCE = TextRule(
    'write a decimal number between 0.5 and 1, both excluded, such as "0.9"',
    _DECIMAL,
    16,
    lambda text: Decimal("0.5") < Decimal(text) < 1,
)
DURATION_ABOVE_ZERO = TextRule("write a duration above zero, such as 500ms, 2s or 1h30m", _DURATION, 16, _not_zero)
DURATION = TextRule("write a duration such as 0s, 500ms, 2s or 1h30m", _DURATION, 16)
CURRENCY = TextRule("write a currency as its three-letter code, such as USD", re.compile("[A-Z]{3}"), 3)
DESCRIPTION = plain_text(1024, "a sentence about the traffic")

METHOD = TextRule(
    "write the name of a method or technique: letters, digits, '-', '_', '.' and '+'",
    re.compile(r"[A-Za-z0-9][-A-Za-z0-9._+]*"),
    63,
)
POOL = TextRule("write the name of a pool: at most 63 lower-case letters, digits and '-'", _POOL, 63)
LABEL_VALUE = TextRule(
    "write a label's value: letters, digits, '-', '_' and '.', beginning and ending with a letter or digit",
    re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?"),
    63,
)
POD_LABEL = plain_text(63, "a label's value")
POD_ANNOTATION = plain_text(65536, "an annotation's value")
TAINT_KEY = plain_text(317, "a taint's key", min_length=1)
TAINT_VALUE = plain_text(63, "a taint's value")

IMAGE = TextRule("write an image such as vllm/vllm-openai:v0.32.0", re.compile(r"[A-Za-z0-9][-A-Za-z0-9._:/@]*"), 512)
ENGINE_VERSION = TextRule(
    "write a version of vLLM as three numbers, such as 0.32.0", re.compile(r"[0-9]+\.[0-9]+\.[0-9]+"), 32
)
ENGINE_ARGUMENT = plain_text(1024, "one argument of vllm serve", min_length=1)

PRODUCT = TextRule(
    "write a product as a node's label names it, such as NVIDIA-H100-80GB-HBM3",
    re.compile(r"[A-Za-z0-9][-A-Za-z0-9 ._+()/]*"),
    128,
)
MEMORY = TextRule("write an amount of memory with its unit, such as 80Gi or 81920Mi", _MEMORY, 16, _not_zero)
CPU = TextRule(
    "write CPU cores as 96 or 95500m, in quotation marks",
    re.compile(r"[0-9]{1,6}(\.[0-9]{1,3})?|[0-9]{1,9}m"),
    16,
    _not_zero,
)
PRICE = TextRule(
    'write a price above zero, without a unit, such as "27.45"; leave a price that is not known out',
    _DECIMAL,
    16,
    _above_zero,
)
PRICE_SOURCE = plain_text(256, "where the price is from")
DATE = TextRule('write a day such as "2026-10-01"', re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}"), 10, _is_day)
