"""The adapter to the API server: `connection` is the only module that imports `kubernetes`.

`api` has what is asked about pods, slices and elections; `requests` sends it, and `watch` lists
and watches pods. `session` sends the requests of kopf; `turns` and `fairness` say whose request
comes next. `objects`, `pod_json`, `resource`, `versions` and `events` are what is read and written,
and `ports` is what a cluster must offer.
"""
