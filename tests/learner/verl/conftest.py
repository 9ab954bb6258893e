"""verl settles on a platform when it is first imported: these tests run on CPU, in this process as in the workers."""

import os

os.environ.update({"VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": "learner.verl.cpu_platform"})
os.environ.setdefault("VERL_LOGGING_LEVEL", "WARNING")
