"""What keeps a pod of ours from serving, in a word and a sentence: no image, no model, too little memory, a crash.

Separate from `projections`, which keeps what a pod takes of its node: this reads what the kubelet and the engine say of
a start that failed, texts that are nobody's contract, so whatever is odd in them must end here. Without it each of
these would look like a slow start until the time to start is over.
"""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from metainf_operator.children import ENGINE_CONTAINER, LABEL_SERVING
from metainf_operator.quantities import quantity_or_none
from metainf_operator.rollout import PodTrouble, Stage

__all__ = ["pod_trouble"]

_MODEL_VOLUME = "model"
_CAUSE_CHARS = 300

# Source: kubernetes v1.37.2 pkg/kubelet/images/types.go.
_NO_IMAGE = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError",
             "RegistryUnavailable", "SignatureValidationFailed")  # fmt: skip
# Source: kubernetes v1.37.2 pkg/kubelet/kuberuntime/kuberuntime_container.go; containerd's CRI says StartError.
_NO_START = ("CreateContainerConfigError", "CreateContainerError", "PreCreateHookError", "PreStartHookError",
             "RunContainerError", "StartError", "ContainerCannotRun")  # fmt: skip
# What vLLM 0.32.0, transformers 5.19 and huggingface_hub 2.4 say of a model that is not there or not given to us.
_NO_MODEL = re.compile(
    r"RepositoryNotFoundError|RevisionNotFoundError|GatedRepoError|LocalEntryNotFoundError|HFValidationError"
    r"|not a valid model identifier|is not a local folder|does not appear to have a file named"
    r"|Invalid repository ID or local directory|Can't load the configuration of"
)
_ERROR_LINE = re.compile(r"(?:^|\s|\])((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception)): ?(.+)$")
_SYMPTOM = "Engine core initialization failed"  # of vLLM's first process: the reason stands above it
_SIGNALLED = (130, 137, 143)
"""SIGKILL and SIGTERM, and what vLLM 0.32.0 makes of the latter while it starts."""
_CACHE_FLAG = "--kv-cache-memory-bytes"
_SPECULATION_FLAG = "--speculative-config"
_SIZES = {"K": "Ki", "M": "Mi", "G": "Gi", "T": "Ti", "k": "k", "m": "M", "g": "G", "t": "T"}


def pod_trouble(body: Mapping[str, Any]) -> PodTrouble | None:
    """Why a pod of ours does not serve; None for one that is ready, just starts, or is on its way out."""
    metadata = body["metadata"]
    if metadata.get("deletionTimestamp"):
        return None
    found = _trouble(str(metadata.get("name", "")), body.get("spec") or {}, body.get("status") or {})
    return None if found is None else replace(found, serving=(metadata.get("labels") or {}).get(LABEL_SERVING, ""))


def _trouble(name: str, spec: Mapping[str, Any], status: Mapping[str, Any]) -> PodTrouble | None:
    if found := _without_claim(spec, status):
        return PodTrouble(found[0], name, found[1])
    running = _named(status.get("containerStatuses"), ENGINE_CONTAINER)
    container = _named(spec.get("containers"), ENGINE_CONTAINER)
    if running.get("ready"):
        return None
    waiting = (running.get("state") or {}).get("waiting") or {}
    ended = _ended(running)
    if waiting.get("reason") in _NO_IMAGE:
        image = container.get("image") or running.get("image")
        return PodTrouble(Stage.IMAGE_MISSING, name, f"no image {image}: {_cause(waiting)}")
    for each in (waiting, ended):
        if each.get("reason") in _NO_START:
            return PodTrouble(Stage.CANNOT_START, name, f"the container cannot be started: {_cause(each)}")
    if waiting.get("reason") == "CrashLoopBackOff" or ended:
        runs_again = "running" in (running.get("state") or {})
        return _crash(name, container, ended, int(running.get("restartCount") or 0) + (not runs_again))
    return None


def _named(items: object, name: str) -> Mapping[str, Any]:
    listed = items if isinstance(items, Sequence) else ()
    return next((item for item in listed if isinstance(item, Mapping) and item.get("name") == name), {})


def _ended(running: Mapping[str, Any]) -> Mapping[str, Any]:
    """How the container ended last; empty where it never did."""
    for part in ("state", "lastState"):
        ended = (running.get(part) or {}).get("terminated")
        if isinstance(ended, Mapping):
            return ended
    return {}


def _without_claim(spec: Mapping[str, Any], status: Mapping[str, Any]) -> tuple[Stage, str] | None:
    """A volume claim that is not there: the scheduler says so, and the pod waits for it for ever."""
    for condition in status.get("conditions") or ():
        message = str(condition.get("message", ""))
        if condition.get("type") != "PodScheduled" or condition.get("status") != "False":
            continue
        found = re.search(r'persistentvolumeclaim "([^"]+)" (not found|is being deleted)', message)
        if found is None:
            return None
        model = _named(spec.get("volumes"), _MODEL_VOLUME).get("persistentVolumeClaim") or {}
        of_model = model.get("claimName") == found[1]
        text = f"volume claim {found[1]} {found[2]}"
        return (Stage.MODEL_MISSING, f"no model: {text}") if of_model else (Stage.CANNOT_START, text)
    return None


