"""The adapter to NATS: `connection` is the only module that imports `nats`.

`login` and `servers` say how to get in, `connection` is one connection, `bucket` a key-value bucket
on it, `jetstream` the messages. `lookups` says how often to ask for a bucket that cannot be used.
`continuity` is pure.
"""
