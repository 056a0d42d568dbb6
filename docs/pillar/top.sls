# A worked example: two sites with a database each, and one server with two instances of Postfix.
# Minions: mx1.berlin, mx2.berlin, db.berlin; mx1.oslo, db.oslo. Sites are told by the name, roles by a grain.
#
# Besides, the master has sites.conf, and each minion a file (root, 0600) with the password of its own site, and no other:
#
#     # /etc/salt/minion.d/mail.conf
#     mail: {driver: yaml, files: [/etc/salt/mail.yaml]}      # or Vault, ...: any driver of sdb
#     grains: {roles: [mail]}                                 # of the mail servers
#
#     # /etc/salt/mail.yaml
#     berlin: 'the password of mailserver in Berlin'
#
# Once `salt 'db.*' state.apply ispmail.database`, then `salt 'mx*' state.apply ispmail`. A new password goes into that
# file on all servers of the site, the database server's too; then the event is sent.
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
  # A minion says of itself what its grains are: they decide on nothing that is secret.
  'roles:mail':
    - match: grain
    - watch