def _crash(name: str, container: Mapping[str, Any], ended: Mapping[str, Any], ends: int) -> PodTrouble:
    """`ends` counts how often it did, the same whether it waits for its next start or has begun it."""
    again = "once so far" if ends == 1 else f"{ends} times so far"
    if ended.get("reason") == "OOMKilled":
        return PodTrouble(Stage.OUT_OF_MEMORY, name, f"killed for memory: {_memory(container)}; {again}")
    code = ended.get("exitCode")
    text = str(ended.get("message") or "")
    if _NO_MODEL.search(text):
        return PodTrouble(Stage.MODEL_MISSING, name, f"no {_missing(container, text)}: {_error(text)}")
    if code == 0:
        return PodTrouble(Stage.ENGINE_CRASHED, name, f"the engine ended by itself, exit code 0; {again}")
    if code in _SIGNALLED:
        why = "as by a probe that it did not answer in time"
        return PodTrouble(Stage.ENGINE_CRASHED, name, f"the engine was stopped, exit code {code}, {why}; {again}")
    cause = f", exit code {code}" if code is not None else ""
    said = f": {_error(text)}" if text.strip() else ""
    return PodTrouble(Stage.ENGINE_CRASHED, name, f"the engine crashed{cause}; {again}{said}")


def _memory(container: Mapping[str, Any]) -> str:
    """What it had and what it was to hold: the limit, what the plan of its memory came to, the cache of its arguments.

    The request is the plan's: a podTemplate may set another limit, but no other request.
    """
    resources = container.get("resources") or {}
    limit, planned = (quantity_or_none((resources.get(kind) or {}).get("memory")) for kind in ("limits", "requests"))
    expected = "" if planned is None else f"; the plan expected {_mib(int(planned))}"
    if limit is None:
        return f"the node had no more, and the pod has no limit of its own{expected}"
    cache = _asked_cache(container.get("args") or ())
    asked = "" if cache is None else f", of which {_CACHE_FLAG} asks for {_mib(cache)}"
    return f"it needed more than its limit of {_mib(int(limit))}{expected}{asked}"


def _missing(container: Mapping[str, Any], text: str) -> str:
    """Which of the two it is that is not there: the model, or the head that drafts for it.

    The line that says what went wrong decides; where it names neither, the rest of what was said, unless that names
    both, as a list of all arguments does.
    """
    arguments = container.get("args") or ()
    model = next((word for word in map(str, arguments) if not word.startswith("-")), "")
    head = _head(arguments)
    if head is not None:
        of_head, of_model = (tuple(_names(said, name) for said in (_error(text), text)) for name in (head, model))
        in_line = of_head[0] and not (of_model[0] and head in model)
        elsewhere = of_head[1] and not any(of_model)
        if in_line or elsewhere:
            return f"head {head} (model.draftModel)"
    return f"model {model}"


def _head(arguments: Sequence[object]) -> str | None:
    """The model that the engine is told to draft with; None where it is told of none."""
    try:
        found = [json.loads(value) for value in _values(arguments, _SPECULATION_FLAG)]
    except (ValueError, RecursionError):
        return None
    head = found[-1].get("model") if found and isinstance(found[-1], Mapping) else None
    return head if isinstance(head, str) and head else None


def _names(text: str, name: str) -> bool:
    """Whether the text names this id or path, or a file in it, and no longer name that begins or ends like it."""
    return bool(name) and re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-]|\.\w)", text) is not None


def _asked_cache(arguments: Sequence[object]) -> int | None:
    """The cache's size as the engine reads it: the last one counts."""
    sizes = [quantity_or_none(_as_quantity(value)) for value in _values(arguments, _CACHE_FLAG)]
    return int(sizes[-1]) if sizes and sizes[-1] is not None else None


def _values(arguments: Sequence[object], flag: str) -> list[str]:
    """What is given to a flag, each time; `=` may stand between."""
    words = [
        part for word in map(str, arguments) for part in (word.split("=", 1) if word.startswith(f"{flag}=") else [word])
    ]
    return [value for name, value in itertools.pairwise(words) if name == flag]


def _as_quantity(value: str) -> str:
    """A size of vLLM's as Kubernetes has it. Source: vllm/utils/argparse_utils.py, human_readable_int."""
    suffix = _SIZES.get(value[-1:])
    return value if suffix is None else value[:-1] + suffix


def _mib(amount: int) -> str:
    return f"{amount / (1 << 20):,.0f} MiB"


def _error(text: str) -> str:
    """The line of a log's end that says what went wrong: the last exception, but for one that is only a symptom."""
    lines = [found for line in text.splitlines() if (found := _ERROR_LINE.search(line.rstrip()))]
    told = [found for found in lines if _SYMPTOM not in found[2]] or lines
    if told:
        return _shortened(f"{told[-1][1].rpartition('.')[2]}: {told[-1][2]}")
    last = [line.strip() for line in text.splitlines() if line.strip()]
    return _shortened(last[-1]) if last else ""


def _cause(said: Mapping[str, Any]) -> str:
    """The kubelet's message without what changes from one try to the next."""
    text = str(said.get("message") or said.get("reason") or "")
    text = re.sub(r'^Back-off pulling image "[^"]*": ', "", text)
    text = re.sub(r"^(?:ErrImagePull|ErrImageNeverPull): ", "", text)
    return _shortened(re.sub(r"\d+(?:\.\d+){3}:\d+->", "", text))


def _shortened(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _CAUSE_CHARS else flat[: _CAUSE_CHARS - 1] + "…"
