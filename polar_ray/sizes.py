"""What counts as small: the sizes at which work is done in another way, in one table.

Layer 0, because the client joins calls by the same sizes as the router. All sizes are bytes of
UTF-8 text (or of the stream that carries it) unless a name says otherwise.

| name | up to here |
|---|---|
| `TINY_BYTES` | a body is decoded in the event loop: handing it to a thread takes longer |
| `SMALL_ROWS` | a batch is checked and divided in the event loop, for the same reason |
| `SHARD_BYTES` | a shard is not divided further: a forward pass of less leaves the device idle |
| `SMALL_BYTES` | a call, parcel or table is small, see below |
| `BUNDLE_BYTES` | small calls travel together: four large ones of them, or some hundred rollouts |
| `LARGE_BYTES` | a body is decoded beside others; larger ones wait for each other in one thread |
| `LOOKAHEAD` | parcels (not bytes) that cannot be sent now are skipped when the queue is searched |

A small call is joined with others, by the client and by the router, because a call costs
milliseconds whatever is in it. A small parcel may use one more slot of a replica, so that it does
not wait for large ones. A small table travels inside the call as a stream, where Ray would take
twenty times as long to pickle it as a table; a larger one goes through the object store.
"""

from __future__ import annotations

TINY_BYTES = 1 << 12
SMALL_BYTES = 1 << 16
BUNDLE_BYTES = 4 * SMALL_BYTES
LARGE_BYTES = 16 * SMALL_BYTES
SHARD_BYTES = 2 * TINY_BYTES
SMALL_ROWS = 64
LOOKAHEAD = 64
