"""The servers that tests may have, in one place."""

from .base import Server
from .redis_servers import RedisCluster, RedisServer
from .sql_servers import MariaDbServer, PostgresServer

__all__ = ["MariaDbServer", "PostgresServer", "RedisCluster", "RedisServer", "Server"]
