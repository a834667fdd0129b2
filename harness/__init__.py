"""Real servers on loopback, for the tests, the demo and the benchmarks. Not part of the installed package."""
