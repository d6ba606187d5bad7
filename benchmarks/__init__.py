"""
safepulsar side by side with the raw client, `pulsar.asyncio`, the naive code and other languages: ratios in one run.

    python -m benchmarks run [--only CASE …] [--quick] [--json FILE]
    python -m benchmarks compare OLD NEW
    python -m benchmarks check [--short]
    python -m benchmarks plot RESULTS

`docs/performance.md` has the results and says how they are measured.
"""
