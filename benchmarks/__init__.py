"""
safepulsar side by side with the raw client: ratios in one run, never times.

    python -m benchmarks run [--quick] [--broker lite|real|both] [--json FILE]
"""
