"""A row of a real server as GPUStack publishes them, for tests of measured rows."""

from metainf.corpus.public_rows import PLAIN
from metainf.measurements import Measurement, Purpose, Source

GPUSTACK_ROW = Measurement(
    source=Source.GPUSTACK,
    source_version="1",
    world="",
    engine_version="0.11.0",
    task="",
    kind="batch",
    model="qwen3-8b",
    accelerator="H100-SXM-80GB",
    tensor_parallel=1,
    pipeline_parallel=1,
    data_parallel=1,
    expert_parallel=False,
    method=PLAIN,
    seed=0,
    purpose=Purpose.LOAD,
    batch_requests=1000,
    input_tokens=221.0,
    output_tokens=200.0,
    output_tokens_per_second=1000.0,
)
