"""An evaluation goes on where it was cut off: what is kept is taken, and what hangs on anything else is made anew."""

import itertools
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import metainf
from metainf.cli.evaluate_lessons import LessonsOf
from metainf.cli.evaluate_makers import Seeded, Simulated, Untold
from metainf.corpus.provenance import imported_files
from metainf.corpus.task import TrafficKind
from metainf.corpus.whole_files import written_whole
from metainf.evaluation.fits import Fits
from metainf.evaluation.identities import code_digest
from metainf.evaluation.kept_files import Kept, KeptFiles, content_digest
from metainf.evaluation.outcomes import Clock, Evidence, Outcome, run_selector
from metainf.evaluation.report import Evaluation, Plan, evaluate
from metainf.evaluation.report_files import write_figures, write_report
from metainf.evaluation.report_text import markdown
from metainf.evaluation.simulated import SimulatedPerformance
from metainf.evaluation.splits import Split, SplitKind, split
from metainf.evaluation.time_limits import OutOfTimeError, TimeLimit
from selection_tables import Broken, Counted, KilledError, NearestTasks, learnable_table

TABLE = learnable_table(120)
EVIDENCE = Evidence(TABLE)
FOUND = split(TABLE.tasks, SplitKind.MODEL, most_folds=3)
PLAN = Plan("nearest", splits=(SplitKind.MODEL, SplitKind.RANDOM), most_folds=3)
SPLITS = ("batch, leave-model-out", "batch, random")


def stopped() -> float:
    return 0.0


def ticking() -> Clock:
    ticks = itertools.count()
    return lambda: float(next(ticks))


def evaluated(
    folder: Path,
    maker: Counted,
    *,
    clock: Clock = stopped,
    limit: TimeLimit | None = None,
    told: list[str] | None = None,
    jobs: int = 1,
) -> Evaluation:
    return evaluate(
        {TrafficKind.BATCH: EVIDENCE},
        {"nearest": maker},
        PLAN,
        clock=clock,
        progress=(lambda _: None) if told is None else told.append,
        jobs=jobs,
        kept=KeptFiles(folder),
        limit=limit,
    )


def figures(evaluation: Evaluation, folder: Path) -> list[bytes]:
    """What programs read, but for the seconds of the whole run, which are those of this machine now."""
    return [path.read_bytes() for path in write_figures(replace(evaluation, spent_s=0.0), folder)]


def chosen(
    folder: Path, maker: Counted, evidence: Evidence = EVIDENCE, found: Split = FOUND, told: list[str] | None = None
) -> Outcome:
    fits = Fits(KeptFiles(folder), say=(lambda _: None) if told is None else told.append)
    return run_selector("nearest", maker, evidence, found, clock=stopped, fits=fits)


def test_a_second_run_takes_everything_and_gives_the_same_figures_to_the_byte(tmp_path: Path) -> None:
    first, again, told = Counted(), Counted(), list[str]()
    one = evaluated(tmp_path / "kept", first, clock=ticking())
    two = evaluated(tmp_path / "kept", again, clock=ticking(), told=told)
    assert (first.fits > 0, again.fits) == (True, 0)
    assert figures(one, tmp_path / "one") == figures(two, tmp_path / "two")
    for where in ("leave-model-out: nearest", "random: nearest", "leave-model-out: leak checks"):
        assert f"batch, {where}: 3 of 3 folds taken from {tmp_path / 'kept'}" in told
    assert one.unfinished == two.unfinished == ()


def test_seconds_are_those_that_were_spent_whenever_that_was(tmp_path: Path) -> None:
    one = evaluated(tmp_path, Counted(), clock=ticking())
    two = evaluated(tmp_path, Counted(), clock=ticking())
    (first,), (again,) = one.kinds, two.kinds
    assert first.spent_s == again.spent_s and first.spent_s["nearest"] > 0.0
    assert first.studies_s == again.studies_s > 0.0
    assert two.spent_s > again.spent_s["nearest"] + again.studies_s


@pytest.mark.parametrize("killed_at", [1, 5, 11, 17])
def test_a_killed_run_goes_on_with_the_fit_that_it_was_at(tmp_path: Path, killed_at: int) -> None:
    with pytest.raises(KilledError):
        evaluated(tmp_path / "kept", Counted(killed_at=killed_at))
    rest, whole = Counted(), Counted()
    one, two = evaluated(tmp_path / "kept", rest), evaluated(tmp_path / "anew", whole)
    assert rest.fits == whole.fits - (killed_at - 1)
    assert figures(one, tmp_path / "one") == figures(two, tmp_path / "two")


