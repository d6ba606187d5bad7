"""
The whole under faults: real orders under load while brokers, connections and applications fail; the checker judges.
"""
