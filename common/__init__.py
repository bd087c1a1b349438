"""What every floor of the house may use: the user's errors and files that are whole or absent."""
