"""
What type checkers see of the public API.
"""
