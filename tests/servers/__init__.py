"""The servers that tests need: found running, or started for the run and gone after it.

`Servers.url("redis")` is the way in, and the fixtures of `tests.servers.fixtures` are the way there. For
each kind, in this order:

1. The server named by ``TEST_REDIS_URL``, ``TEST_POSTGRESQL_URL``, ``TEST_MARIADB_URL`` or
   ``TEST_RABBITMQ_URL``. The value ``start`` asks for a private one, and an empty value for none.
2. One that runs on the usual port of this machine.
3. One that is installed: it is started on a free port with its data in a temporary folder.
4. None: a test that asks is skipped with the reason, or fails where ``CI`` is set.

Whatever server it is, the run has an area of its own on it: a logical database of Redis, a database
of PostgreSQL or MariaDB, a virtual host of RabbitMQ. It is removed at the end; what a killed run
left is removed by the next one on the same machine. Where a URL of RabbitMQ names a virtual host
other than ``/``, that one is used as it is, and stays with what is in it.
"""
