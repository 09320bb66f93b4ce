"""`metainf flags`: ask an installed vLLM for its flags, check ours against it, or show what is catalogued.

Separate from what it runs: this names interpreters and folders as people do, writes the models' config.json where vLLM
can read them, and prints.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from metainf.architecture import ModelArchitecture
from metainf.cli.console import Row, is_terminal, note, show, table
from metainf.engine_environment import EngineAnswer, EngineEnvironment
from metainf.engine_versions import (
    DEFAULT_ENGINE_VERSION,
    flag_catalogue,
    known_engine_versions,
    parse_engine_version,
    version_remark,
)
from metainf.errors import InvalidWorkloadError
from metainf.flag_catalogue import FlagCatalogue, FlagKind, FlagSpec, catalogue_text
from metainf.flag_checks import (
    Difference,
    FlagCase,
    Refusal,
    Unchecked,
    case_argv,
    catalogue_changes,
    differences,
    flag_cases,
    quick_cases,
    refusals,
    representatives,
    unchecked,
)
from metainf.known_models import known_model_config, known_model_ids

__all__ = ["ModelFolders", "add_parser", "run", "written_models"]

_ACCEPTED = 0
_REFUSED = 3  # as of the command line: what is asked for is not to be had
_CATALOGUES = Path(__file__).parents[1] / "data" / "flags"
_TIMEOUT_S = 1800.0
_MOST_NAMED = 3
_HEAD_HEADS = 32  # an EAGLE head's attention; any number that vLLM takes


def add_parser(subparsers: Any) -> None:
    """Add `flags` to the command line."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "flags",
        help="ask an installed vLLM for its flags, check ours against it, or show what is catalogued",
        description="Keeps what each version of vLLM takes on its command line, as that version's own parser has it.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    generate = actions.add_parser("generate", help="write the catalogue of an installed vLLM")
    _add_environment(generate)
    generate.add_argument(
        "--out", type=Path, default=_CATALOGUES, metavar="FOLDER", help="(default: where MetaInf keeps its catalogues)"
    )
    check = actions.add_parser(
        "check",
        help="let an installed vLLM judge every method and layout for every model",
        description="Gives vLLM's parser and its engine's configuration the arguments that pods would get. Exit code "
        "0 where all are taken, 3 where one is refused or the catalogue is another than the parser.",
    )
    _add_environment(check)
    check.add_argument(
        "--version",
        metavar="VERSION",
        default=DEFAULT_ENGINE_VERSION,
        help="that the installed vLLM has to be (default: %(default)s)",
    )
    check.add_argument(
        "--configs",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="further models: each *.json of the folder is the config.json of one, named after the file; repeatable",
    )
    check.add_argument("--models", metavar="TEXT", default="", help="only those whose names hold this (default: all)")
    check.add_argument(
        "--quick", action="store_true", help="not all methods with all layouts of each model: a fifth of the cases"
    )
    shown = actions.add_parser("show", help="show the flags of a version, or what differs between two")
    shown.add_argument("version", metavar="VERSION", help=f"known are {', '.join(known_engine_versions())}")
    shown.add_argument("--diff", metavar="OTHER", help="only what is otherwise in this version")


def _add_environment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--python", type=Path, required=True, metavar="PATH", help="an interpreter that has vLLM")
    parser.add_argument(
        "--pythonpath", type=Path, metavar="FOLDER", help="a vLLM laid over it, made by pip install --target"
    )


def run(args: argparse.Namespace) -> int:
    """Do what is asked for."""
    return {"generate": _generate, "check": _check, "show": _show}[args.action](args)


def _generate(args: argparse.Namespace) -> int:
    if not args.out.is_dir():
        raise InvalidWorkloadError(f"--out {args.out}: there is no such folder")
    catalogue = EngineEnvironment(args.python, args.pythonpath).ask().catalogue
    path = args.out / f"{parse_engine_version(catalogue.version)}.json"
    text = catalogue_text(catalogue)
    same = path.is_file() and path.read_text(encoding="utf-8") == text
    if not same:
        path.write_text(text, encoding="utf-8")
    what = "is what it was" if same else "written"
    print(f"{path}: {len(catalogue.flags)} flags of {catalogue.origin.distribution}, {what}")
    return _ACCEPTED


# check


@dataclass(frozen=True, slots=True)
class _Checked:
    """What was asked and answered."""

    version: str
    architectures: Mapping[str, ModelArchitecture]
    cases: tuple[FlagCase, ...]
    answer: EngineAnswer


