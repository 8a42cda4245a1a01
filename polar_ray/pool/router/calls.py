"""The open calls of a router, and which parcels were sent with rows of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from polar_ray.pool.router.call import Call
from polar_ray.pool.router.work import Parcel


class Calls:
    """Cancels at replicas what nobody waits for any more."""

    def __init__(self) -> None:
        self._sent: dict[Call, dict[Parcel, None]] = {}

    def __len__(self) -> int:
        return len(self._sent)

    def __iter__(self) -> Iterator[Call]:
        return iter(self._sent)

    def add(self, call: Call) -> None:
        """A caller has come."""
        self._sent[call] = {}

    def remove(self, call: Call) -> None:
        """A caller has its answer, or has left."""
        self.end(call)
        del self._sent[call]

    def note_sent(self, parcel: Parcel) -> None:
        """A parcel is sent; some of its callers may have left, if it is a suspect."""
        for item in parcel.items:
            if item.call in self._sent:
                self._sent[item.call][parcel] = None

    def sent_for(self, call: Call) -> Iterable[Parcel]:
        """The parcels that were sent with rows of an open call since its last begin."""
        return self._sent[call]

    def end(self, call: Call) -> None:
        """Nobody waits for its rows any more."""
        call.end()
        self.cancel_answered(call)
        self._sent[call].clear()

    def cancel_answered(self, call: Call, family: object = None) -> None:
        """Stops replicas from working on what is answered: on all parcels that were sent with rows
        of the call, or only on those of one family."""
        for parcel in self._sent[call]:
            if family in (None, parcel.family):
                parcel.cancel_if_answered()
