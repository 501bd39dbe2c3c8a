"""The adapter to NATS: `client` is the only module that imports `nats`.

`login` and `servers` say how to get in, `client` is connected to one server, and `connection` keeps
a process connected by one client after another.

`bucket` is a key-value bucket on a connection: `requests` asks for something once, `watch` keeps
the watch of all its keys, `feed` is what one consumer delivers for that, `subscribers` are told,
and `write_problems` says which writes are not stored. `jetstream` has the messages, `lookups` says
how often to ask for a bucket that cannot be used, and `ports` what a bucket needs of a connection.
`continuity` is pure.
"""
