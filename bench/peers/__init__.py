"""Programs of Piecework's peers, run by bench.suites.peers in an environment of their own (requirements/peers.txt).

Each is as its own documentation would have it for many short tasks: two worker processes or what comes nearest, tasks
acknowledged only after they ran, their results kept. None imports anything of Piecework.
"""
