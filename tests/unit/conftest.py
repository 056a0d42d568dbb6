"""Settings of the properties: the machine may be busy, so no deadline."""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "unit", deadline=None, database=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("unit")
