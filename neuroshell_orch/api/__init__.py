"""HTTP: one module per convention, all of them thin over the engine."""