def changed_truth(evidence: Evidence) -> Evidence:
    performance = evidence.table.performance.copy()
    performance[0, 1] *= 2.0
    return Evidence(replace(evidence.table, performance=performance))


def with_a_broken_limit(evidence: Evidence) -> Evidence:
    broken = np.zeros(evidence.table.performance.shape, dtype=np.bool_)
    broken[0, 1] = True
    return replace(evidence, broken=broken)


def with_other_features(evidence: Evidence) -> Evidence:
    tasks = evidence.table.tasks
    return Evidence(replace(evidence.table, tasks=replace(tasks, features=tasks.features + 1.0)))


def taught_by_another_world(evidence: Evidence) -> Evidence:
    return replace(evidence, learnt=replace(TABLE, performance=TABLE.performance[:, ::-1]))


def judged_by_another_truth(evidence: Evidence) -> Evidence:
    return replace(evidence, table=replace(TABLE, performance=TABLE.performance * 2.0), learnt=TABLE)


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        pytest.param(lambda evidence: evidence, 0, id="nothing"),
        pytest.param(changed_truth, 3, id="the truth of one task"),
        pytest.param(with_a_broken_limit, 3, id="a limit that one method breaks"),
        pytest.param(with_other_features, 3, id="features"),
        pytest.param(taught_by_another_world, 3, id="what is learnt from"),
        pytest.param(judged_by_another_truth, 0, id="only what it is judged by"),
    ],
)
def test_what_learns_from_other_evidence_is_fitted_anew(
    tmp_path: Path, change: Callable[[Evidence], Evidence], fits: int
) -> None:
    chosen(tmp_path, Counted())
    again = Counted()
    chosen(tmp_path, again, change(EVIDENCE))
    assert again.fits == fits


def test_another_fold_alone_is_fitted_anew(tmp_path: Path) -> None:
    chosen(tmp_path, Counted())
    first, *others = FOUND.folds
    again, fewer = Counted(), Counted()
    told: list[str] = []
    chosen(tmp_path, again, found=replace(FOUND, folds=(replace(first, train=first.train[:-1]), *others)), told=told)
    chosen(tmp_path, fewer, found=replace(FOUND, folds=tuple(others)))
    assert (again.fits, fewer.fits) == (1, 0)
    assert told == [f"nearest: 2 of 3 folds taken from {tmp_path}"]


def test_another_selector_is_fitted_anew_and_one_that_says_nothing_of_itself_always(tmp_path: Path) -> None:
    chosen(tmp_path, Counted())
    other = Counted("nearest, seed 1")
    chosen(tmp_path, other)
    assert other.fits == 3
    nameless = NearestTasks
    for _ in range(2):
        run_selector("", nameless, EVIDENCE, FOUND, clock=stopped, fits=Fits(KeptFiles(tmp_path / "nameless")))
    assert not (tmp_path / "nameless").exists()


def test_what_could_not_be_fitted_is_kept_too(tmp_path: Path) -> None:
    first, again = Counted(make=Broken), Counted(make=Broken)
    one, two = chosen(tmp_path, first), chosen(tmp_path, again)
    assert (first.fits, again.fits) == (1, 0)
    assert one.failure == two.failure == "the matrix is singular"


