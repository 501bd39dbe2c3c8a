"""The adapter to NATS: `client` is the only module that imports `nats`.

`login` has the settings and credentials, and `servers` the addresses. A `client` is connected to
one server. `connection` keeps a process connected, with one client after another.

`bucket` is a key-value bucket on a connection. `requests` sends single requests, `watch` keeps the
watch of all keys, `feed` receives the messages of one consumer for this watch, `subscribers` calls
those who watch, and `write_problems` remembers which writes are not stored. `jetstream` encodes and
decodes the messages, `lookups` decides how often to ask for a bucket that cannot be used, and
`ports` defines what a bucket needs from a connection. `continuity`, which is pure, remembers which
revisions a watch left out.
"""
