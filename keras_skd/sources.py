"""Who wrote a token. Every position of a rollout carries one of these."""

PADDING = 0
PROMPT = 1
STUDENT = 2
TEACHER = 3
DATA = 4