def cut_short(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def emptied(path: Path, _: Path) -> None:
    path.write_bytes(b"")


def turned(path: Path, _: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def somebody_elses(path: Path, _: Path) -> None:
    path.write_text("not ours")


def an_array(path: Path, _: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))


def another_fold(path: Path, other: Path) -> None:
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("spoil", [cut_short, emptied, turned, somebody_elses, an_array, another_fold])
def test_a_file_that_cannot_be_trusted_is_told_and_its_fold_fitted_anew(
    tmp_path: Path, spoil: Callable[[Path, Path], None]
) -> None:
    before = chosen(tmp_path, Counted())
    path, other, _ = sorted(tmp_path.glob("*.npz"))
    spoil(path, other)
    again, once_more, told = Counted(), Counted(), list[str]()
    after = chosen(tmp_path, again, told=told)
    assert again.fits == 1
    assert any(line.startswith(f"{path} is damaged or foreign") for line in told)
    np.testing.assert_array_equal(before.chosen, after.chosen)
    chosen(tmp_path, once_more)
    assert once_more.fits == 0


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(Kept({"fit_s": 0.0, "decide_s": 0.0, "failure": ""}, {"scores": np.zeros((1, 1))}), id="a shape"),
        pytest.param(Kept({"fit_s": 0.0, "decide_s": 0.0, "failure": ""}), id="no scores"),
        pytest.param(Kept({"fit_s": "long", "decide_s": 0.0, "failure": ""}), id="no seconds"),
        pytest.param(Kept({}), id="nothing"),
    ],
)
def test_what_is_no_outcome_of_its_fold_is_not_taken(tmp_path: Path, kept: Kept) -> None:
    chosen(tmp_path, Counted())
    path = min(tmp_path.glob("*.npz"))
    KeptFiles(tmp_path).put(path.stem, kept)
    again, told = Counted(), list[str]()
    chosen(tmp_path, again, told=told)
    assert again.fits == 1
    assert any(line.startswith(f"{path} holds no outcome of its fold") for line in told)


def test_processes_keep_what_they_fit_for_whoever_comes_next(tmp_path: Path) -> None:
    two = evaluated(tmp_path / "kept", Counted(), clock=float, jobs=2)
    again = Counted()
    one = evaluated(tmp_path / "kept", again)
    assert again.fits == 0
    assert figures(one, tmp_path / "one") == figures(two, tmp_path / "two")


def test_nothing_is_begun_after_the_time_and_the_report_says_what_is_left(tmp_path: Path) -> None:
    some, rest, whole = Counted(), Counted(), Counted()
    found = evaluated(tmp_path / "kept", some, clock=ticking(), limit=TimeLimit(40.0, 40.0))
    assert found.unfinished == SPLITS
    assert {row.split for row in found.kinds[0].results} == {SplitKind.MODEL}
    assert f"**Not finished: {'; '.join(SPLITS)}.**" in markdown(found)
    finished = evaluated(tmp_path / "kept", rest, clock=ticking())
    evaluated(tmp_path / "anew", whole, clock=ticking())
    assert finished.unfinished == ()
    assert 0 < some.fits < whole.fits
    assert rest.fits == whole.fits - some.fits


def test_without_any_time_what_is_kept_is_reported_and_nothing_else(tmp_path: Path) -> None:
    nobody, again, over = Counted(), Counted(), TimeLimit(0.0, 1.0)
    nothing = evaluated(tmp_path / "kept", nobody, limit=over)
    assert nobody.fits == 0 and nothing.unfinished == SPLITS and nothing.kinds[0].results == ()
    assert write_report(nothing, tmp_path / "nothing")[0].is_file()
    one = evaluated(tmp_path / "kept", Counted())
    two = evaluated(tmp_path / "kept", again, limit=over)
    assert (again.fits, two.unfinished) == (0, ())
    assert figures(one, tmp_path / "one") == figures(two, tmp_path / "two")


def test_the_pace_of_what_is_kept_says_how_long_the_next_fit_takes(tmp_path: Path) -> None:
    first, *others = FOUND.folds
    files = KeptFiles(tmp_path)
    slow = itertools.count(step=30)
    few = replace(FOUND, folds=(first,))
    run_selector("nearest", Counted(), EVIDENCE, few, clock=lambda: float(next(slow)), fits=Fits(files))
    maker = Counted()
    for left_s, begins in ((59.0, False), (61.0, True)):
        limit = TimeLimit(left_s, 1000.0)
        if begins:
            assert len(run_selector("", maker, EVIDENCE, FOUND, clock=stopped, fits=Fits(files, limit)).chosen) > 0
        else:
            with pytest.raises(OutOfTimeError):
                run_selector("", maker, EVIDENCE, FOUND, clock=stopped, fits=Fits(files, limit))
    assert maker.fits == len(others)


