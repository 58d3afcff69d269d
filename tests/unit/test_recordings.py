"""Recordings on disk: what is written is read, what others wrote is read, what is broken is named by line and column."""

import math
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.evidence import LATENCY_BINS, Counts, latency_bin
from policies.replay.blocks import Block, InForce
from xds_server.adapters import recording_rows, recordings
from xds_server.adapters.recording_rows import COLUMNS, Row, rows, writer
from xds_server.errors import RecordingError

FORMS = (".csv", ".parquet")
HEAD = "end,variant,requests,errors\n"


def row(end=1001.0, variant="stable", requests=10, errors=0, **more):
    counts = Counts(requests=requests, errors=errors, **{name: more.pop(name) for name in ("latency", "statuses") if name in more})
    return Row(
        end=end,
        start=end - 1.0,
        variant=variant,
        counts=counts,
        **{"generation": 3, "version": f"v-{variant}", "identity": f"v-{variant}.1", **more},
    )


def written(path, *made):
    out = writer(path, path.suffix)
    out.write(made)
    out.close()
    return path


def text(path, body):
    path.write_text(body)
    return path


def failure(path, **how):
    with pytest.raises(RecordingError) as caught:
        recordings.read(path, **how)
    return caught.value


bins = st.dictionaries(st.integers(0, LATENCY_BINS - 1), st.integers(1, 10**9), max_size=8).map(lambda found: tuple(sorted(found.items())))
names = st.text("aZ9 .,:\"'-é漢=", min_size=1, max_size=20)


halved = st.integers(0, 10**9)


@st.composite
def any_rows(draw):
    requests = draw(st.integers(0, 10**12))
    errors = draw(st.integers(0, requests))
    return Row(
        start=draw(st.none() | st.integers(0, 10**12).map(lambda ms: ms / 1000)),
        end=draw(st.integers(10**12, 10**13).map(lambda ms: ms / 1000)),
        generation=draw(st.integers(0, 10**6)),
        step=draw(names | st.just("")),
        variant=draw(names),
        version=draw(names),
        identity=draw(names),
        share=draw(st.none() | st.integers(0, 10_000).map(lambda share: share / 10_000)),
        audience=draw(st.sampled_from(("users", "shadows", "pinned"))),
        halves=draw(st.tuples(st.tuples(halved, halved), st.tuples(halved, halved))),
        missed=draw(st.integers(0, 1000)),
        counts=Counts(
            requests=requests,
            errors=errors,
            fallbacks=draw(st.integers(0, errors)),
            broken=draw(st.integers(0, errors)),
            no_host=draw(st.integers(0, errors)),
            latency=draw(bins),
            ttft=draw(bins),
            statuses=tuple(sorted(draw(st.dictionaries(names, st.integers(1, 10**9), max_size=4)).items())),
        ),
    )


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=60, deadline=None)
@given(made=st.lists(any_rows(), max_size=5))
def test_what_is_written_is_read_again(tmp_path_factory, form, made):
    path = written(tmp_path_factory.mktemp("recording") / f"r{form}", *made)
    assert [found for _, found in rows(path, most=10)] == made


@pytest.mark.parametrize("form", FORMS)
def test_a_recording_is_blocks_in_order_with_versions_and_the_shares_in_force(tmp_path, form):
    path = written(
        tmp_path / f"r{form}",
        row(1001.0, share=0.95, requests=95, latency=((40, 95),), step="canary 5%"),
        row(1001.0, "candidate", share=0.05, requests=5, errors=1, statuses=(("200", 4), ("500", 1)), step="canary 5%"),
        row(1002.0, share=0.95, step="canary 5%", halves=((5, 0), (4, 1))),
        row(1002.0, "candidate", share=0.05, requests=0, step="canary 5%"),
        row(1003.5, share=0.8, step="canary 20%"),
        row(1003.5, "candidate", share=0.2, requests=3, step="canary 20%"),
    )
    found = recordings.read(path)
    assert found.started == 1000.0
    assert found.source == str(path)
    assert found.variants == {"stable": "v-stable", "candidate": "v-candidate"}
    assert found.dropped == {}
    assert found.blocks == (
        Block(
            at=1.0,
            arms={
                "stable": Counts(requests=95, latency=((40, 95),)),
                "candidate": Counts(requests=5, errors=1, statuses=(("200", 4), ("500", 1))),
            },
        ),
        Block(at=2.0, arms={"stable": Counts(requests=10)}, halves={"stable": ((5, 0), (4, 1))}),
        Block(at=3.5, arms={"stable": Counts(requests=10), "candidate": Counts(requests=3)}),
    )
    assert found.in_force == (
        InForce(at=1.0, shares={"candidate": 500}, step="canary 5%"),
        InForce(at=3.5, shares={"candidate": 2000}, step="canary 20%"),
    )
    assert found.duration_s == 3.5


