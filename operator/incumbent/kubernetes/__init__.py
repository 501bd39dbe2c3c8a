"""The adapter to the API server: `kubeconfig` is the only module that imports `kubernetes`.

`kubeconfig` finds the access data. `route` holds the part of them that requests need, `connection`
sends requests with it, and `answers` interprets the answers. `requests` lets each request wait for
its turn, and `turns` and `fairness` decide the order. `api` has the requests about pods, slices and
elections, `watch` lists and watches pods, and `session` sends the requests of kopf. `objects`,
`pod_json`, `resource`, `versions` and `events` describe the data that is read and written. `ports`
is the interface that the operator needs from a cluster.
"""
