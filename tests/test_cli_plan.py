import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from metainf.binding_limits import BindingLimit
from metainf.cli import main
from metainf.cli.tables import plan_view
from metainf.known_models import known_model, known_model_config
from metainf.manifests import parse_pool, parse_workload, read_documents, standing_pool
from metainf.planning import plan
from metainf.predictors.default import default_predictor
from metainf.prices import bundled_prices

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "crds/examples"
POOLS = str(EXAMPLES / "acceleratorpools.yaml")
MODEL = "Qwen/Qwen2.5-7B-Instruct"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("FORCE_COLOR", raising=False)


def manifest(name="chat", budget="50", **fields):
    spec = {
        "model": {"id": MODEL},
        "traffic": {"requestsPerSecond": "2", "inputTokens": {"mean": 500}, "outputTokens": {"mean": 100}},
        "slo": {"ttft": {"p95": "10s"}, "tpot": {"p95": "500ms"}},
        "budget": {"perHour": budget},
        **fields,
    }
    return {"apiVersion": "metainf.dev/v1alpha1", "kind": "InferenceWorkload", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
def written(tmp_path):
    """Writes manifests into a file and gives its name."""

    def write(*manifests):
        file = tmp_path / "workloads.yaml"
        file.write_text(yaml.safe_dump_all(manifests))
        return str(file)

    return write


def run(*arguments, pools=POOLS):
    return main(["plan", "--pools", pools, *arguments])


@pytest.mark.parametrize(
    ("manifests", "code"),
    [
        pytest.param([manifest()], 0, id="chosen"),
        pytest.param([manifest(budget="0.01")], 3, id="refused"),
        pytest.param([manifest(), manifest("poor", "0.01")], 3, id="one of two refused"),
        pytest.param([manifest(budget="no")], 2, id="bad input"),
        pytest.param([manifest(budget="no"), manifest("poor", "0.01")], 2, id="bad input goes before a refusal"),
        pytest.param([{"kind": "ConfigMap", "apiVersion": "v1"}], 2, id="no workload"),
        pytest.param([manifest(model={"id": "nobody/knows-this"})], 1, id="the hub cannot be asked"),
    ],
)
def test_the_exit_code_says_what_came_out(written, manifests, code, capsys):
    assert run("-f", written(*manifests)) == code
    captured = capsys.readouterr()
    assert bool(captured.err) == (code in (1, 2))


def test_a_bad_manifest_does_not_stop_the_others(written, capsys):
    assert run("-f", written(manifest(budget="no"), manifest("second"))) == 2
    captured = capsys.readouterr()
    assert "InferenceWorkload chat: spec.budget.perHour: write a decimal number" in captured.err
    assert "default/second" in captured.out


def test_other_kinds_are_skipped_with_a_note(written, capsys):
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}}
    assert run("-f", written(service, manifest())) == 0
    assert "Service web: not planned" in capsys.readouterr().err


def test_what_a_workload_refers_to_is_used_without_a_word_and_pools_have_their_own_option(written, capsys):
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "own"}}
    config["data"] = {"config.json": json.dumps(dict(known_model_config(MODEL)))}
    own = {"id": "me/mine", "architecture": {"configMapRef": {"name": "own", "key": "config.json"}}}
    assert run("-f", written(manifest(model=own), config)) == 0
    assert capsys.readouterr().err == ""
    pool = next(iter(read_documents(Path(POOLS).read_text(), "pools")))
    assert run("-f", written(manifest(), dict(pool))) == 0
    assert "AcceleratorPool a100-80gb: passed over, since pools are those of --pools" in capsys.readouterr().err


def test_reads_standard_input(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(yaml.safe_dump(manifest())))
    assert run("-f", "-", "-o", "json") == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "InferenceDecision"


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_json_and_yaml_are_the_decision_that_the_operator_would_write(written, output, capsys):
    assert run("-f", written(manifest()), "-o", output) == 0
    text = capsys.readouterr().out
    (shown,) = read_documents(text, "output")
    pools = tuple(standing_pool(parse_pool(m)) for m in read_documents(Path(POOLS).read_text(), "pools"))
    decided = plan(
        parse_workload(manifest()),
        known_model(MODEL),
        revision=None,
        pools=pools,
        predictor=default_predictor()[0],
        engine_version="0.32.0",
    )
    assert shown == decided.manifest


def test_the_same_files_give_the_same_bytes(written, capsys):
    texts = []
    for _ in range(2):
        run("-f", written(manifest()), "-o", "yaml")
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]


