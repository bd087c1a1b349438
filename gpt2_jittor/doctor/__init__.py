"""What this machine has of all that training needs, and how to get the rest: `python -m gpt2_jittor.doctor`.

One function a check, each with one row of the table. Ends with status 1 where training cannot run. It is for
machines on which something is missing: it takes nothing outside the standard library for granted, and asks
packages in processes of their own.
"""
