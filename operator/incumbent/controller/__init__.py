"""One operator process, from its start (`process`) to one pass over an election (`reconciler`).

`lifecycle` is the only module that imports kopf. `registry` knows all elections, and `campaigner`
has the loops of one.
"""
