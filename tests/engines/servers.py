"""The servers that tests may have, in one place."""

from .base import Server
from .redis_servers import RedisCluster, RedisServer
from .sql_servers import MariaDbServer, PgBouncer, PostgresServer

__all__ = ["MariaDbServer", "PgBouncer", "PostgresServer", "RedisCluster", "RedisServer", "Server"]
