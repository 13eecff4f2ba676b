"""Facts about the desktop that bear on memory. Each module turns one of them into values."""
