"""Policy, pure: no asyncio, no os, no clock. May import ``errors`` and nothing else of ours."""
