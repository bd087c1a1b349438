"""What EleutherAI's lm-evaluation-harness says of served models: `make lm-eval`. It runs in a .venv of its own."""
