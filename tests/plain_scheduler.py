"""The scheduler's rules played without any short cut, for one rank without a prefix cache: what the simulator must do.

Time does not matter where all requests are there at once, so there is none: only who computes how many tokens in which
step, and who holds how many blocks.
"""

from collections import deque
from dataclasses import dataclass, field

from metainf.simulator import EngineModel, Requests

__all__ = ["PlainScheduler"]


@dataclass(eq=False)
class Life:
    """A request on its way: the tokens known of it, those it ends with, and those in the cache."""

    known: int
    end: int
    computed: int = 0
    blocks: int = 0
    preemptions: int = 0


@dataclass(eq=False)
class PlainScheduler:
    """A batch served to its end by `play`; then what it came to.

    `lost` counts tokens that were computed before a preemption, and so in vain.
    """

    engine: EngineModel
    requests: Requests
    lives: list[Life] = field(default_factory=list)
    running: list[Life] = field(default_factory=list)
    waiting: deque[Life] = field(default_factory=deque)
    used: int = 0
    peak: int = 0
    steps: int = 0
    lost: int = 0

    def play(self) -> "PlainScheduler":
        lengths = zip(self.requests.input_tokens.tolist(), self.requests.output_tokens.tolist(), strict=True)
        self.lives = [Life(prompt, prompt + answer) for prompt, answer in lengths]
        self.waiting = deque(life for life in self.lives if self._fits(life))
        while self.waiting or self.running:
            self._step()
        return self

    def _fits(self, life: Life) -> bool:
        return life.end <= self.engine.max_model_len and self._blocks(life.end - 1) <= self.engine.kv_blocks

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.engine.block_tokens)

    def _step(self) -> None:
        engine = self.engine
        budget = engine.max_num_batched_tokens
        if not engine.chunked_prefill:
            budget = max(budget, engine.max_model_len)
        most = budget
        if engine.chunked_prefill and len(self.running) + len(self.waiting) > 1:
            most = engine.long_prefill_token_threshold or budget
        before = sum(life.preemptions for life in self.lives)
        left = self._go_on(budget, most)
        if sum(life.preemptions for life in self.lives) == before:
            self._admit(left, most)
        self.steps += 1
        for life in self.running:
            if life.computed == life.known:
                life.known += 1
        self.used -= sum(life.blocks for life in self.running if life.known == life.end)
        self.running = [life for life in self.running if life.known < life.end]

    def _go_on(self, left: int, most: int) -> int:
        """Those that run get their tokens, in their order; returns what is left of the budget."""
        place = 0
        while place < len(self.running) and left > 0:
            life = self.running[place]
            new = min(life.known - life.computed, most, left)
            needed = self._blocks(life.computed + new) - life.blocks
            while self.used + needed > self.engine.kv_blocks and place < len(self.running):
                self._preempt_last()
            if place == len(self.running):
                break  # it had to go itself
            self._take(life, new)
            left, place = left - new, place + 1
        return left

    def _preempt_last(self) -> None:
        victim = self.running.pop()
        self.used -= victim.blocks
        self.lost += victim.computed
        victim.computed = victim.blocks = 0
        victim.preemptions += 1
        self.waiting.appendleft(victim)

    def _admit(self, left: int, most: int) -> None:
        """Those that wait are let in, the first first, where all that is known of them would fit."""
        while self.waiting and left > 0 and len(self.running) < self.engine.max_num_seqs:
            life = self.waiting[0]
            whole_or_nothing = not self.engine.chunked_prefill and life.known > left
            if whole_or_nothing or self.used + self._blocks(life.known) > self.engine.kv_blocks:
                break
            self.running.append(self.waiting.popleft())
            new = min(life.known, most, left)
            self._take(life, new)
            left -= new

    def _take(self, life: Life, new: int) -> None:
        life.computed += new
        blocks = max(life.blocks, self._blocks(life.computed))
        self.used += blocks - life.blocks
        life.blocks = blocks
        self.peak = max(self.peak, self.used)