def _check(args: argparse.Namespace) -> int:
    configs = {name: each for name, each in _configs(args.configs).items() if args.models.lower() in name.lower()}
    if not configs:
        raise InvalidWorkloadError(f"--models {args.models}: no model is called so")
    architectures = {name: ModelArchitecture.from_config(config, name=name) for name, config in configs.items()}
    cases = flag_cases(architectures, representatives(), args.version)
    if args.quick:
        cases = quick_cases(cases, architectures)
    with TemporaryDirectory(prefix="metainf-models-") as folder:
        places = written_models(Path(folder), configs)
        lengths = {name: each.max_context_tokens for name, each in architectures.items()}
        argv = [
            case_argv(case, places[case.model].model, places[case.model].head, lengths[case.model], args.version)
            for case in cases
        ]
        with _reporting(len(cases)) as report:
            environment = EngineEnvironment(args.python, args.pythonpath)
            answer = environment.ask(argv, timeout_s=_TIMEOUT_S, report=report)
    if parse_engine_version(answer.catalogue.version) != parse_engine_version(args.version):
        raise InvalidWorkloadError(
            f"--version {args.version}: {args.python} has {answer.catalogue.origin.distribution}"
        )
    return _told(_Checked(args.version, architectures, cases, answer))


def _configs(folders: Sequence[Path]) -> dict[str, Mapping[str, Any]]:
    """The bundled configurations, each once under its first name, and those of the folders."""
    found: dict[str, Mapping[str, Any]] = {}
    seen: set[str] = set()
    for name in known_model_ids():
        config = known_model_config(name) or {}
        text = json.dumps(config, sort_keys=True)
        if text not in seen:
            seen.add(text)
            found[name] = config
    for folder in folders:
        files = sorted(folder.glob("*.json"))
        if not files:
            raise InvalidWorkloadError(f"--configs {folder}: no *.json is there")
        found |= {path.stem: _read_config(path) for path in files}
    return found


