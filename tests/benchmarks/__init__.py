"""
The benchmarks measure what they say, and the gate sees what it should.
"""
