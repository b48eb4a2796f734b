"""Who may ask for how much, who asked for what, and what it cost.

Keys and their limits are checked from memory as a request comes in; what it took is added up in
memory as it ends; a task writes both ways between memory and the database. Nothing here waits on
a request's path.
"""
