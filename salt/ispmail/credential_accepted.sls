# The database accepts the password in pillar, next to the one that is in use.
include:
  - ispmail.modules

The database accepts the password in pillar:
  postfix_database.credential_accepted
