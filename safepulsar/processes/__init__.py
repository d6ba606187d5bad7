"""
What the process itself goes through: exit, signals, forks, and whether another one lives.
"""
