"""The pods of an election: as last seen (`cache`), who may lead (`eligibility`), and their labels.

`labels` and `election_labels` are the only modules that change the labels of pods.
"""
