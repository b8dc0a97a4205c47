"""`python -m deploy.local`: see deploy.local.main."""

import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing to clean up yet: Ctrl-C prints no traceback
    from deploy.local.main import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
