"""The corpus that lies in the repository is one that this version reads, and made by one state of the code."""

from pathlib import Path

from metainf.corpus.build import TASKS, read_made_by, read_plan, shards_of, world_names
from metainf.corpus.task_store import read_worlds
from metainf.measurements import read_measurements

FOLDER = Path(__file__).parent.parent / "data" / "corpus"


def test_the_corpus_is_of_one_state_of_the_code() -> None:
    assert read_plan(FOLDER).tasks >= 20_000
    assert len(read_made_by(FOLDER)) == 1


def test_each_file_is_a_shard_of_its_plan_and_holds_tasks_of_its_own() -> None:
    plan, worlds = read_plan(FOLDER), read_worlds(FOLDER / TASKS)
    keys = list(worlds)
    by_file = {shard.file_name: shard for shard in shards_of(plan)}
    files = sorted(FOLDER.glob("rows-*.parquet"))
    assert files
    assert {path.name for path in files} <= set(by_file)
    for path in files[:: max(1, len(files) // 6)]:
        shard = by_file[path.name]
        rows = read_measurements(path)
        assert set(rows.column("world").to_pylist()) == {shard.world}
        own = keys[shard.first : shard.first + plan.shard_tasks]
        assert set(rows.column("task").to_pylist()) <= {key for key in own if shard.world in worlds[key]}
    assert {shard.world for shard in by_file.values()} == set(world_names(plan))
