"""The optimizers under their familiar names, a file for each family."""
