"""Long frames as pages of the system: sent once per socket without a copy, bounded, given back, and never in the way."""

import contextlib
import errno
import os
import socket
from pathlib import Path

import pytest

from xds_server.adapters import shared_pages
from xds_server.adapters.shared_pages import SharedPages

LONG = bytes(range(256)) * 1000


@pytest.fixture
def pages():
    made = SharedPages(room=4 * len(LONG))
    yield made
    made.close()


@pytest.fixture
def pair():
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as peer:
        ours, _ = listener.accept()
        ours.setblocking(False)
        with ours:
            yield ours, peer


def files():
    """Files without a name that are open."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found.append(str(each.readlink()))
    return sum("memfd:crossfade" in each for each in found)


def read(peer, size):
    got = b""
    while len(got) < size:
        got += peer.recv(size - len(got))
    return got


def test_what_is_sent_arrives_and_is_copied_once_for_all_sockets(pages, pair):
    ours, peer = pair
    for _ in range(3):
        sent = pages.send(ours.fileno(), LONG)
        assert 0 < sent <= len(LONG)
        assert read(peer, sent) == LONG[:sent]
    assert pages.held == len(LONG)
    assert files() == 1


def test_a_socket_that_is_full_takes_a_part_and_then_nothing(pages, pair):
    ours, peer = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
    taken = []
    while (sent := pages.send(ours.fileno(), LONG)) > 0:
        taken.append(sent)
    assert read(peer, sum(taken)) == b"".join(LONG[:sent] for sent in taken)


def test_what_a_stalled_peer_has_not_read_stays_what_it_was_when_the_copy_is_forgotten(pages, pair):
    ours, peer = pair
    sent = pages.send(ours.fileno(), LONG)
    pages.expire()
    pages.expire()
    assert files() == 0
    pages.send(ours.fileno(), bytes(len(LONG)))
    assert read(peer, sent) == LONG[:sent]


def test_a_socket_that_is_gone_takes_nothing(pages, pair):
    ours, _ = pair
    ours.shutdown(socket.SHUT_WR)
    assert pages.send(ours.fileno(), LONG) == 0
    number = ours.fileno()
    ours.close()
    assert pages.send(number, LONG) == 0


def test_what_was_not_sent_for_two_turns_of_the_clock_is_given_back(pages, pair):
    ours, peer = pair
    other = bytes(LONG)[:-1]
    read(peer, pages.send(ours.fileno(), LONG))
    pages.expire()
    read(peer, pages.send(ours.fileno(), other))
    assert pages.held == len(LONG) + len(other)
    pages.expire()
    assert pages.held == len(other)
    pages.close()
    assert pages.held == files() == 0


def test_room_and_files_are_bounded_and_the_oldest_go(pages, pair, monkeypatch):
    ours, peer = pair
    buffers = [bytes([place]) * len(LONG) for place in range(6)]
    for buffer in buffers:
        read(peer, pages.send(ours.fileno(), buffer))
    assert pages.held == 4 * len(LONG)
    assert files() == 4
    monkeypatch.setattr(shared_pages, "_MAX_FILES", 2)
    read(peer, pages.send(ours.fileno(), LONG))
    assert files() == 2
    assert pages.send(ours.fileno(), bytes(4 * len(LONG) + 1)) == 0, "longer than all the room there is"


@pytest.mark.parametrize("fails", ["memfd_create", "write"])
def test_without_memory_nothing_is_sent_this_way_until_the_next_turn_of_the_clock(pages, pair, monkeypatch, fails):
    ours, _ = pair
    tried = []

    def refuse(*_):
        tried.append(fails)
        raise OSError(errno.EMFILE, "no more")

    with monkeypatch.context() as patched:
        patched.setattr(os, fails, refuse)
        assert [pages.send(ours.fileno(), LONG) for _ in range(3)] == [0, 0, 0]
    assert len(tried) == 1
    assert files() == 0
    assert pages.send(ours.fileno(), LONG) == 0
    pages.expire()
    assert pages.send(ours.fileno(), LONG) > 0
