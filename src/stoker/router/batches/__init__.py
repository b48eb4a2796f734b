"""OpenAI's Files and Batches API: `/v1/files` and `/v1/batches`.

`upload` and `files` take files in and keep them; `store` keeps batches and their lines;
`runner` finds batches to work on and `run` takes one from validation to its output files, at the
pace that `slots` allows; `routes` is what clients see.
"""
