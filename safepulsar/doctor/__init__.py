"""
Looks at a broker, at settings and at this process, and names each hazard it sees with its remedy.
"""

from safepulsar.doctor.examination import PROBE_TOPIC, examine
from safepulsar.doctor.finding import Finding, Level

__all__ = ["PROBE_TOPIC", "Finding", "Level", "examine"]
