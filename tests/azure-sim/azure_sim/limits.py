"""How long anything is waited for."""

# A wait ends when what it waits for has come, so this only ends a hang: no machine, however busy, may
# be slower. In seconds.
HANG_LIMIT = 60.0
