# The database of Oslo is older: its tables have other names, and it has catch-all aliases.
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
    # Postfix asks the next two after the aliases, in this order: first each mailbox as an alias of itself, then the
    # catch-alls, which otherwise would take the mail of the mailboxes.
    mailboxes:
      parameter: virtual_alias_maps
      query: SELECT address FROM mailboxes WHERE address='%s' AND active=1
    catch_all:
      parameter: virtual_alias_maps
      query: SELECT goto FROM aliases WHERE address='@%d'
  answers:
    - {map: virtual_mailbox_domains, question: oslo.example, answer: true}
    - {map: catch_all, question: anybody@oslo.example, answer: true}
