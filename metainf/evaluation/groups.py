"""Which models and which accelerators are too alike to stand on both sides of a split.

Separate from the splits, which only need a name per task: what counts as alike is a judgement about hardware and
model makers, and is argued for here.

Models: a family is a maker's series of one major version (Llama 3.1, 3.2 and 3.3; every Qwen 3). A shape twin has
equal layers under another name, whoever made it: a distillation, a fine-tune, an FP8 copy. Vocabulary, number formats
and names are no difference, since the layers decide how fast a model is. Families that share a twin are one group.

Accelerators: a generation is one group (H100, H200, GH200, H20), refreshed ones with it (B300 with B200), but its
dies with HBM and those with GDDR are two: GA100 and GA102 share little more than a name. All CPUs are one.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from metainf import accelerators
from metainf.accelerators import Vendor
from metainf.architecture import ModelArchitecture
from metainf.known_models import known_model

__all__ = ["about", "accelerator_group", "model_family", "model_groups", "shape_key"]

_SIZE = re.compile(r"^e?\d+(\.\d+)?[bm]$|^\d+x\d+b$|^a\d+(\.\d+)?b$")
_VARIANTS = frozenset({"instruct", "chat", "base", "hf", "mini", "small", "it", "lite", "coder", "thinking", "nano"})
_MIG = "-MIG-"


def model_family(model_id: str) -> str:
    """Maker and series of a model's id, lower case: `qwen/qwen3` for every Qwen 3 and 3.5."""
    maker, _, name = model_id.lower().rpartition("/")
    name = name.removeprefix("meta-").removeprefix("nvidia-")
    head, distilled, base = name.partition("distill-")
    series: list[str] = []
    for token in re.split(r"[-_]", base if distilled else name):
        if series and (_SIZE.match(token) or token in _VARIANTS):
            break
        series.append(re.sub(r"(\d+)\.\d+.*", r"\1", token))
        if re.search(r"\d", token):
            break
    return f"{maker}/{'distill-' if distilled and head else ''}{'-'.join(series)}"


def shape_key(architecture: ModelArchitecture) -> tuple[object, ...]:
    """What two shape twins have in common: the layers in order, without their number formats."""
    shapes = []
    for group in architecture.layer_groups:
        linears = tuple(
            (each.in_features, each.out_features, each.copies, each.active_copies) for each in group.layer.linears
        )
        shapes.append((group.layer.mixer, linears))
    return architecture.hidden_size, architecture.layer_pattern, tuple(shapes)


def model_groups(
    model_ids: Iterable[str], lookup: Callable[[str], ModelArchitecture | None] = known_model
) -> Mapping[str, str]:
    """The group of each model: whole families, joined where they share a shape twin.

    Parameters
    ----------
    lookup : function
        The architecture of an id; an unknown model counts by its name alone.

    Returns
    -------
    Id -> group, which is called by the family in it with the most ids, the first in the alphabet of equal ones.
    """
    ids = sorted(set(model_ids))
    parent: dict[object, object] = {}

    def root(node: object) -> object:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for model_id in ids:
        architecture = lookup(model_id)
        if architecture is not None:
            parent[root(shape_key(architecture))] = root(model_family(model_id))
    sizes = Counter(model_family(model_id) for model_id in ids)
    names: dict[object, str] = {}
    for family in sorted(sizes, key=lambda each: (-sizes[each], each)):
        names.setdefault(root(family), family)
    return {model_id: names[root(model_family(model_id))] for model_id in ids}


def about(name: str, models: Sequence[str], devices: Sequence[str]) -> NDArray[np.bool_]:
    """Which rows a name is about, shape (n,): it names their model or accelerator, or a group of either."""
    families = model_groups(models)
    named = {each for each in families if name in (each, families[each], model_family(each))}
    named |= {each for each in set(devices) if name in (each, accelerator_group(each))}
    rows: NDArray[np.bool_] = np.isin(models, list(named)) | np.isin(devices, list(named))
    return rows


def accelerator_group(name: str) -> str:
    """The group of an accelerator of the catalogue, slices of it included; an unknown one is its own."""
    found = accelerators.get(name.partition(_MIG)[0])
    if found is None:
        return name
    if found.vendor is Vendor.CPU:
        return "CPU"
    memory = "HBM" if found.memory_type.upper().startswith("HBM") else "GDDR"
    return f"{found.generation.removesuffix(' Ultra')} {memory}"
