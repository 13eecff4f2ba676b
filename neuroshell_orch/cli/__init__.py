"""The ``nsorch`` command: parse, call the client, render. No policy lives here."""
