"""What a user asks for: traffic, latency promises, a budget and limits on the choice.

Separate from the model (`architecture`) and from the manifests that carry it (`manifests`): selection and the
predictors read these values and nothing of Kubernetes.
"""

import math
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from metainf.errors import InvalidWorkloadError

__all__ = [
    "MOST_REPLICAS",
    "TOO_MANY_REPLICAS",
    "BatchLoad",
    "Budget",
    "BudgetKind",
    "ConcurrencyLoad",
    "LatencyMetric",
    "Load",
    "LossyPolicy",
    "MethodLimits",
    "Objective",
    "PlacementLimits",
    "RateLoad",
    "Repetitiveness",
    "ReplicaLimits",
    "SharedPrefix",
    "Slo",
    "SloBound",
    "SpotPolicy",
    "Statistic",
    "TokenLengths",
    "Toleration",
    "Traffic",
    "Workload",
    "longest_tokens",
]

MOST_REPLICAS = 1000
"""Replicas of one workload, as the CRD has it: bounds the work of one decision and the pods of one Deployment."""
TOO_MANY_REPLICAS = f"at most {MOST_REPLICAS}: split the workload"
"""What to do about more."""
_Z_95 = 1.6448536269514722  # standard normal quantile at 0.95
_Z_99 = 2.3263478740408408  # at 0.99


class Objective(StrEnum):
    """What to prefer among the candidates that keep every limit."""

    MINIMIZE_COST = "MinimizeCost"
    MAXIMIZE_THROUGHPUT = "MaximizeThroughput"
    MINIMIZE_LATENCY = "MinimizeLatency"


class Repetitiveness(StrEnum):
    """How much of the output repeats the input or itself: what decides whether n-gram speculation pays."""

    UNKNOWN = "Unknown"
    LOW = "Low"
    MEDIUM = "Medium"
    HIGH = "High"


class LatencyMetric(StrEnum):
    """A latency that a client sees; definitions in each member's comment."""

    TTFT = "ttft"  # request sent -> first non-empty token received, queueing included
    TPOT = "tpot"  # (E2E - TTFT) / (output tokens - 1), per request
    E2E = "e2e"  # request sent -> last token received


class Statistic(StrEnum):
    """A statistic of a latency over requests."""

    MEAN = "mean"
    P50 = "p50"
    P95 = "p95"
    P99 = "p99"


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """Lengths of prompts or of answers in tokens: constant with a mean alone, lognormal with mean and p95."""

    mean_tokens: float
    p95_tokens: float | None = None

    def __post_init__(self) -> None:
        if not self.mean_tokens >= 1:
            raise InvalidWorkloadError(f"mean length must be at least 1 token, got {self.mean_tokens:g}")
        if self.p95_tokens is not None and self.p95_tokens < self.mean_tokens:
            raise InvalidWorkloadError(
                f"p95 length {self.p95_tokens:g} is below the mean {self.mean_tokens:g}: give a p95 of at least "
                "the mean, or leave it out for constant lengths"
            )
        if self.p95_tokens is not None and self.p95_tokens / self.mean_tokens > _MAX_P95_OVER_MEAN:
            raise InvalidWorkloadError(
                f"p95 length {self.p95_tokens:g} is more than {_MAX_P95_OVER_MEAN:.2f} times the mean "
                f"{self.mean_tokens:g}, which no lognormal distribution has: check the two figures"
            )

    @property
    def log_sd(self) -> float:
        """Standard deviation of the logarithm of the length; 0 where lengths are constant.

        Solves mean x exp(z s - s^2 / 2) = p95 for the smaller s, z the normal quantile at 0.95.
        """
        if self.p95_tokens is None:
            return 0.0
        ratio = math.log(self.p95_tokens / self.mean_tokens)
        return _Z_95 - math.sqrt(max(0.0, _Z_95**2 - 2.0 * ratio))

    @property
    def stated_tokens(self) -> float:
        """The longest length that was stated: the p95, or the mean of constant lengths."""
        return self.mean_tokens if self.p95_tokens is None else self.p95_tokens

    @property
    def squared_cv(self) -> float:
        """Squared coefficient of variation of the length."""
        return math.expm1(self.log_sd**2)

    def quantile(self, z: float) -> float:
        """Length at the standard normal quantile `z`, tokens."""
        sd = self.log_sd
        return self.mean_tokens * math.exp(z * sd - sd * sd / 2.0)


_MAX_P95_OVER_MEAN = math.exp(_Z_95**2 / 2.0)  # the largest p95 / mean that a lognormal distribution can have


def longest_tokens(input_tokens: TokenLengths, output_tokens: TokenLengths) -> float:
    """Prompt and answer at the 99th percentile of each: what an engine's cache must hold at least."""
    return input_tokens.quantile(_Z_99) + output_tokens.quantile(_Z_99)


@dataclass(frozen=True, slots=True)
class RateLoad:
    """Requests arrive on their own, at this mean rate, whatever the server does."""

    requests_per_second: float


