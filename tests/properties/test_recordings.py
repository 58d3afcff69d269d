"""Whatever a file holds and whatever answers in Prometheus's place: evidence that adds up, or an error that says where; never anything else."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xds_server.adapters import recordings
from xds_server.adapters.prometheus_history import _Prometheus, envoy, read
from xds_server.errors import RecordingError

GOOD = b"""start,end,generation,step,variant,version,identity,share,audience,requests,errors,fallbacks,broken,no_host,latency_ms,ttft_ms,statuses,missed_blocks
0,1,3,canary 5%,stable,v1,v1.1,0.95,users,9,1,0,1,0,93.7:8;inf:1,27.3:9,200:8;500:1,0
0,1,3,canary 5%,candidate,v2,v2.1,0.05,users,2,0,0,0,0,93.7:2,27.3:2,200:2,0
1,2,3,canary 5%,stable,v1,v1.1,0.95,users,4,0,0,0,0,93.7:4,27.3:4,200:4,5
"""
cells = st.sampled_from(
    [
        b"",
        b"-1",
        b"1e309",
        b"nan",
        b"inf",
        b"0",
        b"7",
        b'"',
        b",",
        b"\n",
        b":",
        b";",
        b"\x00",
        b"\xff",
        b"stable",
        b"1:1;2:2",
        b"\xef\xbb\xbf",
    ]
)


@st.composite
def mangled(draw):
    """The good file with some of its parts replaced."""
    body = GOOD
    for _ in range(draw(st.integers(0, 4))):
        first = draw(st.integers(0, len(body)))
        last = draw(st.integers(first, min(len(body), first + draw(st.sampled_from([0, 1, 5, 200])))))
        body = body[:first] + draw(cells) + body[last:]
    return body


@settings(max_examples=400, deadline=None)
@given(body=mangled())
def test_a_mangled_file_is_evidence_that_adds_up_or_an_error_that_says_where(tmp_path_factory, body):
    path = tmp_path_factory.getbasetemp() / "mangled.csv"
    path.write_bytes(body)
    found, where = (), str(path)
    try:
        found = recordings.read(path)
    except RecordingError as error:
        where = error.where
    assert str(path) in where
    ends = [block.at for block in found]
    assert ends == sorted(set(ends))
    for block in found:
        assert block.at >= 0.0
        for counts in block.arms.values():
            assert 0 <= counts.errors <= counts.requests
            assert max(counts.fallbacks, counts.broken, counts.no_host) <= counts.errors
            assert list(counts.latency) == sorted(dict(counts.latency).items())


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.sampled_from(["1", "NaN", "+Inf", "x", "", "-3"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["metric", "values", "le", "job", "envoy_response_code"]), inner, max_size=3)
    ),
    max_leaves=8,
)
series = st.fixed_dictionaries(
    {
        "metric": st.dictionaries(
            st.sampled_from(["le", "job", "instance", "envoy_response_code", "__name__"]),
            st.sampled_from(["1", "200", "500", "+Inf", "x", ""]),
            max_size=4,
        ),
        "values": st.lists(
            st.tuples(st.integers(0, 600), st.integers(0, 50).map(str) | st.sampled_from(["NaN", "+Inf", "-Inf", "-5", "1e300"])),
            max_size=8,
        ),
    }
)
results = st.one_of(values, st.lists(series, max_size=5), st.lists(series | values, max_size=3))


@settings(max_examples=400, deadline=None)
@given(answers=st.lists(results, min_size=1, max_size=6))
def test_whatever_prometheus_answers_is_evidence_that_adds_up_or_an_error(answers):
    left = list(answers)

    def post(*_):
        return {"status": "success", "data": {"result": left.pop(0) if len(left) > 1 else left[0]}}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Prometheus, "_post", post)
        with contextlib.suppress(RecordingError):
            found = read("http://127.0.0.1:1", {"stable": envoy("a"), "candidate": envoy("b")}, start=0.0, end=600.0, step=10.0)
            for counts in (counts for block in found for counts in block.arms.values()):
                assert 0 <= counts.errors <= counts.requests
                assert counts.requests <= 1e18
                assert all(count > 0 for _, count in (*counts.latency, *counts.statuses))
                assert sum(count for _, count in counts.statuses) == counts.requests
