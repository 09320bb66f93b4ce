import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from metainf.bench.design import BenchLoad, BenchPlan, crossed
from metainf.bench.endpoint import Endpoint
from metainf.bench.identity import Machine
from metainf.bench.ledger import opened, read_ledger
from metainf.bench.loading import LoadError, LoadGenerator, LoadTimeoutError, Target
from metainf.bench.processes import PROGRAMS, EngineError, answer_of, code_version, pause, resume, start, stop
from metainf.bench.records import Outcome, RecordError, RunRecord, ServerFacts, ServerRecord
from metainf.bench.running import Limits, Progress, run_plan
from metainf.bench.servers import GivenServers
from metainf.errors import InvalidWorkloadError
from stand_in_server import StandInServer

MACHINE = Machine("Xeon-Emerald-Rapids", "Xeon", 2, 1, 24 << 30, "Linux", "0.32.0", "2.13.0")
PLAN = BenchPlan(crossed(["m"], ["shared", "decode"], ["c1", "b4"]), ("default", "no-prefix-caching", "ngram"), 2)
RESULT = json.loads((Path(__file__).parent / "data" / "bench" / "bench_result_0.32.0.json").read_text())


@dataclass
class StandIn:
    """A server of a test: its process is a flag."""

    target: Target
    record: ServerRecord
    why: str = ""
    stopped: int = 0
    awake: bool = True

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.target.url)

    def ended(self) -> str:
        return self.why

    def rest(self) -> None:
        self.awake = False

    def wake(self) -> None:
        self.awake = True

    def stop(self) -> None:
        self.stopped += 1


@dataclass
class StandIns:
    """Servers that all are one stand-in; `failing` methods never come up."""

    url: str
    most_at_once: int = 2
    failing: frozenset[str] = frozenset()
    made: list[StandIn] = field(default_factory=list)

    def up(self, model: str, methods: Sequence[str], number: int) -> Mapping[str, StandIn]:
        found = {}
        for place, name in enumerate(methods):
            why = "exit code 1: no memory" if name in self.failing else ""
            record = ServerRecord(number + place, model, name, (), self.url, "", 1.0, ServerFacts(), failure=why)
            found[name] = StandIn(Target(self.url, model, "/m"), record, why)
        self.made += found.values()
        return found


@dataclass
class Loads:
    """Answers with a recorded result; `faults` says what happens at the n-th load, warm-ups counted."""

    faults: Mapping[int, object] = field(default_factory=dict)
    asked: list[list[str]] = field(default_factory=list)
    ended: int = 0

    def begin(self) -> None:
        """Nothing to wait for."""

    def run(self, arguments: list[str], *, most_s: float) -> Mapping[str, object]:
        self.asked.append(arguments)
        fault = self.faults.get(len(self.asked))
        if isinstance(fault, BaseException):
            raise fault
        if callable(fault):
            fault = fault()
        requests = int(arguments[arguments.index("--num-prompts") + 1])
        return {**RESULT, "completed": requests, **(fault if isinstance(fault, Mapping) else {})}

    def end(self) -> None:
        self.ended += 1


@pytest.fixture
def server():
    found = StandInServer()
    yield found
    found.close()


@pytest.fixture
def servers(server):
    return StandIns(server.url)


def test_runs_everything_once_and_writes_it_down(tmp_path, servers, server):
    loads = Loads()
    told: list[Progress] = []
    with opened(tmp_path, PLAN, MACHINE) as ledger:
        progress = run_plan(ledger, servers, loads, report=told.append)

    assert (progress.done, progress.total) == (24, 24)
    assert [r.run for r in read_ledger(tmp_path).latest()] == list(PLAN.runs)
    assert {r.outcome for r in ledger.runs} == {Outcome.COMPLETED}
    assert len(ledger.servers) == 3 and all(each.stopped == 1 for each in servers.made)
    assert loads.ended == 1
    assert server.asked.count("/reset_prefix_cache") == 24 + 3  # before each run and each warm-up
    assert told[0].left_s is None and told[-1] == progress and progress.left_s == 0.0


def test_only_the_server_that_is_measured_is_awake(tmp_path, servers, server):
    awake = []

    class Watching(Loads):
        def run(self, arguments: list[str], *, most_s: float) -> Mapping[str, object]:
            awake.append(sum(each.awake for each in servers.made))
            return super().run(arguments, most_s=most_s)

    with opened(tmp_path, PLAN, MACHINE) as ledger:
        run_plan(ledger, servers, Watching())

    warm_ups = {2, 1} | {len(awake)}
    assert awake.count(1) >= 24 and set(awake) <= warm_ups
    assert not any(each.awake for each in servers.made)
    assert server.asked.count("/v1/completions") == 24  # each run begins with a greeting that is not measured


