"""Model files: the registry, telling formats apart, the catalogue, conversion, prepared files."""