def test_time_variant_requests_and_errors_are_enough(tmp_path):
    body = "note,variant,errors,requests,end\nhello,stable,0,100,60\n,candidate,1.0,10,60\n,stable,0,90,120\n"
    found = recordings.read(text(tmp_path / "r.csv", body))
    assert [block.at for block in found] == [60.0, 120.0]
    assert found.blocks[0].arms == {"stable": Counts(requests=100), "candidate": Counts(requests=10, errors=1)}
    assert (found.started, found.in_force) == (0.0, ())


def test_bins_of_others_go_where_their_upper_edge_is(tmp_path):
    body = "end,variant,requests,errors,latency_ms\n5,stable,6,0,250:3;+Inf:1;100:2\n"
    found = recordings.read(text(tmp_path / "r.csv", body))
    assert found.blocks[0].arms["stable"].latency == ((latency_bin(99.0), 2), (latency_bin(247.5), 3), (LATENCY_BINS - 1, 1))


def test_mirrored_copies_and_chosen_users_are_left_out_and_counted(tmp_path):
    path = written(tmp_path / "r.csv", row(), row(variant="candidate", audience="shadows"), row(variant="candidate", audience="pinned"))
    found = recordings.read(path)
    assert found.blocks == (Block(at=1.0, arms={"stable": Counts(requests=10)}),)
    assert found.dropped == {recordings.OTHER_AUDIENCE: 2}


def test_blocks_that_the_recorder_missed_are_told(tmp_path):
    path = written(tmp_path / "r.csv", row(1001.0), row(1002.0, missed=7), row(1003.0, missed=2))
    assert recordings.read(path).dropped == {recordings.MISSED: 9}


def test_what_a_promotion_makes_of_a_name_is_not_the_evidence_of_the_one_before(tmp_path):
    after = row(1003.0, "stable", requests=99, errors=50, version="v-candidate", identity="v-candidate.1")
    path = written(tmp_path / "r.csv", row(1001.0), row(1001.0, "candidate"), row(1002.0), after)
    found = recordings.read(path)
    assert [block.at for block in found] == [1.0, 2.0]
    assert found.dropped == {recordings.OTHER_VERSION: 1}
    assert found.variants["stable"] == "v-stable"


def test_of_several_releases_one_must_be_chosen(tmp_path):
    releases = [replace(row(1000.0 + number, "candidate", requests=number), generation=number) for number in (1, 2)]
    path = written(tmp_path / "r.csv", row(1000.5, generation=1), *releases, row(1003.0, generation=3))
    error = failure(path)
    assert "2 releases: 1, 2" in str(error)
    assert "--release" in error.hint
    found = recordings.read(path, release=2)
    assert [block.arms["candidate"].requests for block in found] == [2]
    assert found.dropped == {recordings.OTHER_RELEASE: 3}
    assert "no release 9" in str(failure(path, release=9))


@pytest.mark.parametrize(
    ("line", "column", "words"),
    [
        ("x,stable,1,0", "end", "'x'"),
        ("nan,stable,1,0", "end", "'nan'"),
        ("-1,stable,1,0", "end", "'-1'"),
        ("1e300,stable,1,0", "end", "'1e300'"),
        ("5,,1,0", "variant", "no name"),
        ("5,a\x07b,1,0", "variant", "line of text"),
        ("5,stable,1.5,0", "requests", "whole number"),
        ("5,stable,,0", "requests", "whole number"),
        ("5,stable,-3,0", "requests", "whole number"),
        ("5,stable,inf,0", "requests", "whole number"),
        ("5,stable,1e16,0", "requests", "whole number"),
        ("5,stable,3,4", "errors", "4 errors among 3"),
        ("4,stable,3,0", "end", "sort"),
    ],
)
def test_a_broken_cell_is_named_by_line_and_column(tmp_path, line, column, words):
    path = text(tmp_path / "r.csv", f"{HEAD}5,stable,10,0\n{line}\n")
    error = failure(path)
    assert error.where == f"{path}:3, column {column}"
    assert words in f"{error} {error.hint}"


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("latency_ms", "250"),
        ("latency_ms", "x:1"),
        ("latency_ms", "-1:1"),
        ("latency_ms", "250:1.5"),
        ("latency_ms", ";".join(f"{edge}:1" for edge in range(1, 1002))),
        ("statuses", "200:x"),
        ("audience", "everyone"),
        ("share", "1.2"),
        ("generation", "-1"),
        ("fallbacks", "1"),
        ("start", "6"),
    ],
)
def test_a_broken_cell_of_the_other_columns_is_named_too(tmp_path, column, cell):
    path = text(tmp_path / "r.csv", f"end,variant,requests,errors,{column}\n5,stable,1,0,{cell}\n")
    assert failure(path).where == f"{path}:2, column {column}"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no column 'end'"),
        (b"end,variant,requests\n", "no column 'errors'"),
        (b"end,variant,requests,errors,end\n", "two columns 'end'"),
        (HEAD.encode() + b"5,stable,1\n", "3 cells"),
        (HEAD.encode() + b'5,"stable,1,0\n', "not CSV"),
        (HEAD.encode() + b"5,\xff,1,0\n", "UTF-8"),
        (HEAD.encode() + b"5," + b"a" * 200_000 + b",1,0\n", "not CSV"),
        (HEAD.encode(), "no evidence"),
    ],
)
def test_a_file_that_is_none_says_so(tmp_path, body, words):
    path = tmp_path / "r.csv"
    path.write_bytes(body)
    error = failure(path)
    assert words in str(error)
    assert str(path) in error.where


