# Last step of a rotation: the database accepts the password in pillar and no other one.
include:
  - ispmail.modules

The database accepts only the password in pillar:
  postfix_database.credential_sole
