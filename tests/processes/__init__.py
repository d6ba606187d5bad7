"""
Exit, signals, forks, and other processes that live or die.
"""
