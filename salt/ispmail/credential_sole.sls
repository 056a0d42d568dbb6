# The database accepts the password in pillar, and no other.
include:
  - ispmail.modules

The database accepts only the password in pillar:
  postfix_database.credential_sole
