"""`kubectl metainf pools`: all pools that the operator chooses among, and what cannot be used.

Separate from AcceleratorPool's own status: most pools come from nodes alone and have no object to read.
"""

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import RenderableType
from rich.text import Text

from metainf.cli.console import Row, note, show, table
from metainf.manifests import format_money
from metainf.pools import Billing, CapacityType, NodePool, PriceSource
from metainf_operator.cluster_api import ClusterApi
from metainf_operator.inventory import Inventory, PoolRecord
from metainf_operator.ledger import WorkloadKey
from metainf_operator.plugin.inventory import read_world
from metainf_operator.world import World

__all__ = ["run"]

_NOBODY = WorkloadKey("", "")
_BOUGHT = {CapacityType.ON_DEMAND: "", CapacityType.SPOT: "spot", CapacityType.RESERVED: "reserved"}


async def run(args: argparse.Namespace, cluster: ClusterApi) -> int:
    """Print the table, and the problems under it."""
    world = await read_world(cluster, args.opencost_url, children=False)
    inventory = world.inventory
    free = {pool.name: pool for pool in world.pools_for(_NOBODY, datetime.now(UTC))}
    parts: list[RenderableType] = []
    if inventory.pools:
        rows = [_row(record, free[record.pool.name]) for record in inventory.pools]
        parts.append(_table(rows))
    else:
        note("no node with accelerators and no AcceleratorPool that can be used is there")
    problems = _problems(world, inventory)
    if problems:
        rows = [[Text(str(number), "yellow"), problem] for number, problem in enumerate(problems, start=1)]
        parts += [*([Text()] if parts else []), table(("", "Problem"), rows, fold=("Problem",))]
    show(parts)
    return 0


_COLUMNS = ("Pool", "A node has", "Bought", "Nodes", "Free", "A node/h", "Price from", "As of", "Object")
_SOURCES = {
    PriceSource.ACCELERATOR_POOL: "its object",
    PriceSource.ANNOTATION: "annotation",
    PriceSource.OPENCOST: "OpenCost",
    PriceSource.BUNDLED: "bundled list",
}


def _table(rows: Sequence[Row]) -> RenderableType:
    """The table without the columns that say nothing here."""
    empty = [i for i in range(len(_COLUMNS)) if not any(str(row[i]) for row in rows)]
    kept = [[cell for i, cell in enumerate(row) if i not in empty] for row in (_COLUMNS, *rows)]
    columns = [str(cell) for cell in kept[0]]
    return table(columns, kept[1:], right=("Nodes", "Free", "A node/h"), fold=("Pool",))


def _row(record: PoolRecord, free: NodePool) -> Row:
    pool = record.pool
    price = pool.price
    shown = Text("unknown", "red") if price is None else f"{format_money(price.per_hour)} {price.currency}"
    whole = ", whole nodes" if pool.billing is Billing.NODE else ""
    return [
        pool.name,
        _offer(pool),
        _BOUGHT[pool.capacity_type],
        _nodes(record),
        _free(pool, free),
        shown,
        "" if price is None else f"{_SOURCES[price.source]}{whole}",
        "" if price is None else (price.as_of or ""),
        "yes" if record.declared else "",
    ]


def _offer(pool: NodePool) -> str:
    if pool.is_cpu:
        return f"{pool.shape.cpu_cores:g} cores, {pool.accelerator.name}"
    return f"{pool.shape.accelerators} x {pool.accelerator.name}"


def _nodes(record: PoolRecord) -> str:
    """Those that can be used of those that are there, and those that may be added."""
    usable, there, addable = len(record.pool.nodes), len(record.members), record.pool.addable_nodes
    standing = str(there) if usable == there else f"{usable}/{there}"
    return f"{standing} +{addable}" if addable else standing


def _free(pool: NodePool, free: NodePool) -> Text:
    names = {node.name for node in pool.nodes}
    mine = [node for node in free.nodes if node.name in names]
    if pool.is_cpu:
        left, total = (sum(node.cpu_free_cores for node in nodes) for nodes in (mine, pool.nodes))
        return _share(f"{left:g}/{total:g} cores", left)
    left, total = (sum(node.accelerators_free for node in nodes) for nodes in (mine, pool.nodes))
    return _share(f"{left}/{total}", left)


def _share(text: str, left: float) -> Text:
    return Text(text, "" if left else "yellow")


def _problems(world: World, inventory: Inventory) -> Sequence[str]:
    """What cannot be used, each with a sentence."""
    found = [
        *(f"AcceleratorPool {state.name}: {state.error}" for state in world.pools.values() if state.error),
        *inventory.problems,
        *(f"pool {record.pool.name}: {problem}" for record in inventory.pools for problem in record.problems),
        *(
            f"AcceleratorPools {first} and {second} select some of the same nodes: they count for {first}"
            for first, second in inventory.overlapping
        ),
        *(
            f"pool {record.pool.name}: no price is known, so nothing is bought there: give one in an AcceleratorPool, "
            "or annotate its nodes with metainf.dev/cost-per-hour"
            for record in inventory.pools
            if record.pool.price is None
        ),
    ]
    return list(dict.fromkeys(found))
