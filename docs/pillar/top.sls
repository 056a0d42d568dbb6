# An example: two sites with a database each, and one server with two instances of Postfix.
# Minions: mx1.berlin, mx2.berlin, db.berlin; mx1.oslo, db.oslo. The minion ID says which site, a grain says which role.
#
# In addition, the master has sites.conf, and each minion has a file (owner root, mode 0600) with the password of its
# own site only:
#
#     # /etc/salt/minion.d/mail.conf
#     mail: {driver: yaml, files: [/etc/salt/mail.yaml]}      # or Vault, ...: any driver of sdb
#     grains: {roles: [mail]}                                 # only on mail servers
#
#     # /etc/salt/mail.yaml
#     berlin: 'the password of mailserver in Berlin'
#
# For the set-up, run `salt 'db.*' state.apply ispmail.database`, then `salt 'mx*' state.apply ispmail`. For a new
# password, change that file on all servers of the site, also on the database server; then send the event.
base:
  # The pillar of the master itself.
  '*_master':
    - rotation
  '*.berlin':
    - berlin
  '*.oslo':
    - oslo
  'mx1.oslo':
    - submission
  # A minion chooses its own grains, so a grain must not decide who gets a secret. This beacon is no secret.
  'roles:mail':
    - match: grain
    - watch
