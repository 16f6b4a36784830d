"""How much memory a bundle takes, and with which settings it fits into what is free."""
