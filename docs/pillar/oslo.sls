# Oslo has an older database with other names, and catch-alls.
ispmail:
  database:
    user: postfix
    password: 'sdb://mail/oslo'
    hosts: 192.0.2.20
    dbname: mail
  server:
    accounts_host: 192.0.2.%
    create_tables: false
  maps:
    virtual_mailbox_domains:
      query: SELECT 1 FROM domains WHERE domain='%s' AND active=1
    virtual_mailbox_maps:
      query: SELECT 1 FROM mailboxes WHERE address='%s' AND active=1
    virtual_alias_maps:
      query: SELECT goto FROM aliases WHERE address='%s'
    # The next two are asked after the aliases proper, in this order. A mailbox is its own alias, so that a catch-all does
    # not swallow it.
    mailboxes:
      parameter: virtual_alias_maps
      query: SELECT address FROM mailboxes WHERE address='%s' AND active=1
    catch_all:
      parameter: virtual_alias_maps
      query: SELECT goto FROM aliases WHERE address='@%d'
  answers:
    - {map: virtual_mailbox_domains, question: oslo.example, answer: true}
    - {map: catch_all, question: anybody@oslo.example, answer: true}
