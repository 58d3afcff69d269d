"""Snapshots: immutable, named by content, checked for dangling references."""

import pytest

from tests.xds_peer import res, world
from xds_server.core.snapshot import EMPTY_WORLD, Snapshot
from xds_server.core.types import BY_URL, CDS, EDS, RDS, TYPES, short


@pytest.mark.rule("P19")
def test_a_type_of_equal_content_has_an_equal_version_whatever_the_order_and_the_serial():
    one = world(1, {CDS: [res("a"), res("b")]})
    other = world(2, {CDS: [res("b"), res("a")]})
    assert one.version(CDS) == other.version(CDS)


@pytest.mark.parametrize("changed", [res("a", "2"), res("b"), res("a", ttl_s=3.0)])
def test_a_change_of_name_content_or_lifetime_changes_the_version(changed):
    assert world(1, {CDS: [changed]}).version(CDS) != world(1, {CDS: [res("a")]}).version(CDS)


def test_an_absent_type_and_an_empty_one_are_the_same_world():
    assert world(1, {}).version(CDS) == world(1, {CDS: []}).version(CDS) == EMPTY_WORLD


def test_a_snapshot_does_not_change_with_what_it_was_made_of():
    named = {"a": res("a")}
    snapshot = Snapshot(serial=1, resources={CDS: named})
    named.clear()
    assert list(snapshot.of(CDS)) == ["a"]
    with pytest.raises(TypeError):
        snapshot.of(CDS)["b"] = res("b")


@pytest.mark.rule("P21")
def test_check_names_every_reference_to_something_absent():
    snapshot = world(1, {RDS: [res("r", references=((CDS, "there"), (CDS, "gone")))], CDS: [res("there", references=((EDS, "pods"),))]})
    assert snapshot.check() == (
        "CDS 'there' needs EDS 'pods', which is not in the snapshot",
        "RDS 'r' needs CDS 'gone', which is not in the snapshot",
    )


def test_the_table_of_types_is_sound():
    assert [row.short for row in TYPES] == ["CDS", "EDS", "LDS", "RDS", "RTDS"]
    for row in TYPES:
        assert set(row.parents) <= BY_URL.keys()
        assert row.url not in row.parents
    assert short("type.googleapis.com/other") == "type.googleapis.com/other"
