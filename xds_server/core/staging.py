"""A canary of the configuration itself, for one group of proxies, as a value machine: who may see which change, and what came of it.

A change of structure is tried by one proxy, then by a tenth, then everybody has it. It goes on when every proxy that tries it has ACKed and
stayed for a moment. A rejection, or proxies that go away or fall silent with it, stop it there; of several changes tried together the guilty
one is found by trying fewer at a time. What is convicted stays so until it is proposed anew with another token.

The parts (a rollout, the listeners) are opaque names and their structures opaque tokens; `xds_server.runtime.group` gives them meaning and
moves the proxies. No clock and no I/O: time comes in.
"""

from collections.abc import Collection, Hashable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

WAIT_S: Final = 1.0
"""How long proxies must stay after their ACK before more of them get a change [s]."""

ANSWER_S: Final = 15.0
"""A proxy that has not answered by then counts as lost [s]."""

TENTH: Final = 10

NAMED: Final = 3
"""Proxies named in a sentence; of more it tells the number."""

_NONE: Final = object()


@dataclass(slots=True, kw_only=True)
class Trial:
    """Parts that some proxies try.

    Attributes:
        size: Proxies that should try it now.
        nodes: Those that do, with the time each was chosen.
        acked: Those of them that accepted it.
        lost: Proxies that went away or did not answer, in words.
        since: When the last of the ACKs was seen; None while one is missing.
    """

    parts: frozenset[str]
    size: int = 1
    nodes: dict[str, float] = field(default_factory=dict)
    acked: set[str] = field(default_factory=set)
    lost: list[tuple[str, str]] = field(default_factory=list)
    since: float | None = None


