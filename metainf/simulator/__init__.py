"""A discrete-event simulator of vLLM's scheduler over tables of step times: truth where there is no GPU.

`simulate` plays requests through the V1 engine of vLLM 0.32.0; `builder.engine_model` says what a replica's engine is.
Compiled when first called, which takes half a minute, and kept on disk from then on.

What is simpler than in vLLM:

- Ranks are chosen by what they have to do now; vLLM's counts are up to 100 ms old.
- An asynchronous engine's tokens are at the frontend when the next step ends, and requests join the next step. In vLLM
  tokens come out at once and requests join the step after the next: the same time to the first token under load.
  Whoever finds the engine idle is served at once there, and so here.
- Without `same_step_hits` two cold requests of one prefix that start in one step both compute it. vLLM lets the second
  hit what the step computes for the first where all layers are attention.
- A recurrent state takes one block and one for each draft; that it is kept at the end of a cached prefix costs no block
  of its own. Windows keep all of a shared prefix until it is evicted, so that the second request with it hits (in vLLM,
  which keeps the last boundary of each prompt and where it has seen two part, the third).
- The prefix cache is empty at first, or as earlier traffic of one request at a time has left it (`warm_cache`).
- Prompts of models with recurrent states are not cut at the boundaries of the blocks that these are kept for.
- Chunked local attention counts as a window. Copying to host memory takes no time, only copying back.
"""

from metainf.simulator.contract import (
    EarlierTraffic,
    EngineModel,
    HostTimes,
    KvGroup,
    Requests,
    SimulationResult,
    StepTimes,
)
from metainf.simulator.engine import simulate

__all__ = [
    "EarlierTraffic",
    "EngineModel",
    "HostTimes",
    "KvGroup",
    "Requests",
    "SimulationResult",
    "StepTimes",
    "simulate",
]
