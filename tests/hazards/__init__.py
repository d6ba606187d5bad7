"""
The hazards: what the official client does to a producer, and what safepulsar makes of it; `docs/hazards.md` is their table.

A test whose name begins with `test_control_` runs the official client alone and asserts the hazard itself. When one of
them fails, the client has changed, and perhaps there is one hazard less.
"""
