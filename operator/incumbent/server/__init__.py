"""What the operator serves by HTTP, in a process of its own, and `metrics`.

`frontend` starts that process. `feed` tells it what the operator knows. `http` listens, and `views`
answers.
"""
