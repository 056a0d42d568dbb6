# Every mail server applies fresh pillar. For the event of the beacon postfix_credential (the database refuses a login),
# and for ispmail/credentials/changed on sites where Salt does not manage the database. Nothing in the event is used, so
# its sender cannot cause anything else.
Every mail server applies what pillar has now:
  runner.ispmail.reapply: []
