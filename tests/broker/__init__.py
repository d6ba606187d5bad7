"""
Clients, producers, and what the broker's answers mean.
"""
