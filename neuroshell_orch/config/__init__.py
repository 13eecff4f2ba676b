"""The drop-in tree: reading, checking, merging and writing configuration."""
