"""One pass over labels, slices and terms: `reconciler` dispatches to the role of the replica.

`standing` says which role that is: `steward`, `standby`, `vacancy` or `unseen_key`. `teardown`
takes everything back. `observed` is the one role of the mode `Observed`.
"""
