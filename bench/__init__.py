"""Measurements that anybody can repeat: `make bench`. They print figures and judge nothing.

=========  =============================================================================
single     one operator with 100 elections: start, at rest, hand-overs
failover   members in processes of their own, killed; planned ends
cost       what elections cost at rest, beside those of client-go
bucket     conditional writes, expiry, and the loss of stream leaders
scale      thousands of elections in one process: `make bench-scale`
storm      much at once, done to many elections: `make bench-storm`
soak       many elections for hours: `make soak`
crowd      what anybody sees of many elections: labels, and terms
scene      what they share: servers, pods, elections, what processes use
report     the environment, a JSON file for each measurement, the report made from these
plots      bars and curves as SVG
lease/     the program with client-go's LeaderElector
=========  =============================================================================

A measurement has a name, which is its file's, and a coroutine function that returns what goes into
that file. A module of measurements has two functions: `measurements(short=…)` returns them, and
`section(found)` returns what the report says about those that were made.
"""
