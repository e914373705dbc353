"""Features in redis and valkey: `type: redis` in a config."""

from featurechaos_redis.astore import AsyncRedisStore
from featurechaos_redis.spec import RedisSpec
from featurechaos_redis.store import RedisStore

__all__ = ["AsyncRedisStore", "RedisSpec", "RedisStore"]
