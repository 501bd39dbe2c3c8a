"""One operator process, from its start (`process`) to one pass over an election (`reconciler`).

`lifecycle` is the only module that imports kopf. `registry` knows all elections, and `campaigner`
runs the loops of one. What a campaigner does beside the `reconciler`'s part is in modules with a
class each, which owns its state: `schedule` (when a pass is made), `configuration` (of the
campaign), `recognition` (who wrote the record), `answers` (to replicas that cannot see the key),
`expiry`, `token_regress`, `retirement`; `problems`, `situations`, `report` and `view` are about
what is told. `context` has what all of them work with.
"""
