"""Reads pools from a file of AcceleratorPool manifests.

Separate because it stands in for the cluster: an installation that may not read nodes has no other pools. Reading is
all that it does; when, and that pools stay where the file is no good, is up to the runtime.
"""

from pathlib import Path

import yaml

from metainf.errors import InvalidWorkloadError
from metainf.manifests import parse_pool, standing_pool
from metainf.pools import NodePool

__all__ = ["read_pools_file"]


def read_pools_file(path: Path) -> tuple[NodePool, ...]:
    """Pools from a file of AcceleratorPool manifests, for an installation that may not read nodes.

    Raises
    ------
    InvalidWorkloadError
        The file is no YAML, or a manifest in it is wrong.
    """
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise InvalidWorkloadError(f"reading pools from {path}: {exc}") from exc
    return tuple(standing_pool(parse_pool(document)) for document in documents if document is not None)
