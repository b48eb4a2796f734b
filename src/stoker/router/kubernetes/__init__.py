"""Engines found as Kubernetes pods: which there are, whether they answer, when they leave.

Two requests of one resource, list and watch, over the router's own connections: a client library
would bring many megabytes for them, and what matters (what was missed while a watch was broken or
silent) would still be ours to do. `access` says where the API server is and who asks, `api` asks,
`pods` reads what a pod says of itself, `discovery` decides who is in the fleet.
"""
