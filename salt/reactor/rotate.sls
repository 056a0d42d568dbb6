# The password is rotated. For the event ispmail/credentials/changed on sites where Salt manages the database. Nothing
# in the event is used, so its sender cannot cause anything else.
The password is rotated:
  runner.ispmail.rotate: []
