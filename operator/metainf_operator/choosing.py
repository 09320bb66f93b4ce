"""Asks the selection for a plan, off the event loop.

Separate from the pass, which may ask twice, by other traffic: here what a user got wrong becomes the trouble that the
pass reports.
"""

import asyncio
from collections.abc import Sequence

from metainf.errors import InvalidWorkloadError, OverridesDecisionError
from metainf.planning import Plan, plan
from metainf.pools import NodePool
from metainf.predictors.contract import Predictor
from metainf_operator.conditions import Fault
from metainf_operator.understanding import TroubleError, Understood
from metainf_operator.world import DecisionState

__all__ = ["planned"]


async def planned(
    understood: Understood,
    *,
    pools: Sequence[NodePool],
    revision: str | None,
    active: DecisionState | None,
    predictor: Predictor,
    engine_version: str,
) -> Plan:
    """What would be decided now, given what is free in the pools and what is in force.

    Raises
    ------
    TroubleError
        The spec names a method or an argument that the engine's version does not know, or would undo the decision.
    """
    try:
        return await asyncio.to_thread(
            plan,
            understood.workload,
            understood.model.architecture,
            revision=revision,
            pools=pools,
            predictor=predictor,
            engine_version=engine_version,
            pinned=understood.pinned,
            current=None if active is None else active.head.choice,
            observed=understood.observed,
        )
    except OverridesDecisionError as exc:
        raise TroubleError(Fault.OVERRIDES_DECISION, str(exc), None) from exc
    except InvalidWorkloadError as exc:
        raise TroubleError(Fault.INVALID_SPEC, str(exc), None) from exc
