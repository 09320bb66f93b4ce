"""Which nodes of a pool a workload may use that asks for nodes with certain labels, and the pool as it sees it.

Separate from the inventory, whose pools are the same for everybody: nodes of one kind may stand in several zones, and a
selector that a part of them matches leaves that part. The pods carry the selector, so that they go nowhere else. What
others without one have reserved, and have no pods for yet, may come to take a node that is selected here: the `ledger`
says how that is counted.
"""

from collections.abc import Callable
from dataclasses import replace

from metainf.pools import NodePool
from metainf_operator.inventory import PoolRecord
from metainf_operator.projections import NodeFacts

__all__ = ["Labels", "Selector", "matching_nodes", "of_these_nodes", "selects"]

Labels = tuple[tuple[str, str], ...]
"""Labels of one node."""
Selector = tuple[tuple[str, str], ...]
"""Labels that a node must have, all of them."""


def selects(selector: Selector, labels: Labels) -> bool:
    """Whether a node with these labels is meant."""
    return set(selector).issubset(labels)


def matching_nodes(
    record: PoolRecord, selector: Selector, facts_of: Callable[[str], NodeFacts | None]
) -> frozenset[str] | None:
    """Names of the pool's nodes that have the labels; None where these set no part of the pool apart.

    Either all have them, those that may be added included, or none is known to: that pool stays whole, and lacks them.
    """
    asked = set(selector) - set(record.pool.labels)
    if not asked:
        return None
    known = ((name, facts_of(name)) for name in record.members)
    return frozenset(name for name, facts in known if facts is not None and asked.issubset(facts.labels)) or None


def of_these_nodes(pool: NodePool, selector: Selector, names: frozenset[str] | None) -> NodePool:
    """The pool with these of its nodes alone, which have the labels; as it is for None (`matching_nodes`).

    None of those that may be added counts: what is not known to have a label has it not.
    """
    if names is None:
        return pool
    nodes = tuple(node for node in pool.nodes if node.name in names)
    return replace(pool, nodes=nodes, addable_nodes=0, labels=tuple(sorted({*pool.labels, *selector})))
