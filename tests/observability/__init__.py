"""
What is told to the outside: observers, logs, metrics, traces, and what finds a fault.
"""
