"""The adapter to the API server: `kubeconfig` is the only module that imports `kubernetes`.

`kubeconfig` finds the access, `route` is what requests need of it, `connection` sends with it, and
`answers` says what comes back. `requests` gives each request its turn, which `turns` and `fairness`
decide. `api` has what is asked about pods, slices and elections; `watch` lists and watches pods;
`session` sends the requests of kopf. `objects`, `pod_json`, `resource`, `versions` and `events` are
what is read and written, and `ports` is what a cluster must offer.
"""
