# The event ispmail/credentials/changed, where Salt manages the database: the rotation.
# Nothing of the event is used: whoever sends it, this is all that it can cause.
The password is rotated:
  runner.ispmail.rotate: []
