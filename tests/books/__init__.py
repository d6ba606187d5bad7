"""
Every accepted message ends in one fate, which is counted, kept and told.
"""
