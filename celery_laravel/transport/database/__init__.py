"""The broker in a database: a kombu transport for ``database+<SQLAlchemy URL>``.

`transport` and `channel` are what kombu sees; `messages` and `queues` are what
is done to the tables; `connection` owns the connection to the database, across
threads and forks; `dialects` holds what differs from one database to the next.
"""