@pytest.mark.parametrize(
    ("now_s", "pace_s", "begins"),
    [
        pytest.param(50.0, 0.0, True, id="time is left, and nobody knows the pace"),
        pytest.param(100.0, 0.0, False, id="the time is up"),
        pytest.param(70.0, 20.0, True, id="it ends before"),
        pytest.param(85.0, 20.0, False, id="it would end later"),
        pytest.param(40.0, 500.0, True, id="it fits into no time, and half is left"),
        pytest.param(60.0, 500.0, False, id="it fits into no time, and less is left"),
    ],
)
def test_what_would_end_later_is_not_begun(now_s: float, pace_s: float, begins: bool) -> None:
    limit = TimeLimit(until_s=100.0, seconds=100.0)
    if begins:
        limit.check(now_s, pace_s)
    else:
        with pytest.raises(OutOfTimeError, match="the same command goes on"):
            limit.check(now_s, pace_s)


def test_digests_tell_values_apart_by_content_type_and_place() -> None:
    array = np.arange(6.0)
    different = [
        (array,),
        (array + 1.0,),
        (array.reshape(2, 3),),
        (array.astype(np.int64),),
        (array.astype(np.int64).view(np.float64),),
        (np.array(["a", "b"]),),
        ("ab", "c"),
        ("a", "bc"),
        (("ab", "c"),),
        (None,),
        (0,),
        (0.0,),
        ("0",),
        (),
        (TABLE,),
        (TABLE.rows(np.arange(len(TABLE) - 1)),),
    ]
    assert len({content_digest(*values) for values in different}) == len(different)
    assert content_digest(TABLE) == content_digest(TABLE.rows(np.arange(len(TABLE))))
    assert content_digest(np.asfortranarray(array.reshape(2, 3))) == content_digest(array.reshape(2, 3))
    for refused in (object(), np.array([object()]), {"a": 1}):
        with pytest.raises(TypeError):
            content_digest(refused)


def test_several_processes_can_write_one_file_each_in_a_place_of_its_own(tmp_path: Path) -> None:
    places: list[str] = []

    def write(path: Path) -> None:
        places.append(path.name)
        path.write_text("whole")

    for shared in (True, False):
        written_whole(tmp_path / "file", write, shared=shared)
    assert places == [f".file.{os.getpid()}.part", ".file.part"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_selector_says_all_that_it_hangs_on(tmp_path: Path) -> None:
    def lessons(digest: str, world: str | None) -> Seeded:
        return Seeded("metainf", 0, {"corpus": LessonsOf(tmp_path, world, digest), "most_lanes": 10})

    different = [
        Seeded("isac", 0, {}),
        Seeded("isac", 1, {}),
        Seeded("isac", 0, {"restarts": 2}),
        Seeded("isac-5-clusters", 0, {}),
        Seeded("alors", 0, {}),
        lessons("sha256:1", None),
        lessons("sha256:2", None),
        lessons("sha256:1", "world:0"),
        Untold(Seeded("isac", 0, {})),
        Simulated(SimulatedPerformance([TABLE]), [TABLE]),
        Simulated(SimulatedPerformance([]), []),
    ]
    assert len({maker.identity for maker in different}) == len(different)
    assert Seeded("isac", 0, {}).identity == Seeded("isac", 0, {}).identity
    assert Seeded("roofline-only", 0, {}).identity == Seeded("roofline-only", 1, {}).identity, "it has no seed"


def test_the_code_behind_a_selector_is_what_it_imports_and_nothing_that_only_judges_it() -> None:
    root = Path(metainf.__file__).parents[1]
    found = {path.relative_to(root).as_posix() for path in imported_files(["metainf.selectors.ensemble"])}
    assert {"metainf/selectors/stacking.py", "metainf/selectors/base.py", "metainf/evaluation/groups.py"} <= found
    assert not found & {"metainf/selectors/isac.py", "metainf/evaluation/report.py", "metainf/evaluation/fits.py"}
    assert code_digest("metainf.selectors.ensemble") != code_digest("metainf.selectors.isac")


def test_facts_come_back_as_they_were(tmp_path: Path) -> None:
    files, facts = KeptFiles(tmp_path), {"seconds": 0.1, "names": {"b": 1, "a": [1e-300, float("inf")]}}
    files.put("key", Kept(facts, {"numbers": np.array([1.0, np.nan])}))
    found = files.get("key", pytest.fail)
    assert found is not None and json.dumps(found.facts) == json.dumps(facts)
    np.testing.assert_array_equal(found.arrays["numbers"], [1.0, np.nan])
    assert files.get("another", pytest.fail) is None
