"""
The fake broker's own behaviour.
"""
