"""
A real Apache Pulsar for the tests: its jars, its process and its admin interface.
"""
