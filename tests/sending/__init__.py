"""
The parts of a sender together.
"""
