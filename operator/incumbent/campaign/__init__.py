"""One member's part in one election: create the record, renew it, and stop in time.

`machine` decides and `driver` does the I/O; all other modules are pure. `records` has the values,
`wire` their headers in NATS, `timing` the durations, `configuration`
what they are made from, and `ports` what a bucket must offer.
"""
