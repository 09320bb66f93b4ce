"""Lists of module names, globs and regular expressions that spare modules from quantisation, or pick them.

Separate because it is text matching on input that anybody can write: it has its own limits. A checkpoint may list
thousands of names, so names and globs are sorted by layer once, and a regular expression that could take
exponential time is refused.
"""

import re
from collections.abc import Sequence
from fnmatch import translate

from metainf.errors import InvalidWorkloadError

__all__ = ["ModulePatterns"]

_LAYER = re.compile(r"^(?P<prefix>(?:[A-Za-z_]+\.)*)(?:layers|h)\.(?P<index>\d{1,6})(?:\.(?P<rest>.*))?$", re.DOTALL)
_TEXT_PREFIXES = frozenset(
    {"", "model", "model.decoder", "model.language_model", "language_model", "language_model.model"}
    | {"language_model.model.decoder", "backbone", "transformer", "gpt_neox", "model.model"}
)
_REPEATED_GROUP = re.compile(r"\)\s*[*+{]")
_AMBIGUOUS_SET = re.compile(r"\[\[|--|&&|~~|\|\|")  # Python warns of these: their meaning may change
_UNBOUNDED = re.compile(r"(?<!\\)[*+{]")
_MTP = re.compile(r"(?:^|[^a-z])mtp(?:[^a-z]|$)")
_MAX_REGEX_LENGTH = 300
_MAX_UNBOUNDED = 3
_MAX_REGEXES = 256
_FULL_NAMES = ("model.layers", "language_model.model.layers", "model.language_model.layers", "backbone.layers")


class ModulePatterns:
    """Answers whether a module of a layer is on a list of names, globs (`*`) and expressions (`re:`)."""

    def __init__(self, patterns: Sequence[str], owner: str) -> None:
        self._named: dict[int, set[str]] = {}
        self._globs: dict[int | None, list[re.Pattern[str]]] = {}
        self._anywhere: set[str] = set()
        self._regexes: list[re.Pattern[str]] = []
        self._patterns = tuple(patterns)
        self._reads_numbers = False
        self.names_mtp = any(_MTP.search(pattern) for pattern in self._patterns)
        for pattern in self._patterns:
            self._add(pattern, owner)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModulePatterns) and self._patterns == other._patterns

    def __hash__(self) -> int:
        return hash(self._patterns)

    def signature(self, index: int) -> object:
        """Equal for two layers about which the list says the same."""
        if self._reads_numbers or index in self._globs:
            return index
        return frozenset(self._named.get(index, ()))

    def match(self, index: int, name: str) -> bool:
        """Whether the module `name` of the layer at `index` is on the list."""
        if not self._patterns:
            return False
        named = self._named.get(index)
        if named is not None and any(prefix in named for prefix in _prefixes(name)):
            return True
        if self._anywhere and any(part in self._anywhere for part in _runs(name)):
            return True
        globs = (*self._globs.get(index, ()), *self._globs.get(None, ()))
        if any(glob.match(f"layers.{index}.{name}") for glob in globs):
            return True
        return any(regex.match(f"{full}.{index}.{name}") for regex in self._regexes for full in _FULL_NAMES)

    def _add(self, pattern: str, owner: str) -> None:
        if pattern.startswith("re:"):
            if len(self._regexes) == _MAX_REGEXES:
                raise InvalidWorkloadError(f"{owner}: more than {_MAX_REGEXES} module patterns are expressions")
            self._regexes.append(_compiled(pattern.removeprefix("re:"), owner))
            self._reads_numbers |= re.search(r"\d", pattern) is not None
            return
        found = _LAYER.match(pattern)
        if found is None:
            self._add_without_layer(pattern)
            return
        if found["prefix"].rstrip(".") not in _TEXT_PREFIXES:
            return
        index, rest = int(found["index"]), found["rest"] or ""
        if "*" in rest:
            self._globs.setdefault(index, []).append(re.compile(translate(f"layers.{index}.{rest}*")))
        else:
            self._named.setdefault(index, set()).add(rest)

    def _add_without_layer(self, pattern: str) -> None:
        if "*" not in pattern:
            self._anywhere.add(pattern)
            return
        head, found, tail = pattern.partition("layers.")
        if found and head.rstrip(".*") not in _TEXT_PREFIXES:
            return
        self._reads_numbers |= re.search(r"\d", tail) is not None
        glob = f"layers.{tail}" if found else pattern
        exact, below = translate(glob), translate(glob + ".*")
        self._globs.setdefault(None, []).extend((re.compile(exact), re.compile(below)))


def _prefixes(name: str) -> list[str]:
    parts = name.split(".")
    return ["", *(".".join(parts[: end + 1]) for end in range(len(parts)))]


def _runs(name: str) -> list[str]:
    parts = name.split(".")
    ends = range(len(parts))
    return [".".join(parts[start : end + 1]) for start in ends for end in ends if end >= start]


def _compiled(expression: str, owner: str) -> re.Pattern[str]:
    too_complex = (
        len(expression) > _MAX_REGEX_LENGTH
        or _REPEATED_GROUP.search(expression) is not None
        or len(_UNBOUNDED.findall(expression)) > _MAX_UNBOUNDED
        or _AMBIGUOUS_SET.search(expression) is not None
        or "(?" in expression.replace("(?:", "").replace("(?!", "")
    )
    if too_complex:
        raise InvalidWorkloadError(f"{owner}: module pattern {expression[:80]!r} is too complex to be evaluated")
    try:
        return re.compile(expression)
    except (re.error, OverflowError, RecursionError) as exc:
        raise InvalidWorkloadError(f"{owner}: module pattern {expression[:80]!r} is not valid: {exc}") from exc
