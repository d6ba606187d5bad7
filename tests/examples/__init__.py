"""
The examples run as their readers would run them, on a real broker.
"""