def test_a_short_load_is_sent_again_with_other_requests_until_it_is_measured_long_enough(tmp_path, servers):
    longer = replace(PLAN, least_seconds=2.5 * RESULT["duration"])
    loads = Loads()
    with opened(tmp_path, longer, MACHINE) as ledger:
        run_plan(ledger, servers, loads)

    assert len(loads.asked) == 3 * 24 + 3  # warm-ups are sent once
    record = read_ledger(tmp_path).latest()[0]
    requests = BenchLoad.parse(record.load).requests
    assert (record.figures.rounds, record.figures.completed) == (3, 3 * requests)
    assert record.figures.duration_s == pytest.approx(RESULT["duration"])
    seeds = [longer.seed_of(run.task, run.repeat, number) for run in longer.runs for number in range(3)]
    assert len(set(seeds)) == len(seeds) / len(longer.methods)


def test_goes_on_with_what_is_missing(tmp_path, servers):
    with opened(tmp_path, PLAN, MACHINE) as ledger, pytest.raises(KeyboardInterrupt):
        run_plan(ledger, servers, Loads({9: KeyboardInterrupt()}))
    kept = len(read_ledger(tmp_path).runs)
    assert 0 < kept < 24
    assert all(each.stopped for each in servers.made)

    with opened(tmp_path, PLAN, MACHINE) as ledger:
        progress = run_plan(ledger, servers, Loads())

    assert progress.here == 24 - kept
    keys = [r.run.key for r in read_ledger(tmp_path).runs]
    assert len(keys) == len(set(keys)) == 24


def test_a_line_that_a_kill_tore_is_dropped_and_its_run_done_again(tmp_path, servers):
    with opened(tmp_path, PLAN, MACHINE) as ledger:
        run_plan(ledger, servers, Loads())
    lines = tmp_path / "ledger.jsonl"
    lines.write_text(lines.read_text()[:-200])

    with opened(tmp_path, PLAN, MACHINE) as ledger:
        assert len(ledger.runs) == 23
        progress = run_plan(ledger, servers, Loads())

    assert (progress.here, progress.done) == (1, 24)
    assert len(read_ledger(tmp_path).runs) == 24


def test_nothing_is_started_where_nothing_is_missing(tmp_path, servers):
    with opened(tmp_path, PLAN, MACHINE) as ledger:
        run_plan(ledger, servers, Loads())
    made = len(servers.made)
    with opened(tmp_path, PLAN, MACHINE) as ledger:
        progress = run_plan(ledger, servers, Loads())

    assert (progress.here, len(servers.made)) == (0, made)


def test_a_server_that_crashes_is_a_record_and_starts_again_for_its_next_run(tmp_path, servers):
    servers.most_at_once = 1

    def crash() -> Mapping[str, object]:
        servers.made[0].why = "exit code 0: EngineDeadError"
        return {"completed": 2, "failed": 2}

    with opened(tmp_path, PLAN, MACHINE) as ledger:
        progress = run_plan(ledger, servers, Loads({4: crash}))

    crashed = [r for r in ledger.runs if r.outcome is Outcome.CRASHED]
    assert progress.done == 24
    assert len(crashed) == 1
    assert "2 of" in crashed[0].detail and "EngineDeadError" in crashed[0].detail
    assert len(ledger.servers) == 4  # one more start
    assert [r.outcome for r in ledger.latest()].count(Outcome.COMPLETED) == 23


def test_a_server_that_keeps_ending_is_left_alone(tmp_path, servers):
    servers.most_at_once = 3
    plan = replace(PLAN, methods=("default",))
    loads = Loads({n: LoadTimeoutError("the load did not end within 1 s") for n in range(2, 40, 1)})
    with opened(tmp_path, plan, MACHINE) as ledger:
        run_plan(ledger, servers, loads, Limits(restarts=1))

    outcomes = [r.outcome for r in ledger.runs]
    assert outcomes == [Outcome.TIMED_OUT] * 2 + [Outcome.NOT_STARTED] * 6
    assert "ended 2 times" in ledger.runs[-1].detail