def _read_config(path: Path) -> Mapping[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidWorkloadError(f"--configs: {path} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise InvalidWorkloadError(f"--configs: {path} is no JSON object, which a config.json is")
    return config


@dataclass(frozen=True, slots=True)
class ModelFolders:
    """Where vLLM can read a model's config.json, and that of a head which drafts for it."""

    model: str
    head: str


def written_models(folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> dict[str, ModelFolders]:
    """Write the configurations of models, and of an EAGLE head for each; vLLM needs no more to judge arguments."""
    places: dict[str, ModelFolders] = {}
    for number, (name, config) in enumerate(configs.items()):
        places[name] = ModelFolders(str(folder / f"{number}"), str(folder / f"{number}-head"))
        for path, content in ((places[name].model, config), (places[name].head, _eagle_head(config))):
            Path(path).mkdir()
            (Path(path) / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return places


def _eagle_head(config: Mapping[str, Any]) -> dict[str, Any]:
    """A head of the usual kind: one Llama layer of the model's width and vocabulary."""
    text = config.get("text_config", config)
    return {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_size": text["hidden_size"],
        "intermediate_size": 4 * text["hidden_size"],
        "num_hidden_layers": 1,
        "num_attention_heads": _HEAD_HEADS,
        "num_key_value_heads": _HEAD_HEADS,
        "head_dim": 128,
        "vocab_size": text["vocab_size"],
        "draft_vocab_size": text["vocab_size"],
        "max_position_embeddings": text["max_position_embeddings"],
    }


@contextmanager
def _reporting(total: int) -> Iterator[Callable[[int], None] | None]:
    """A bar on a terminal; elsewhere nothing is said before the end."""
    if not is_terminal(sys.stderr):
        yield None
        return
    columns = (TextColumn("cases"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        row = bar.add_task("cases", total=total)
        yield lambda done: bar.update(row, completed=done)


def _told(checked: _Checked) -> int:
    cases, answers, origin = checked.cases, checked.answer.cases, checked.answer.catalogue.origin
    amx_tile = checked.answer.amx_tile
    refused = refusals(cases, answers)
    changed = catalogue_changes(flag_catalogue(checked.version), checked.answer.catalogue)
    others = differences(cases, answers, checked.architectures, checked.version, amx_tile=amx_tile)
    taken = len(cases) - sum(len(each.cases) for each in refused)
    counted = {
        "model": len(checked.architectures),
        "method": len({case.method.name for case in cases}),
        "layout": len({case.layout for case in cases}),
    }
    counts = ", ".join(f"{count} {noun}{'s' * (count != 1)}" for noun, count in counted.items())
    parts: list[RenderableType] = [
        Text.assemble((f"vLLM {origin.engine}", "bold"), f" ({origin.distribution}, platform {origin.platform})"),
        Text(f"{taken} of {len(cases)} cases are taken by its parser and engine configuration: {counts}"),
    ]
    if changed:
        parts += [Text(), Text("The catalogue is not this parser's", "bold"), *(Text(f"  {each}") for each in changed)]
    if refused:
        parts += [Text(), _refusal_table(refused)]
    if others:
        parts += [Text(), _difference_table(others)]
    parts += [Text(), _unchecked_table(cases, origin.platform, unchecked(amx_tile))]
    show(parts)
    return _REFUSED if refused or changed or others else _ACCEPTED


def _refusal_table(refused: Sequence[Refusal]) -> RenderableType:
    rows = [(str(len(r.cases)), f"{r.error} ({r.where or r.stage})", *_named(r.cases)) for r in refused]
    return table(
        ("Cases", "Refused with", "Methods", "Layouts", "Models"), rows, right=("Cases",), fold=("Refused with",)
    )


def _difference_table(others: Sequence[Difference]) -> RenderableType:
    rows = [(str(len(d.cases)), d.field, d.ours, d.theirs, *_named(d.cases)) for d in others]
    columns = ("Cases", "On a CPU", "Ours", "vLLM's", "Methods", "Layouts", "Models")
    return table(columns, rows, right=("Cases",))


def _unchecked_table(cases: Sequence[FlagCase], platform: str, parts: Sequence[Unchecked]) -> RenderableType:
    rows = [(str(sum(map(each.concerns, cases))), each.what, each.source) for each in parts]
    rows = [row for row in rows if row[0] != "0"]
    return table(("Cases", f"Not checked by a {platform} platform", "Source"), rows, right=("Cases",))


def _named(cases: Sequence[FlagCase]) -> tuple[str, str, str]:
    return (
        _few({case.method.name for case in cases}),
        _few({case.layout.name for case in cases}),
        _few({case.model for case in cases}),
    )


def _few(names: set[str]) -> str:
    first = sorted(names)[:_MOST_NAMED]
    return ", ".join(first) + (f" and {len(names) - len(first)} more" if len(names) > len(first) else "")


# show


def _show(args: argparse.Namespace) -> int:
    catalogue = _catalogue(args.version)
    if args.diff is not None:
        show([_diff_table(catalogue, _catalogue(args.diff))])
        return _ACCEPTED
    origin = catalogue.origin
    kinds = Counter(spec.kind for spec in catalogue.flags.values())
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    rows = [_row(catalogue.flags[name]) for name in sorted(catalogue.flags)]
    show(
        [
            Text.assemble((f"vLLM {origin.engine}", "bold"), f": {len(catalogue.flags)} flags ({counted})"),
            Text(f"{origin.distribution}, {origin.parser}, platform {origin.platform}, Python {origin.python}", "dim"),
            Text(),
            table(("Flag", "Group", "Default", "Takes"), rows, fold=("Takes",)),
        ]
    )
    return _ACCEPTED


def _catalogue(version: str) -> FlagCatalogue:
    if remark := version_remark(version):
        note(remark)
    return flag_catalogue(version)


def _row(spec: FlagSpec) -> Row:
    names = " ".join(spec.spellings)
    return (
        f"{names} (deprecated)" if spec.deprecated else names,
        spec.group,
        "" if spec.default is None else json.dumps(spec.default),
        _takes(spec),
    )


def _takes(spec: FlagSpec) -> str:
    if spec.choices:
        return " | ".join(spec.choices)
    if spec.config:
        return f"JSON of {spec.config}"
    return {FlagKind.SWITCH: "", FlagKind.FLAG: "", FlagKind.JSON: "JSON"}.get(spec.kind, spec.kind.value)


def _diff_table(first: FlagCatalogue, second: FlagCatalogue) -> RenderableType:
    """What the second has otherwise than the first: gone, new, and changed in what it takes or defaults to."""
    rows: list[Row] = []
    for name in sorted(first.flags.keys() | second.flags.keys()):
        before, after = first.flags.get(name), second.flags.get(name)
        if before != after:
            rows.append((f"--{name}", *_change(before, after)))
    columns = ("Flag", f"{first.version}", f"{second.version}")
    return table(columns, rows, fold=columns[1:])


def _change(before: FlagSpec | None, after: FlagSpec | None) -> tuple[str, str]:
    if before is None or after is None:
        return _whole(before), _whole(after)
    ours, theirs = set(before.choices), set(after.choices)
    if ours != theirs and replace(before, choices=after.choices) == after:
        return _listed("without", ours - theirs), _listed("with", theirs - ours)
    return _whole(before), _whole(after)


def _listed(word: str, choices: set[str]) -> str:
    return f"{word} {', '.join(sorted(choices))}" if choices else ""


def _whole(spec: FlagSpec | None) -> str:
    if spec is None:
        return "-"
    default = "" if spec.default is None else f", default {json.dumps(spec.default)}"
    others = "".join(f", {each}" for each in spec.aliases)
    return f"{_takes(spec) or spec.kind.value}{default}{others}{', deprecated' if spec.deprecated else ''}"
