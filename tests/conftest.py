"""For all tests: hypothesis may take its time, since how long an example takes proves nothing."""

from hypothesis import settings

settings.register_profile("asyncds", deadline=None)
settings.load_profile("asyncds")
