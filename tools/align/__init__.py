"""`make align`: this project beside PyTorch, update for update."""
