"""Chaos: two sites contest elections on real servers, while things break at random.

A checker reads the whole history of pods and bucket, and says whether a promise was broken.
`python -m chaos --help` says how to run it; `make chaos` does.

==========  =====================================================================
plan        which faults come when: a seed, a plan. Pure
operators   operators with links of their own, of this version or the previous one
world       the servers and operators, and what is done to them
recorder    watches pods and bucket on connections of its own, and writes the history
history     what happened: plain values
checker     the promises, checked over a history. Pure
report      the same in words
rehearsal   whether the checker finds faults that were planted into operators
planted     these faults: an operator with one of them
==========  =====================================================================

Nothing but `planted`, which runs in a process of its own, imports the operator: what it says about
itself proves nothing.
"""