def test_several_decisions_are_a_list_in_json_and_documents_in_yaml(written, capsys):
    file = written(manifest(), manifest("second"))
    run("-f", file, "-o", "json")
    listed = json.loads(capsys.readouterr().out)
    assert (listed["kind"], [item["spec"]["workloadRef"]["name"] for item in listed["items"]]) == (
        "List",
        ["chat", "second"],
    )
    run("-f", file, "-o", "yaml")
    assert list(yaml.safe_load_all(capsys.readouterr().out)) == listed["items"]


def test_a_pipe_gets_plain_lines_one_for_each_row(written, capsys):
    assert run("-f", written(manifest())) == 0
    text = capsys.readouterr().out
    assert text.isascii()
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())
    assert re.search(r"^Chosen    \d+ x \S+ \S+ on \S+", text, re.MULTILINE)
    for limit in ("load", "ttft p95", "tpot p95", "cost"):
        assert len(re.findall(rf"^  {limit} ", text, re.MULTILINE)) == 1
    assert "Runners-up" in text
    assert "SpotNotAllowed        1  l40s-spot is spot and placement.spot is Never" in text


def test_a_refusal_shows_the_limit_and_the_budget_that_would_work(written, capsys):
    assert run("-f", written(manifest(budget="0.01"))) == 3
    text = capsys.readouterr().out
    assert "Refused   BudgetTooLow: cheapest candidate that meets" in text
    works = re.search(r"a budget of ([0-9.]+) USD/h would work; 0.01 USD/h is what may be spent", text)
    assert run("-f", written(manifest(budget=works[1]))) == 0


def test_a_refusal_that_no_budget_mends_says_so(written, capsys):
    assert run("-f", written(manifest(slo={"ttft": {"p95": "1ms"}}))) == 3
    assert "no budget would do" in capsys.readouterr().out


def test_a_budget_in_another_currency_is_not_said_to_be_too_low_at_any_price(written, capsys):
    asked = manifest()
    asked["spec"]["budget"]["currency"] = "EUR"
    assert run("-f", written(asked)) == 3
    text = capsys.readouterr().out
    assert "is priced in USD, the budget is in EUR" in text
    assert "no budget would do" not in text


def test_no_pool_that_may_be_used_is_a_refusal(written, capsys):
    assert run("-f", written(manifest(placement={"pools": ["nowhere"]}))) == 3
    assert "Refused   NoMatchingPool" in capsys.readouterr().out


def test_suspended_workloads_are_planned_with_a_note(written, capsys):
    assert run("-f", written(manifest(suspend=True))) == 0
    assert "nothing runs while suspend is true" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["chat", "batch", "budget-too-low", "draft-model", "long-shared-prompt", "moe-8-gpus"])
def test_a_terminal_of_100_columns_shows_every_example_without_cutting(name):
    (workload,) = read_documents((EXAMPLES / f"{name}.yaml").read_text(), name)
    pools = tuple(standing_pool(parse_pool(m)) for m in read_documents(Path(POOLS).read_text(), "pools"))
    parsed = parse_workload(workload)
    architecture = known_model(parsed.model.id) or known_model(MODEL)
    decided = plan(
        parsed,
        architecture,
        revision=None,
        pools=pools,
        predictor=default_predictor()[0],
        engine_version="0.32.0",
    )
    console = Console(file=io.StringIO(), force_terminal=True, width=100, highlight=False)
    console.print(plan_view(decided, decorated=True))
    text = re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    assert decided.name in text
    assert all(count.reason.value in text for count in decided.outcome.rejections)


def test_takes_the_architecture_from_a_config_json(written, tmp_path, capsys):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(dict(known_model_config(MODEL))))
    asked = manifest(model={"id": "nobody/knows-this"})
    assert run("-f", written(asked), "--config", str(config), "-o", "json") == 0
    from_file = json.loads(capsys.readouterr().out)
    run("-f", written(manifest()), "-o", "json")
    bundled = json.loads(capsys.readouterr().out)
    digests = [d["spec"]["inputs"]["model"]["architectureDigest"] for d in (from_file, bundled)]
    assert digests[0] == digests[1]


def test_takes_the_architecture_from_a_config_map_in_the_files(written, capsys):
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "qwen"},
        "data": {"config.json": json.dumps(dict(known_model_config(MODEL)))},
    }
    model = {"id": "nobody/knows-this", "architecture": {"configMapRef": {"name": "qwen"}}}
    assert run("-f", written(config_map, manifest(model=model))) == 0
    assert run("-f", written(manifest(model=model))) == 2
    assert "no ConfigMap qwen in the files" in capsys.readouterr().err


