"""Remote data: its URIs, its object stores, and a local cache of its files."""
