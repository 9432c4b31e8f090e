"""Unverified groups: those made by weights that are not judged yet.

A generator goes on with new weights the moment it has them. Whether they are the learner's is known
when the weight sync is over: until then a group with tokens by them is neither journaled nor
acknowledged. When the coordinator ends meanwhile, its generator sends it again.
"""

from collections.abc import Callable

from asyncds.fleet.membership import Fleet, Member
from asyncds.protocol.wire import Delivered


class UnverifiedGroups:
    """Groups that wait for the verdict on the weights they were made by.

    unverified: the version that a member, by its name, is sent by a weight sync that is not over,
    None where there is none.
    """

    def __init__(self, *, fleet: Fleet, unverified: Callable[[str], int | None]) -> None:
        self._fleet = fleet
        self._unverified = unverified
        self._waiting: dict[tuple[str, int], tuple[int, Member, Delivered]] = {}

    def add(self, member: Member, message: Delivered) -> None:
        """Keep a group with tokens by the version that its generator is being sent."""
        version = self._unverified(member.name)
        assert version is not None
        self._waiting[member.name, message.lease] = version, member, message

    def take(self) -> list[tuple[Member, Delivered]]:
        """The groups whose weights were judged since, by members that are still there."""
        judged = {
            key: (member, message)
            for key, (version, member, message) in self._waiting.items()
            if self._unverified(member.name) != version
        }
        for key in judged:
            del self._waiting[key]
        return [(m, g) for m, g in judged.values() if self._fleet.by_peer(m.peer) is m]
