"""A discrete-event simulator of vLLM's scheduler over tables of step times: truth where there is no GPU."""
