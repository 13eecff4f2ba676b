"""systemd glue: activation, readiness, journal, units. Imports nothing of ours."""
