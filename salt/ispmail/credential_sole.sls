# Last step of a rotation: the database accepts the password in pillar and no other one. Of two accounts, the other one
# is locked, and dropped once ispmail:rotation:keep is over.
include:
  - ispmail.modules

The database accepts only the password in pillar:
  postfix_database.credential_sole
