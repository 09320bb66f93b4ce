"""The measurement table: written and read back the same, and refused with the column and the row."""

import math
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metainf.measurements import (
    COLUMNS,
    Measurement,
    MeasurementError,
    Purpose,
    Source,
    as_written,
    checked,
    joined,
    read_measurements,
    table_of,
    write_measurements,
)

ROW = Measurement(
    source=Source.SIMULATION,
    source_version="0.1.0",
    world="roofline",
    engine_version="0.32.0",
    task="0123456789abcdef",
    kind="rate",
    model="Qwen/Qwen3-8B",
    accelerator="H100-SXM-80GB",
    tensor_parallel=1,
    pipeline_parallel=1,
    data_parallel=1,
    expert_parallel=False,
    method="default",
    seed=0,
    purpose=Purpose.SCORE,
    requests=3000,
    ttft_p95_s=float("inf"),
    performance=3.5,
)


def test_rows_come_back_as_they_were_written(tmp_path):
    path = tmp_path / "rows.parquet"
    write_measurements(table_of([ROW, replace(ROW, seed=1, e2e_mean_s=float("nan"))]), path)
    rows = read_measurements(path).to_pylist()
    assert [row["seed"] for row in rows] == [0, 1]
    assert rows[0]["ttft_p95_s"] == float("inf")
    assert rows[1]["e2e_mean_s"] is None
    assert rows[0]["clients"] is None


def test_equal_rows_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_measurements(table_of([ROW]), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_loads_that_a_file_cannot_tell_apart_are_refused_when_they_are_written(tmp_path):
    near = [
        replace(ROW, purpose=Purpose.LOAD, performance=None, offered_requests_per_second=rate)
        for rate in (3.0, 3.0 * (1.0 + 1e-7))
    ]
    assert checked(table_of(near)).num_rows == 2
    with pytest.raises(MeasurementError, match="stands there 2 times"):
        write_measurements(table_of(near), tmp_path / "rows.parquet")
    assert as_written(near[0].offered_requests_per_second) == as_written(near[1].offered_requests_per_second)
    assert not (tmp_path / "rows.parquet").exists()


def test_every_column_in_seconds_or_per_second_says_so_in_its_unit():
    units = {column.name: column.unit for column in COLUMNS}
    assert units["ttft_p95_s"] == "s"
    assert units["offered_requests_per_second"] == "1/s"
    assert units["output_tokens_per_second"] == "tokens/s"
    assert units["output_tokens"] == "tokens"
    assert units["cached_ratio"] == "1"
    assert table_of([ROW]).schema.field("makespan_s").metadata[b"unit"] == b"s"


def changed(**columns):
    table = table_of([ROW])
    for name, values in columns.items():
        place = table.column_names.index(name)
        table = table.set_column(place, name, values)
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        pytest.param(table_of([ROW]).replace_schema_metadata({}), "schema version none, not 1", id="no version"),
        pytest.param(
            table_of([ROW]).replace_schema_metadata({b"metainf.measurements": b"9"}), "version 9", id="another version"
        ),
        pytest.param(table_of([ROW]).drop_columns(["seed"]), "seed is missing", id="a column is missing"),
        pytest.param(
            table_of([ROW]).append_column("mood", pa.array([1])), "mood is unknown", id="a column that nobody knows"
        ),
        pytest.param(changed(seed=pa.array([0.5])), "seed holds double, not int64", id="half a seed"),
        pytest.param(changed(model=pa.array([None], pa.string())), "model is empty in row 0", id="no model"),
        pytest.param(table_of([replace(ROW, source="hearsay")]), "'hearsay' is none of argonne", id="unknown source"),
        pytest.param(table_of([replace(ROW, purpose="fun")]), "purpose 'fun' is none of", id="unknown purpose"),
        pytest.param(table_of([replace(ROW, kind="bursts")]), "kind 'bursts' is none of", id="unknown kind"),
        pytest.param(table_of([replace(ROW, ttft_p50_s=-0.1)]), "ttft_p50_s is -0.1 in row 0", id="before it was sent"),
        pytest.param(table_of([replace(ROW, tensor_parallel=0)]), "tensor_parallel is 0 in row 0", id="no ranks"),
        pytest.param(table_of([replace(ROW, performance=None)]), "performance is empty", id="a score of nothing"),
        pytest.param(table_of([replace(ROW, world="")]), "world is empty in a row of source simulation", id="no world"),
        pytest.param(table_of([ROW, ROW]), "default on task 0123456789abcdef .* stands there 2 times", id="twice"),
    ],
)
def test_a_table_that_cannot_be_is_refused(table, message):
    with pytest.raises(MeasurementError, match=message):
        checked(table)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"seed\n1\n"])
def test_a_file_that_is_no_parquet_is_named(tmp_path, content):
    path = tmp_path / "rows.parquet"
    path.write_bytes(content)
    with pytest.raises(MeasurementError, match=r"reading measurements from .*rows\.parquet"):
        read_measurements(path)


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "rows.parquet"
    write_measurements(table_of([ROW]), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(MeasurementError):
        read_measurements(path)


def test_a_bad_value_is_named_with_its_file(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(table_of([replace(ROW, kind="bursts")]), path)
    with pytest.raises(MeasurementError, match=r"rows\.parquet: kind"):
        read_measurements(path)


def test_public_rows_may_repeat_and_name_no_task():
    public = replace(ROW, source=Source.ARGONNE, world="", task="", method="", purpose=Purpose.LOAD, performance=None)
    assert checked(table_of([public, public])).num_rows == 2


def test_tables_of_several_sources_keep_their_source_when_joined():
    public = replace(ROW, source=Source.GPUSTACK, world="", task="")
    assert joined([table_of([ROW]), table_of([public])]).column("source").to_pylist() == ["simulation", "gpustack"]
    assert joined([]).num_rows == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(1e-9, 1e9) | st.just(math.inf) | st.none(), min_size=1, max_size=20))
def test_a_file_keeps_numbers_to_five_digits_and_what_is_empty_or_infinite(tmp_path_factory, values):
    rows = [replace(ROW, makespan_s=value, seed=number) for number, value in enumerate(values)]
    path = tmp_path_factory.mktemp("rounded") / "rows.parquet"
    write_measurements(table_of(rows), path)
    kept = read_measurements(path).column("makespan_s").to_pylist()
    assert kept == [None if v is None else pytest.approx(v, rel=1e-5) for v in values]
    assert [as_written(v) for v in values if v is not None] == [v for v in kept if v is not None]
    write_measurements(read_measurements(path), again := path.with_name("again.parquet"))
    assert again.read_bytes() == path.read_bytes()
