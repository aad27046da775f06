"""`python -m difffuse_hf.cli` is `difffuse`."""

import sys

from .main import main

sys.exit(main())