def test_a_server_that_does_not_come_up_costs_its_runs_alone(tmp_path, servers):
    servers.failing = frozenset({"ngram"})
    with opened(tmp_path, PLAN, MACHINE) as ledger:
        run_plan(ledger, servers, Loads())

    by_method = {r.method: r.outcome for r in ledger.runs}
    assert by_method == {
        "default": Outcome.COMPLETED,
        "no-prefix-caching": Outcome.COMPLETED,
        "ngram": Outcome.NOT_STARTED,
    }
    assert {r.detail for r in ledger.runs if r.method == "ngram"} == {"exit code 1: no memory"}


@pytest.mark.parametrize(
    ("fault", "outcome", "detail"),
    [
        pytest.param({"completed": 3, "failed": 1}, Outcome.INCOMPLETE, "1 of", id="a request fails, the server lives"),
        pytest.param(LoadError("no tokeniser"), Outcome.LOAD_FAILED, "no tokeniser", id="the generator fails"),
        pytest.param(LoadTimeoutError("not within 1 s"), Outcome.TIMED_OUT, "not within", id="a load does not end"),
    ],
)
def test_what_goes_wrong_is_told_apart(tmp_path, servers, fault, outcome, detail, monkeypatch):
    monkeypatch.setattr("metainf.bench.running._ENDING_S", 0.0)
    plan = replace(PLAN, methods=("default",))
    with opened(tmp_path, plan, MACHINE) as ledger:
        run_plan(ledger, servers, Loads({3: fault}))

    wrong = [r for r in ledger.runs if r.outcome is not Outcome.COMPLETED]
    assert [r.outcome for r in wrong] == [outcome]
    assert detail in wrong[0].detail


def test_what_failed_is_run_again_only_when_asked(tmp_path, servers):
    plan = replace(PLAN, methods=("default",))
    with opened(tmp_path, plan, MACHINE) as ledger:
        run_plan(ledger, servers, Loads({2: LoadError("once")}))
        assert run_plan(ledger, servers, Loads()).here == 0
        assert run_plan(ledger, servers, Loads(), Limits(retry_failed=True)).here == 1

    assert {r.outcome for r in read_ledger(tmp_path).latest()} == {Outcome.COMPLETED}


def test_a_busy_server_is_not_loaded(tmp_path, server, servers, monkeypatch):
    monkeypatch.setattr("metainf.bench.running._DRAIN_S", 0.0)
    server.busy = True
    plan = replace(PLAN, methods=("default",), tasks=PLAN.tasks[:1], repeats=1)
    with opened(tmp_path, plan, MACHINE) as ledger:
        run_plan(ledger, servers, Loads())

    assert ledger.runs[0].outcome is Outcome.TIMED_OUT
    assert "still busy" in ledger.runs[0].detail


def test_begins_nothing_when_time_is_up(tmp_path, servers):
    ticks = iter(float(n) for n in range(10_000))
    with opened(tmp_path, PLAN, MACHINE) as ledger:
        progress = run_plan(ledger, servers, Loads(), Limits(seconds=40.0), clock=lambda: next(ticks))

    assert 0 < progress.done < 24
    assert all(each.stopped == 1 for each in servers.made)


def test_a_folder_belongs_to_one_plan_one_machine_and_one_bench_at_a_time(tmp_path):
    refused = pytest.raises(InvalidWorkloadError, match="another bench")
    with opened(tmp_path, PLAN, MACHINE), refused, opened(tmp_path, PLAN, MACHINE):
        pass
    with pytest.raises(InvalidWorkloadError, match="another plan"), opened(tmp_path, replace(PLAN, seed=1), MACHINE):
        pass
    other = replace(MACHINE, device="EPYC")
    with pytest.raises(InvalidWorkloadError, match="and this is EPYC"), opened(tmp_path, PLAN, other):
        pass
    with opened(tmp_path, PLAN, replace(MACHINE, memory_bytes=MACHINE.memory_bytes - 4096, system="Linux 7")) as found:
        assert not found.runs
    with pytest.raises(InvalidWorkloadError, match="holds no bench"):
        read_ledger(tmp_path / "nothing")


def test_finds_servers_at_urls_and_says_what_they_cannot(server):
    given = GivenServers({"default": server.url, "ngram": "http://127.0.0.1:9"}, "/m", "0.32.0")
    found = given.up("m", ["default", "ngram"], 5)

    assert found["default"].target.served_name == "served"
    assert found["default"].record.facts.max_num_seqs == 128
    assert found["default"].record.differences == ()
    assert found["ngram"].record.failure == "it does not answer /health"
    assert [each.record.number for each in found.values()] == [5, 6]

    server.development = False
    (note,) = given.up("m", ["default"], 0)["default"].record.differences
    assert "cannot be emptied" in note


