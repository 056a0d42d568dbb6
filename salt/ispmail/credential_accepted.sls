# First step of a rotation: the database accepts the password in pillar next to the one in use.
include:
  - ispmail.modules

The database accepts the password in pillar:
  postfix_database.credential_accepted