class Staging:
    """Proposals, trials and verdicts of one group.

    Attributes:
        accepted: Structure of each part that every proxy may see; None for one that nobody may see yet.
        convicted: Why a part's newest structure is kept from the proxies.
        trial: What is being tried now.
        revision: Grows whenever one of these changed.
    """

    def __init__(self, *, wait_s: float = WAIT_S, answer_s: float = ANSWER_S) -> None:
        self._wait_s = wait_s
        self._answer_s = answer_s
        self._pending: dict[str, Hashable] = {}
        self._guilty: dict[str, Hashable] = {}
        self._unproven: set[str] = set()
        self._limit: int | None = None
        self.accepted: dict[str, Hashable] = {}
        self.convicted: dict[str, str] = {}
        self.trial: Trial | None = None
        self.revision = 0

    @property
    def pending(self) -> Collection[str]:
        """Parts that are on trial or wait for it, in the order of their proposal."""
        return self._pending.keys()

    @property
    def behind(self) -> AbstractSet[str]:
        """Parts whose newest structure the fleet must not see."""
        return self._pending.keys() | self._guilty.keys()

    # What is wanted.

    def restore(self, part: str, token: Hashable) -> None:
        """What the fleet has of a part whose newer structure was not accepted when an earlier process ended: nothing goes past a trial."""
        self.accepted[part] = token
        self._unproven.add(part)

    def propose(self, part: str, token: Hashable) -> None:
        """The newest structure of a part; proposing it again changes nothing."""
        known = (self._pending, self._guilty, self.accepted)
        if next((found[part] for found in known if part in found), _NONE) == token:
            return
        self._forget(part)
        if self.accepted.get(part, _NONE) != token:
            self._pending[part] = token
        self.revision += 1

    def accept(self, part: str, token: Hashable) -> None:
        """A structure that needs no trial: everybody has it from now on."""
        if self.accepted.get(part, _NONE) != token or part in self.behind:
            self._forget(part)
            self.accepted[part] = token
            self._unproven.discard(part)
            self.revision += 1

    def withdraw(self, part: str) -> None:
        """The part is gone, for everybody at once."""
        self._forget(part)
        self.accepted.pop(part, None)
        self._unproven.discard(part)
        self.revision += 1

    def _forget(self, part: str) -> None:
        self._pending.pop(part, None)
        self._guilty.pop(part, None)
        self.convicted.pop(part, None)
        if self.trial is not None and part in self.trial.parts:
            self.trial.parts -= {part}
            if not self.trial.parts:
                self._end()

    # What the proxies say.

    def acked(self, node: str) -> None:
        """A proxy accepted all that is on trial."""
        if self.trial is not None and node in self.trial.nodes:
            self.trial.acked.add(node)

    def rejected(self, node: str, words: str, suspects: Iterable[str] = ()) -> None:
        """A proxy rejects something while it tries the change.

        Args:
            suspects: Parts that what it rejects belongs to; none when that cannot be told.
        """
        if self.trial is not None and node in self.trial.nodes:
            self.failed(words, suspects)

    def lost(self, node: str, how: str = "went away") -> None:
        """A proxy is gone, or might as well be. One may have its own reasons; more than one (or a tenth) are the change's doing."""
        trial = self.trial
        if trial is None or node not in trial.nodes:
            return
        del trial.nodes[node]
        trial.acked.discard(node)
        trial.since = None
        trial.lost.append((node, how))
        self.revision += 1
        if len(trial.lost) > max(1, trial.size // TENTH):
            self.failed(_told(trial.lost))

    def failed(self, words: str, suspects: Iterable[str] = ()) -> None:
        """The trial is over: the one guilty part is convicted, or fewer are tried together."""
        trial = self.trial
        assert trial is not None
        self._unproven |= trial.parts
        named = trial.parts.intersection(suspects)
        guilty = trial.parts if len(trial.parts) == 1 else named if len(named) == 1 else ()
        for part in guilty:
            self._guilty[part] = self._pending.pop(part)
            self.convicted[part] = words
        if not guilty:
            self._limit = (len(trial.parts) + 1) // 2
        self._end()

    # What happens next.

    def straight(self, proxies: int) -> None:
        """With at most one proxy there is nobody to spare: what is pending goes out at once, except what was suspected before."""
        if proxies > 1:
            return
        on_trial = self.trial.parts if self.trial else frozenset()
        for part in [part for part in self._pending if part not in self._unproven and part not in on_trial]:
            self._take(part)

    def advance(self, proxies: Sequence[str], *, now: float) -> None:
        """Begins, widens or ends the trial. To be called whenever time has passed.

        Args:
            proxies: All connected proxies of the group, those to be chosen first at the front.
        """
        self.straight(len(proxies))
        if self.trial is None:
            parts = frozenset(list(self._pending)[: self._limit])
            if not parts or not proxies:
                return
            self.trial = Trial(parts=parts)
            self.revision += 1
        trial, connected = self.trial, frozenset(proxies)
        for node, chosen_at in tuple(trial.nodes.items()):
            if node not in connected:
                self.lost(node)
            elif node not in trial.acked and now - chosen_at >= self._answer_s:
                self.lost(node, f"did not answer within {self._answer_s:.0f} s")
            if self.trial is not trial:
                return
        if self._fill(trial, proxies, now=now) or not trial.nodes.keys() <= trial.acked or not trial.nodes:
            trial.since = None
        elif trial.since is None:
            trial.since = now
        elif now - trial.since >= self._wait_s:
            self._widen(trial, proxies, now=now)

    def _fill(self, trial: Trial, proxies: Sequence[str], *, now: float) -> bool:
        """Chooses proxies until there are enough; one that was lost only where no other is left."""
        lost = {node for node, _ in trial.lost}
        fresh = [node for node in proxies if node not in trial.nodes]
        fresh.sort(key=lost.__contains__)
        chosen = fresh[: max(0, min(trial.size, len(proxies)) - len(trial.nodes))]
        trial.nodes.update(dict.fromkeys(chosen, now))
        self.revision += bool(chosen)
        return bool(chosen)

    def _widen(self, trial: Trial, proxies: Sequence[str], *, now: float) -> None:
        tenth = -(-len(proxies) // TENTH)
        if trial.size == 1 < tenth:
            trial.size, trial.since = tenth, None
            self._fill(trial, proxies, now=now)
            return
        for part in trial.parts:
            self._take(part)
        self._limit = None if self._limit is None or not self._pending else 2 * self._limit
        self._end()

    def _take(self, part: str) -> None:
        self.accepted[part] = self._pending.pop(part)
        self._unproven.discard(part)
        self.revision += 1

    def _end(self) -> None:
        self.trial = None
        self.revision += 1
        if not self._pending:
            self._limit = None


def _told(lost: Sequence[tuple[str, str]]) -> str:
    (first, how), *others = lost
    again = sorted({node for node, _ in others} - {first})
    more = f" and {len(again) - NAMED} more" if len(again) > NAMED else ""
    return f"proxy {first} {how} while it tried the change" + (f"; so did {', '.join(again[:NAMED])}{more}" if again else ", twice")
