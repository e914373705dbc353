"""What a read, a policy, an outage cost, here and elsewhere: peers and us alternate in one run, on one core."""
