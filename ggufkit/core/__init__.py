"""What everything stands on: errors, records, units, paths, processes, hashes, manifests."""
