"""
Every accepted message, and what became of it: counted, kept, told.
"""