def test_a_long_parquet_file_is_written_in_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(recording_rows, "GROUP_ROWS", 3)
    path = tmp_path / "r.parquet"
    made = [row(1000.0 + number) for number in range(10)]
    out = writer(path, path.suffix)
    for each in made:
        out.write([each])
    out.close()
    assert [found for _, found in rows(path, most=10)] == made


def test_an_empty_line_is_none(tmp_path):
    assert len(recordings.read(text(tmp_path / "r.csv", f"{HEAD}5,stable,1,0\n\n6,stable,1,0\n")).blocks) == 2


def test_a_parquet_cell_is_named_by_row_and_column(tmp_path):
    path = written(tmp_path / "r.parquet", row(), replace(row(variant="candidate"), counts=Counts(requests=1, errors=2)))
    assert failure(path).where == f"{path}, row 2, column errors"


def test_half_a_parquet_file_is_refused(tmp_path):
    path = written(tmp_path / "r.parquet", *[row(1000.0 + number) for number in range(50)])
    path.write_bytes(path.read_bytes()[:-20])
    error = failure(path)
    assert "Parquet" in str(error)
    assert "not whole" in error.hint


def test_parquet_without_its_extra_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    error = failure(text(tmp_path / "r.parquet", "x"))
    assert "crossfade[parquet]" in error.hint


@pytest.mark.parametrize("form", FORMS)
def test_the_size_of_a_recording_is_bounded(tmp_path, form, monkeypatch):
    path = written(tmp_path / f"r{form}", *[row(1000.0 + number) for number in range(5)])
    monkeypatch.setattr(recordings, "ROWS_MAX", 4)
    assert "more than 4 rows" in str(failure(path))
    monkeypatch.setattr(recordings, "FILE_MAX_BYTES", 10)
    assert "larger" in str(failure(path))


def test_variants_are_bounded(tmp_path):
    path = written(tmp_path / "r.csv", *[row(variant=f"arm-{number}") for number in range(recordings.VARIANTS_MAX + 1)])
    assert failure(path).where.endswith("column variant")


@pytest.mark.parametrize("name", ["r.txt", "r"])
def test_the_name_says_the_form(tmp_path, name):
    assert ".csv or .parquet" in failure(text(tmp_path / name, "x")).hint


def test_a_file_that_is_not_there_says_so(tmp_path):
    assert "no such file" in str(failure(tmp_path / "none.csv"))
    (tmp_path / "r.csv").mkdir()
    assert "directory" in str(failure(tmp_path / "r.csv"))


def test_the_columns_of_both_forms_are_the_same(tmp_path):
    import pyarrow.parquet

    csv_file, parquet = written(tmp_path / "r.csv", row()), written(tmp_path / "r.parquet", row())
    assert tuple(csv_file.read_text().splitlines()[0].split(",")) == COLUMNS
    assert tuple(pyarrow.parquet.read_schema(parquet).names) == COLUMNS


def test_rows_that_follow_each_other_add_up():
    both = row(1001.0, requests=3, missed=2, halves=((1, 0), (2, 1))).followed_by(
        row(1002.0, requests=4, errors=1, halves=((3, 1), (0, 0)))
    )
    assert both.halves == ((4, 1), (2, 1))
    assert (both.start, both.end, both.missed) == (1000.0, 1002.0, 2)
    assert (both.counts.requests, both.counts.errors) == (7, 1)
    assert math.isclose(both.end - both.start, 2.0)
