"""The adapter to the API server: `connection` is the only module that imports `kubernetes`.

`api` has the requests, `session` sends those of kopf, `turns` and `fairness` say whose request
comes next. `objects` and `resource` are what is read, and `ports` is what a cluster must offer.
"""
