"""Run the battery: ``python -m benchmarks.doctor``."""

import sys

from benchmarks.doctor.battery import main

sys.exit(main())
