"""What setuptools does differently for this project; nothing else imports it."""
