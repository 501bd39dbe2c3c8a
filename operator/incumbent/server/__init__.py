"""What the operator serves by HTTP, in a process of its own, and `metrics`.

`frontend` starts that process. `feed` hands over what the operator knows, `mirror` keeps it there,
and `bodies` shares it between clients. `http` listens, and `views` answers.
"""
