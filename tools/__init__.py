"""
What the project's own tests and developers run, and no user needs.
"""
