"""A search through every order of events: what may happen between any two awaits of a replica.

A small model of `pods.labels`, the roles of `reconciler.reconciler`, `campaign.machine` and
`campaign.driver`, whose steps have the names that the code uses, is followed from its start through
all states that it can reach. In each of them one pod of a site at most may carry the leader label,
tokens must not go back, and a site may only lead after the other one has stopped.
`python -m model --help` says how to run it.

=========  =============================================================
state      what there is: the key, pods, replicas, and what is on its way
replica    what a replica does, one await after the other
world      what happens to it: expiry, evictions, crashes, late answers
search     all states, the shortest way to a broken promise
scenarios  how much of the world is searched, and which rules can be left out
=========  =============================================================

How it stays finite, and what that leaves out:

* Revisions are not counted. A replica knows the latest entry or it does not, and a read of a pod
  is still fresh or it is not: nothing else about a revision is ever asked. Only terms are counted,
  and their number is bounded; renewals are not.
* Time is what has run out. A lease runs out whenever it likes, and a record expires whenever no
  lease counts any more. That is all that the clocks promise.
* Who is ready is left to chance: a steward may hand over to any pod at any moment.
* What a replica sees of pods may lag, so a strip of what it sees is a chance, not a duty.
* Only labels on their way to the API server are held back there. A strip that comes late takes a
  label away or changes nothing, and takes the freshness of every read with it.
"""