def test_a_pin_by_name_finds_its_decision_in_the_files(written, capsys):
    run("-f", written(manifest()), "-o", "json")
    decision = json.loads(capsys.readouterr().out)
    name = decision["metadata"]["name"]
    pinned = manifest(policy={"mode": "Pinned", "pinned": {"decision": name}})
    assert run("-f", written(decision, pinned), "-o", "json") == 0
    again = json.loads(capsys.readouterr().out)
    assert again["metadata"]["name"] == name
    assert run("-f", written(pinned)) == 2
    assert f"{name} is not in the files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda text: text.replace("NVIDIA-H100-80GB-HBM3", "NVIDIA-X9"), "X9 with 80Gi", id="unknown"),
        pytest.param(lambda text: text.replace("name: l40s\n", "name: h100\n"), "rename one", id="a name twice"),
        pytest.param(lambda text: "kind: Secret\napiVersion: v1\n", "no AcceleratorPool in it", id="no pool"),
        pytest.param(lambda text: text + "\n}", "reading YAML", id="no YAML"),
    ],
)
def test_bad_pools_are_bad_input(written, tmp_path, change, message, capsys):
    file = tmp_path / "pools.yaml"
    file.write_text(change(Path(POOLS).read_text()))
    assert run("-f", written(manifest()), pools=str(file)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["plan"], id="no files"),
        pytest.param(["plan", "-f", "x", "--pools", "y", "-o", "xml"], id="another output"),
        pytest.param(["deploy"], id="another command"),
        pytest.param([], id="no command"),
    ],
)
def test_a_wrong_command_line_is_bad_input(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: metainf" in capsys.readouterr().err


def test_a_missing_file_is_bad_input(tmp_path, capsys):
    assert run("-f", str(tmp_path / "none.yaml")) == 2
    assert "none.yaml: No such file or directory" in capsys.readouterr().err


def test_an_unknown_engine_version_is_bad_input(written, capsys):
    assert run("-f", written(manifest()), "--engine-version", "9.9.9") == 2
    assert "9.9.9" in capsys.readouterr().err


def test_help_loads_no_command():
    script = "import sys; from metainf.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    script += "assert not {'numpy', 'rich', 'metainf.cli.plan'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def test_a_reader_that_goes_away_is_no_fault(written):
    command = [sys.executable, "-m", "metainf", "plan", "-f", written(manifest()), "--pools", POOLS, "-o", "json"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    errors = process.stderr.read().decode()
    process.stderr.close()
    assert (process.wait(), errors) == (0, "")


def readme():
    return (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("example", "code", "before", "lines"),
    [
        pytest.param("chat", 0, "(`metainf plan`, shortened):\n\n", 15, id="a choice"),
        pytest.param("budget-too-low", 3, "(crds/examples/budget-too-low.yaml), shortened:\n\n", 7, id="a refusal"),
    ],
)
def test_the_readme_shows_what_the_plans_of_examples_print(example, code, before, lines, capsys):
    assert run("-f", str(EXAMPLES / f"{example}.yaml")) == code
    printed = capsys.readouterr().out.splitlines()
    shown = readme().partition(f"{before}```\n")[2].partition("```")[0].splitlines()
    assert len(shown) == lines
    assert [line for line in shown if line not in printed] == []


def test_what_the_readme_says_that_the_chat_would_cost_over_empty_pools_is_what_the_plan_says(tmp_path, capsys):
    file = tmp_path / "empty.yaml"
    file.write_text(Path(POOLS).read_text().replace("nodes: {max", "nodes: {min: 0, max"))
    assert run("-f", str(EXAMPLES / "chat.yaml"), pools=str(file)) == 3
    budget = re.search(r"a budget of ([0-9.]+) USD/h would work", capsys.readouterr().out)
    assert f"the chat is refused, and a budget of {budget[1]} USD/h would work." in " ".join(readme().split())


def test_the_readme_says_what_to_do_about_each_refusal():
    table = readme().partition("## When it refuses")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", "".join(cells))) == sorted(BindingLimit)


def test_the_readme_says_what_the_bundled_prices_are():
    prices = bundled_prices()
    assert {(price.region, price.as_of.isoformat()) for price in prices} == {
        ("us-east-1", "2026-10-01"),
        ("eastus", "2026-10-01"),
    }
    words = " ".join(readme().split())
    assert f"{len(prices)} instance types of AWS us-east-1 and Azure eastus, read 2026-10-01" in words
