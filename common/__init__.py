"""What every package may use: the user's errors and files that are whole or absent."""
