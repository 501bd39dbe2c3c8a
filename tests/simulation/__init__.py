"""A deterministic simulation of elections: one seed, one run.

Real campaigns (`incumbent.campaign.machine.Campaign`) contest one key of a modelled bucket, behind
modelled networks, clocks and processes, against a model of a Choria member. A referee checks the
promises at every instant of virtual time. `python -m simulation --help` says how to explore.
"""
