"""A discrete-event simulator of vLLM's scheduler over tables of step times: truth where there is no GPU."""

from metainf.simulator.contract import EngineModel, HostTimes, KvGroup, Requests, SimulationResult, StepTimes
from metainf.simulator.engine import simulate

__all__ = ["EngineModel", "HostTimes", "KvGroup", "Requests", "SimulationResult", "StepTimes", "simulate"]
