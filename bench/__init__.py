"""Measurements that anybody can repeat: `make bench`. They print figures; `hostile` judges them.

=========  =============================================================================
failover   members in processes of their own, killed, also client-go's; planned ends
cost       what elections cost at rest, beside those of client-go
speed      1, 100 and 1,000 elections: start, at rest, how fast another pod leads
bucket     conditional writes, expiry, and the loss of stream leaders
scale      thousands of elections in one process: `make bench-scale`
storm      much at once, done to many elections: `make bench-storm`
hostile    strangers and a tenant who burden an operator: `make bench-hostile`
soak       many elections for hours: `make soak`
crowd      what anybody sees of many elections: labels, and terms
scene      what they share: servers, pods, elections, what processes use
report     the environment, a JSON file for each measurement, the report made from these
plots      bars and curves as SVG
lease/     the program with client-go's LeaderElector
=========  =============================================================================

A measurement has a name, which is its file's, and a coroutine function that returns what goes into
that file. One that is judged has a function for that, too: `python -m bench` fails if it says so. A
module of measurements has two functions: `measurements(short=…)` returns them, and `section(found)`
returns what the report says about those that were made. `KEPT` names results of earlier states, for
the report alone.
"""
