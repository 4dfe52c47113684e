"""python3 -m vmtest"""

import sys

from vmtest.run import main

sys.exit(main())
