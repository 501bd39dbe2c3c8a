"""One replica's work for one election: `campaigner` runs its three loops.

`schedule` decides when a pass is made, and `report` when there is something to tell. The others are
parts of a pass, each with its own state.
"""
