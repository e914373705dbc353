"""The policies, in their usual order, outermost first:

    Fallback(Deadline(Failover(Hedge(Retry(Steer(Breaker(Empty(Attempt(Remember(faults(Fetch)))))))))))

Each is a `Layer`: it takes a request and the next layer, and gives a plan. They do no I/O and do not
know one another; `serving.py` puts them together.
"""
