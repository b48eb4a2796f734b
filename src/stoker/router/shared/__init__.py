"""What several routers in front of the same engines share, through Redis.

Without Redis, or while it is away, each router goes by what it knows itself.
"""