@dataclass(frozen=True, slots=True)
class ConcurrencyLoad:
    """So many clients, each of which sends its next request when its last one is answered."""

    concurrency: int


@dataclass(frozen=True, slots=True)
class BatchLoad:
    """So many requests, all at hand at the start, to be done within the deadline."""

    requests: int
    deadline_s: float


Load = RateLoad | ConcurrencyLoad | BatchLoad


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """`ratio` of the requests begin with one of `distinct` prefixes of `tokens` tokens."""

    tokens: int
    ratio: float = 1.0
    distinct: int = 1


@dataclass(frozen=True, slots=True)
class Traffic:
    """The requests that a workload gets. `burstiness` is the coefficient of variation of inter-arrival times."""

    load: Load
    input_tokens: TokenLengths
    output_tokens: TokenLengths
    shared_prefix: SharedPrefix | None = None
    repetitiveness: Repetitiveness = Repetitiveness.UNKNOWN
    burstiness: float = 1.0
    description: str = ""


@dataclass(frozen=True, slots=True)
class SloBound:
    """One promise: this statistic of this latency is at most `bound_s` seconds."""

    metric: LatencyMetric
    statistic: Statistic
    bound_s: float

    def __str__(self) -> str:
        return f"{self.metric} {self.statistic}"


@dataclass(frozen=True, slots=True)
class Slo:
    """All the promises of a workload; each of them must hold."""

    bounds: tuple[SloBound, ...] = ()


class BudgetKind(StrEnum):
    """What the budget's amount is counted against."""

    PER_HOUR = "perHour"
    PER_MILLION_TOKENS = "perMillionTokens"  # output tokens
    TOTAL = "total"  # a batch


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that a workload may cost, in one currency; nothing is ever converted."""

    kind: BudgetKind
    amount: Decimal
    currency: str = "USD"

    @property
    def unit(self) -> str:
        """The unit as a message shows it, such as `USD/h`."""
        suffix = {
            BudgetKind.PER_HOUR: "/h",
            BudgetKind.PER_MILLION_TOKENS: " per million output tokens",
            BudgetKind.TOTAL: " in total",
        }[self.kind]
        return self.currency + suffix


class LossyPolicy(StrEnum):
    """Whether techniques that can change the model's answers may be chosen."""

    NEVER = "Never"
    ALLOW = "Allow"


class SpotPolicy(StrEnum):
    """Whether nodes that can be taken away at short notice may be chosen."""

    NEVER = "Never"
    ALLOW = "Allow"


@dataclass(frozen=True, slots=True)
class MethodLimits:
    """Which methods and techniques may be chosen, by name; an empty `allow` allows all."""

    allow: frozenset[str] = frozenset()
    deny: frozenset[str] = frozenset()
    lossy: LossyPolicy = LossyPolicy.NEVER


@dataclass(frozen=True, slots=True)
class Toleration:
    """A toleration as Kubernetes has it; `key` None with operator Exists tolerates every taint."""

    key: str | None = None
    operator: str = "Equal"
    value: str = ""
    effect: str | None = None
    toleration_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class PlacementLimits:
    """Where the workload may run; empty `pools` means every pool."""

    pools: frozenset[str] = frozenset()
    spot: SpotPolicy = SpotPolicy.NEVER
    tolerations: tuple[Toleration, ...] = ()
    node_selector: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ReplicaLimits:
    """Bounds on the number of replicas; `fixed` is a person's (or an autoscaler's) own number.

    None of them is above MOST_REPLICAS.
    """

    minimum: int = 1
    maximum: int | None = None
    fixed: int | None = None

    def __post_init__(self) -> None:
        for asked in (self.minimum, self.maximum, self.fixed):
            if asked is not None and asked > MOST_REPLICAS:
                raise InvalidWorkloadError(f"{asked} replicas are asked for: {TOO_MANY_REPLICAS}")


@dataclass(frozen=True, slots=True)
class Workload:
    """What is asked of the selection, all but the model itself.

    `draft_model` says whether there is a head that drafts for the model, without which no method speculates with one,
    and `draft_context_tokens` for how long a context it is made, None where that is not known.
    `confidence` is one-sided: the probability that all SLOs and the budget hold together must be at least this.
    `accepted_lengths` are prompts and answers that an engine must have room for, where `traffic` was observed and these
    were declared; None: those of the traffic.
    """

    traffic: Traffic
    budget: Budget
    slo: Slo = Slo()
    objective: Objective = Objective.MINIMIZE_COST
    methods: MethodLimits = MethodLimits()
    placement: PlacementLimits = field(default_factory=PlacementLimits)
    replicas: ReplicaLimits = ReplicaLimits()
    confidence: float = 0.9
    accepted_lengths: tuple[TokenLengths, TokenLengths] | None = None
    draft_model: bool = False
    draft_context_tokens: int | None = None
