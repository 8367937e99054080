"""Several processes behind one port: who starts them, what they share, how they are one proxy.

Three kinds of process. The *supervisor* is the one that was started: it reads the policy, mints
placeholders, serves the admin pages and tells the others what is in force. The *nursery* forks
workers when the supervisor asks it to, and tells it when one dies. The *workers* serve agents.

Workers are forked and not executed anew: a program that is executed begins dumpable, so whoever
may kill a worker could read the next one's memory before it has closed it. And the nursery does
nothing else and has one thread, because only such a process can be forked without surprises.
"""
