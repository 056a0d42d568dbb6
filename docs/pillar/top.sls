# A worked example: two sites with a database each, and one server with two instances of Postfix.
# Minions: mx1.berlin, mx2.berlin, db.berlin; mx1.oslo, db.oslo. Sites are told by the name, roles by a grain.
base:
  '*.berlin':
    - berlin
  '*.oslo':
    - oslo
  'mx1.oslo':
    - submission
  'roles:mail':
    - match: grain
    - watch
