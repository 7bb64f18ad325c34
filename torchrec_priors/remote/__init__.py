"""Remote data: URIs, the stores behind them, and the local cache of their files."""