def test_records_come_back_as_they_were():
    record = RunRecord("m", "shared", "c1", "default", 0, Outcome.CRASHED, "exit code 0", 3, "2026-11-26", 1.5, 0.5)

    assert RunRecord.from_json(record.to_json()) == record
    with pytest.raises(RecordError, match="figures"):
        RunRecord.from_json({k: v for k, v in record.to_json().items() if k != "figures"})


def test_a_program_of_ours_ends_with_the_process_that_started_it(tmp_path):
    """Even one that lets SIGTERM pass, as a server does that is still starting."""
    pid_file = tmp_path / "pid"
    deaf = (
        "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    )
    tied = PROGRAMS.joinpath("tied.py").read_text().replace("_GRACE_S = 15.0", "_GRACE_S = 0.5")
    (tmp_path / "tied.py").write_text(tied)
    starter = (
        "import os, subprocess, sys, time; "
        f"subprocess.Popen([sys.executable, {str(tmp_path / 'tied.py')!r}, str(os.getpid()), sys.executable, '-c', "
        f"{deaf!r}], start_new_session=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", starter])
    _until(lambda: pid_file.exists() and bool(pid_file.read_text()))
    child = int(pid_file.read_text())
    parent.kill()
    parent.wait()

    _until(lambda: _state(child) in ("", "Z"))


@pytest.mark.parametrize("code", [0, 3])
def test_a_program_of_ours_has_the_exit_code_of_its_command(tmp_path, code):
    process = start([sys.executable, "-c", f"raise SystemExit({code})"], log=tmp_path / "log")

    assert process.wait(timeout=20) == code


def test_a_process_ends_with_its_children(tmp_path):
    code = (
        "import subprocess, sys, time; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); time.sleep(60)"
    )
    log = tmp_path / "log"
    process = start([sys.executable, "-c", code], log=log)
    _until(lambda: log.read_text().strip().isdecimal())
    stop(process)

    _until(lambda: _state(int(log.read_text())) in ("", "Z"))
    assert process.poll() is not None


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here to find processes in")
def test_a_process_rests_with_its_children_and_wakes_with_them_and_ends_even_while_it_rests(tmp_path):
    code = (
        "import subprocess, sys, time; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); time.sleep(60)"
    )
    log = tmp_path / "log"
    process = start([sys.executable, "-c", code], log=log)
    _until(lambda: log.read_text().strip().isdecimal())
    child = int(log.read_text())

    pause(process)
    _until(lambda: _state(child) == "T")
    assert _state(process.pid) != "T"  # who sees to it that all ends with us
    resume(process)
    _until(lambda: _state(child) == "S")
    pause(process)
    _until(lambda: _state(child) == "T")
    begun_s = time.monotonic()
    stop(process)

    _until(lambda: _state(child) in ("", "Z"))
    assert time.monotonic() - begun_s < 10.0


def test_a_load_generator_that_cannot_start_says_so(tmp_path):
    generator = LoadGenerator(sys.executable, tmp_path / "load.log")  # an interpreter without vLLM
    with pytest.raises(LoadError, match="ended"):
        generator.run([], most_s=5.0)
    generator.end()

    assert "No module named 'vllm'" in (tmp_path / "load.log").read_text()


def test_an_interpreter_that_is_not_there_is_named():
    with pytest.raises(EngineError, match="/no/python"):
        answer_of("/no/python", "identify.py", [], most_s=5.0)


@pytest.mark.skipif(shutil.which("git") is None, reason="no git here to ask for a commit")
def test_says_by_its_commit_what_measures_and_whether_files_differ_from_it(tmp_path):
    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(tmp_path), *who, *words], check=True, capture_output=True)

    assert code_version(tmp_path).startswith("version ")  # where metainf is installed without a checkout
    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "--message", "One")
    clean = code_version(tmp_path)
    (tmp_path / "file").write_text("22")

    assert re.fullmatch("commit [0-9a-f]{12,}", clean)
    assert code_version(tmp_path) == f"{clean}-dirty"


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _until(condition, most_s: float = 20.0) -> None:
    begun_s = time.monotonic()
    while not condition():
        assert time.monotonic() - begun_s < most_s, f"waited {most_s} s, load {os.getloadavg()}"
        time.sleep(0.05)
