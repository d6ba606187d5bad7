"""
The outbox.
"""
