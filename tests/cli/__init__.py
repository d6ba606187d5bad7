"""
The command line as a user and a script meet it: in processes of its own, on real brokers.
"""
