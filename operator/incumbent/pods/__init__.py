"""The pods of an election: their last known state (`cache`), which may lead, and their labels.

`eligibility` decides which pods may lead. `labels` and `election_labels` change the labels of pods
for an election. `orphans` removes labels of elections that no longer exist. No other module changes
the labels of pods.
"""
