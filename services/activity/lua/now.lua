return stored(now)
