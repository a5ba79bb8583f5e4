"""An embedded ZStack management node that answers as strictly as the real one, with faults and a ledger.

``node`` is the pure core, driven by the owner of the clock; ``server`` puts it behind a socket; ``__main__`` is the
process that ``zclone simulate`` starts. Of zclone it uses only the table of parameters.
"""
