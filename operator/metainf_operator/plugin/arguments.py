"""The command line of `kubectl metainf`: subcommands, flags and their help.

Separate from what the subcommands do, so that `--help` and a mistyped flag answer without loading any of it.
"""

import argparse
from dataclasses import dataclass

from metainf import __version__
from metainf.engine_versions import DEFAULT_ENGINE_VERSION

__all__ = ["parser"]


@dataclass(frozen=True, slots=True)
class _Command:
    name: str
    summary: str
    description: str
    examples: tuple[str, ...]
    notes: str = ""

    @property
    def epilog(self) -> str:
        lines = ["examples:", *(f"  kubectl metainf {example}" for example in self.examples)]
        return "\n".join([*lines, *(["", self.notes] if self.notes else [])])


_PLAN = _Command(
    "plan",
    "the decision that the operator would take now; nothing is written",
    "Shows what the operator would decide on this cluster as it is now, what others hold left out: the choice, the\n"
    "runners-up, why not the others, and for a refusal the budget that would work; then what it would do with what\n"
    "runs: start, replace, keep (as where there is no room for both sides of a switch) or stop. Nothing is written.\n"
    "Traffic that only the operator sees (policy.traffic Observed) counts as the decision in force was made by it.\n"
    "Objects of other kinds in the files count as applied where they matter: AcceleratorPools, the ConfigMap with\n"
    "a model's config.json, a pinned InferenceDecision.",
    (
        "plan -f chat.yaml",
        "plan -f chat.yaml -n team-a -o yaml",
        "plan chat                       # a workload that is there already",
        "plan -f chat.yaml --pools pools.yaml   # where you may not list nodes",
    ),
    "exit code: 0 chosen, 3 refused (any), 2 bad input, 1 a fault",
)
_EXPLAIN = _Command(
    "explain",
    "what runs for a workload, and why",
    "Shows what runs for a workload and why: the decision in force with its limits, runners-up, rejections and\n"
    "prices, the conditions that are not fine, and what a switch would need.",
    ("explain chat", "explain chat -n team-a"),
)
_DIFF = _Command(
    "diff",
    "what differs between two decisions of a workload",
    "Shows what differs between two decisions: the choice, its cost, the inputs, vLLM's arguments, the predictions\n"
    "and the prices. Without names: the decision in force against the one before it; with one name: that one\n"
    "against the decision in force. A name may be cut to the digits that tell it from the others.",
    ("diff chat", "diff chat 3596d63690", "diff chat 3596d63690 05ab486422"),
)
_PIN = _Command(
    "pin",
    "keep a workload on one decision; also approves a proposal",
    "Prints the patch that pins a workload to a decision's candidate: put it into Git. Nothing is written, unless\n"
    "--apply patches the live object. Without a name it takes the proposal that waits (mode Recommend), else the\n"
    "decision in force. The patch names the candidate itself, so that Git needs no object that the operator made.",
    ("pin chat", "pin chat 3596d63690 --apply", "pin chat > pin-patch.yaml"),
)
_UNPIN = _Command(
    "unpin",
    "let the operator choose again",
    "Prints the patch that takes a workload's pin away: put it into Git. Nothing is written, unless --apply patches\n"
    "the live object.",
    ("unpin chat", "unpin chat --mode Recommend --apply"),
)
_HISTORY = _Command(
    "history",
    "the decisions of a workload, the latest first",
    "Lists the decisions that are kept of a workload, the latest first.",
    ("history chat",),
)
_POOLS = _Command(
    "pools",
    "all pools: nodes, free accelerators, prices, problems",
    "Lists all pools that the operator chooses among, those without an AcceleratorPool included: nodes, free\n"
    "accelerators, the price of a node and where it was read, and what cannot be used.",
    ("pools", "pools --opencost-url http://localhost:9003/metrics   # prices from a port-forward"),
)


