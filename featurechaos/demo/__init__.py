"""The demo's world: real flights of 2013, and real servers on loopback that stop whatever happens."""
