"""Redis or Valkey: the client, and what pictures, messages and listeners need of it.

Each has a module of its own; these are the names by which they are known. What the worker does needs no more rights
than these, from Redis 6.2 on; ``~*`` and ``&*`` may be narrowed to the archives' own keys and channels, together with
``~detector_worker:*``:

    ACL SETUSER detector-worker on >PASSWORD resetchannels ~* &* +client|setname +set +eval +exists +time +publish +info

``+config|get`` lets it see whether snapshots are taken, and all other settings; without it, it believes they are.
``+select`` where the address names a database but 0. Who reads pictures by these classes needs ``+ping +get +del +scan
+subscribe`` besides.
"""

from detector_worker.storage.redis.address import RedisTls
from detector_worker.storage.redis.channels import RedisPublisher, RedisSubscriber
from detector_worker.storage.redis.images import ImageInfo, RedisImageStorage
from detector_worker.storage.redis.pool import Command, RedisClient

__all__ = [
    "Command",
    "ImageInfo",
    "RedisClient",
    "RedisImageStorage",
    "RedisPublisher",
    "RedisSubscriber",
    "RedisTls",
]