def parser() -> argparse.ArgumentParser:
    """The whole command line; the chosen subcommand's name is in `command`."""
    whole = argparse.ArgumentParser(
        prog="kubectl metainf",
        description="Asks MetaInf on this cluster: what would it choose, what runs and why, what changed.",
        epilog="kubectl metainf COMMAND --help has examples.",
        allow_abbrev=False,
    )
    whole.add_argument("--version", action="version", version=f"metainf {__version__}")
    _connection(whole, None)
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _plan(_add(commands, _PLAN))
    _workload(_add(commands, _EXPLAIN))
    _diff(_add(commands, _DIFF))
    _pin(_add(commands, _PIN))
    _unpin(_add(commands, _UNPIN))
    _workload(_add(commands, _HISTORY))
    _inventory(_add(commands, _POOLS))
    return whole


def _add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", command: _Command) -> argparse.ArgumentParser:
    added = commands.add_parser(
        command.name,
        help=command.summary,
        description=command.description,
        epilog=command.epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _connection(added, argparse.SUPPRESS)  # a flag before the subcommand keeps its value
    return added


def _connection(each: argparse.ArgumentParser, default: str | None) -> None:
    flags = each.add_argument_group("cluster")
    flags.add_argument("-n", "--namespace", default=default, metavar="NAME", help="default: the context's")
    flags.add_argument("--kubeconfig", default=default, metavar="FILE", help="default: $KUBECONFIG, ~/.kube/config")
    flags.add_argument("--context", default=default, metavar="NAME", help="default: the kubeconfig's current one")


def _workload(each: argparse.ArgumentParser) -> None:
    each.add_argument("workload", metavar="WORKLOAD", help="name of an InferenceWorkload")


def _inventory(each: argparse.ArgumentParser) -> None:
    each.add_argument("--opencost-url", metavar="URL", help="OpenCost's metrics, where the operator prices nodes by it")


def _plan(each: argparse.ArgumentParser) -> None:
    each.add_argument("workload", nargs="?", metavar="WORKLOAD", help="an InferenceWorkload that is there already")
    each.add_argument(
        "-f",
        "--filename",
        action="append",
        default=[],
        metavar="FILE",
        help="manifests, YAML or JSON; - reads standard input; may be given more than once",
    )
    each.add_argument(
        "-o",
        "--output",
        choices=("table", "json", "yaml"),
        default="table",
        help="table (default), or the InferenceDecision as json or yaml",
    )
    each.add_argument(
        "--pools",
        action="append",
        default=[],
        metavar="FILE",
        help="AcceleratorPools instead of the cluster's nodes; what is free is nodes.max less the namespace's holds",
    )
    each.add_argument(
        "--engine-version",
        default=DEFAULT_ENGINE_VERSION,
        metavar="VERSION",
        help=f"the operator's vLLM version, for workloads that name none (default: {DEFAULT_ENGINE_VERSION})",
    )
    each.add_argument(
        "--max-concurrent-switches",
        type=int,
        metavar="N",
        help="the operator's limit on workloads that switch at a time (default: 3, as the operator's own)",
    )
    each.add_argument(
        "--predictor",
        metavar="analytical|FILE",
        help="the operator's predictor: the analytical one, or the file of a trained one (default: the one shipped, "
        "or the analytical one where none is)",
    )
    each.add_argument(
        "--no-hub", action="store_true", help="do not ask the model hub, as an operator that may not (hub: false)"
    )
    _inventory(each)


def _diff(each: argparse.ArgumentParser) -> None:
    _workload(each)
    each.add_argument("decisions", nargs="*", metavar="DECISION", help="none, one or two, the older first")


def _pin(each: argparse.ArgumentParser) -> None:
    _workload(each)
    each.add_argument("decision", nargs="?", metavar="DECISION", help="default: the proposal, else what is in force")
    each.add_argument("--apply", action="store_true", help="patch the live object instead of printing")


def _unpin(each: argparse.ArgumentParser) -> None:
    _workload(each)
    each.add_argument(
        "--mode", choices=("Auto", "Recommend"), default="Auto", help="what to go back to (default: Auto)"
    )
    each.add_argument("--apply", action="store_true", help="patch the live object instead of printing")
