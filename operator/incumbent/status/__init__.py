"""What people are told: the status, and the events that follow from its changes.

`situation` is what is known. `conditions` judges it, `fields` makes the status of it, and `events`
compares two of these. They are pure; `writer` writes.
"""
