"""Manifests from YAML or JSON text, read as `kubectl` reads them.

Separate because the command line and an operator with mounted files read the same documents, and plain YAML loading
differs in two ways that hurt here: days become dates (`kubectl` keeps them as text) and a repeated key silently wins.
"""

from collections.abc import Iterator, Mapping

import yaml

from metainf.errors import InvalidWorkloadError

__all__ = ["read_documents"]


class _Loader(yaml.SafeLoader):
    """Safe loading without dates and without repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        """The mapping, refused where a key stands twice."""
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value} stands here twice: remove one", key.start_mark
                    )
                seen.add(key.value)
        return dict(super().construct_mapping(node, deep))


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_documents(text: str, source: str) -> tuple[Mapping[str, object], ...]:
    """Every object in the text; a List (as `kubectl get -o yaml` writes it) counts as its items.

    Raises
    ------
    InvalidWorkloadError
        The text is no YAML, or a document is not an object. `source` names the file in the message.
    """
    try:
        documents = list(yaml.load_all(text, Loader=_Loader))
    except (yaml.YAMLError, RecursionError, ValueError, TypeError) as error:
        raise InvalidWorkloadError(f"{source}: reading YAML: {_first_line(error)}") from error
    return tuple(item for document in documents if document is not None for item in _objects(document, source))


def _first_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).partition("\n")[0] or type(error).__name__
    return str(problem) if mark is None else f"line {mark.line + 1}: {problem}"


def _objects(document: object, source: str) -> Iterator[Mapping[str, object]]:
    if not isinstance(document, Mapping):
        raise InvalidWorkloadError(f"{source}: each document is an object with apiVersion, kind and spec")
    items = document.get("items")
    if isinstance(items, list) and str(document.get("kind", "")).endswith("List"):
        for item in items:
            yield from _objects(item, source)
    else:
        yield document
