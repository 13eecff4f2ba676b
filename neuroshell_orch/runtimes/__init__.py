"""Adapters that load one model format. Imported only inside a worker process, never by the daemon or the CLI."""
