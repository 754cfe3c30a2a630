"""A load generator: `stageline bench serve` plans requests, sends them to a server and reports what it saw."""
