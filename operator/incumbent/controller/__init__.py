"""One operator process: `process` starts and ends it, and `registry` knows all elections.

`lifecycle` is the only module that imports kopf.
"""
