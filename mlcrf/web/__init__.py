"""HTTP serving shared by `review` and `serve`: sockets, time limits, signals, headers."""
