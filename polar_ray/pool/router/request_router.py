"""Serve's request router for the pool's replicas: a call goes to the one that its session names.

Serve's own choice knows queue lengths only, and finds a freed slot by polling; here the dispatcher
has chosen before. Serve still keeps the connections and says who runs. Serve ships this class by
value, so that its methods look other modules up when they are called.
"""

from __future__ import annotations

from typing import Any

from ray.serve.exceptions import ReplicaUnavailableError
from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from polar_ray.pool.ingress import Plain


class ByName(RequestRouter):  # type: ignore[misc]
    """Sends a call to the replica whose name is its `session_id`, or refuses it at once."""

    def create_replica_wrapper(self, replica_info: Any) -> RunningReplica:
        """Called plainly: a router that is stopped must not stop the replica, see `Plain`."""
        return Plain(replica_info, self.replica_queue_len_cache.get)

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """The one replica, whose slots `dispatcher` counts: Serve need not ask for them."""
        assert pending_request is not None, "a call without a target has no way to go"
        name = pending_request.metadata.session_id
        for replica in candidate_replicas:
            if replica.replica_id.unique_id == name:
                self.replica_queue_len_cache.update(replica.replica_id, 0)
                return [[replica]]
        if not pending_request.future.done():
            pending_request.future.set_exception(ReplicaUnavailableError(name))
        # Serve looks at the call again once it has candidates, and sees that it is over.
        return [candidate_replicas]

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Serve's controller says who runs."""
        super().update_replicas(replicas)
        self._publish()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        """A call found a replica dead, before the controller did."""
        super().on_replica_actor_died(replica_id)
        self._publish()

    def _publish(self) -> None:
        from polar_ray.pool.router import running

        names = [replica.replica_id.unique_id for replica in self.curr_replicas.values()]
        running.publish(self.app_name, names)
