"""
Looks at a broker, at settings and at this process, and names each hazard it sees with its remedy.
"""

from safepulsar.doctor.code import examine_code
from safepulsar.doctor.examination import PROBE_TOPIC, examine
from safepulsar.doctor.failures import Cause, FailureReport, Origin, examine_failures
from safepulsar.doctor.finding import Finding, Level

__all__ = [
    "PROBE_TOPIC",
    "Cause",
    "FailureReport",
    "Finding",
    "Level",
    "Origin",
    "examine",
    "examine_code",
    "examine_failures",
]
