"""
What holds on every transport: the fake broker, pulsar-lite and Apache Pulsar.
"""
