"""A small neural network over the task's features, one output for each method.

Separate, as each selector is, and the only one that needs torch, which is imported when it is fitted: what it learns
is kept as plain arrays, and scoring needs numpy alone.
"""

from itertools import pairwise
from typing import Any

import numpy as np

from metainf.selectors.base import BaseSelector
from metainf.selectors.contract import FloatArray, MethodTable, TaskTable
from metainf.selectors.scaling import Scaler
from metainf.selectors.targets import log_gains

__all__ = ["Network"]


class Network(BaseSelector):
    """Log gains by two hidden layers, trained by AdamW on the squared error of what ran."""

    def __init__(
        self,
        *,
        width: int = 64,
        epochs: int = 100,
        batch: int = 128,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-3,
        random_state: int = 0,
    ) -> None:
        self.width = width
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.random_state = random_state

    def _fit(self, table: MethodTable) -> None:
        self.scaler_ = Scaler().fit(table.tasks.features)
        gains = log_gains(table)
        self.never_ = ~np.isfinite(gains).any(axis=0)
        self.layers_ = self._train(self.scaler_.transform(table.tasks.features), gains)

    def _train(self, inputs: FloatArray, gains: FloatArray) -> list[tuple[FloatArray, FloatArray]]:
        """Weights, shape (out, in), and offsets, shape (out,), of each layer."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            sizes = (inputs.shape[1], self.width, self.width, gains.shape[1])
            layers = [torch.nn.Linear(a, b) for a, b in pairwise(sizes)]
            relu = torch.nn.ReLU
            network = torch.nn.Sequential(layers[0], relu(), layers[1], relu(), layers[2])
            self._descend(torch, network, inputs, gains)
        return [
            (layer.weight.detach().numpy().astype(np.float64), layer.bias.detach().numpy().astype(np.float64))
            for layer in layers
        ]

    def _descend(self, torch: Any, network: Any, inputs: FloatArray, gains: FloatArray) -> None:
        ran = torch.tensor(np.isfinite(gains), dtype=torch.float32)
        target = torch.tensor(np.nan_to_num(gains), dtype=torch.float32)
        features = torch.tensor(inputs, dtype=torch.float32)
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        for _ in range(self.epochs):
            for rows in torch.randperm(len(inputs)).split(self.batch):
                optimizer.zero_grad()
                missed = (network(features[rows]) - target[rows]) ** 2 * ran[rows]
                (missed.sum() / ran[rows].sum()).backward()
                optimizer.step()

    def _scores(self, tasks: TaskTable) -> FloatArray:
        values = self.scaler_.transform(tasks.features)
        for depth, (weights, offsets) in enumerate(self.layers_):
            values = values @ weights.T + offsets
            if depth < len(self.layers_) - 1:
                values = np.maximum(values, 0.0)
        return np.where(self.never_, np.nan, values)
