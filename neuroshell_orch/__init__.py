"""neuroshell-orch: a user service that keeps local models exactly as warm as the desktop allows.

This file owns the version and nothing else; importing the package must stay free of cost.
"""

__version__ = "0.1.0"
