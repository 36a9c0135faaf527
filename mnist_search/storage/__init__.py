"""The study store: database, leases, trial queue, weights."""
