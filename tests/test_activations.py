"""What of a layer is alive at a time, by hand."""

import pytest

from metainf.activations import mlp_values, values_alive
from metainf.architecture_vision import VisionTower
from metainf.layers import Mlp, MlpKind


@pytest.mark.parametrize(
    ("mlp", "values"),
    [
        pytest.param(None, 0, id="none"),
        pytest.param(Mlp(MlpKind.DENSE, 14336), 3 * 14336, id="gate, up and their product"),
        pytest.param(Mlp(MlpKind.DENSE, 4096, gated=False), 2 * 4096, id="before and after the activation"),
        pytest.param(
            Mlp(MlpKind.MOE, 768, experts=128, experts_per_token=8), 8 * 3 * 768, id="those of every chosen expert"
        ),
        pytest.param(
            Mlp(MlpKind.MOE, 1408, experts=64, experts_per_token=6, shared_intermediate_size=2816),
            6 * 3 * 1408 + 3 * 2816,
            id="shared experts beside them",
        ),
    ],
)
def test_values_inside_an_mlp(mlp: Mlp | None, values: float) -> None:
    assert mlp_values(mlp) == values


def test_what_a_model_sees_with_is_counted_as_its_language_layers_are() -> None:
    tower = VisionTower(27, 1152, 4304)
    inside = 2 * 4304 / 2
    assert values_alive(1152, inside) == 6 * 1152 + inside
    assert tower.activation_values(10, tensor_parallel=2) == 10 * 4 * values_alive(1152, inside)
