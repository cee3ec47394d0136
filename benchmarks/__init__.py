"""What the bus costs, next to its peers: `make bench`, docs/reference/benchmarks.md."""
