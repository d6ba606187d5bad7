"""
What the doctor sees in settings, sources, machines, stores and logs.
"""
