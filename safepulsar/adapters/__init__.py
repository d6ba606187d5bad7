"""
The right way to send, made the shortest one in each framework. Each module needs its framework, and says which extra has it.
"""
