"""One member's part in one election: create the record, renew it, and stop in time.

`machine` decides and `driver` does the I/O; all other modules are pure. `records` defines the
values, `wire` encodes them as NATS headers, and `timing` computes the durations from the values in
`configuration`. `ports` defines what a bucket must offer.
"""
