# A second instance of Postfix on mx1.oslo takes mail from users: who may send as whom. It has a pillar key of its own,
# which ispmail:instances names, and shares the login of the first.
ispmail:
  instances: [ispmail_submission]

ispmail_submission:
  postfix:
    config_directory: /etc/postfix-submission
  database:
    user: postfix
    password: 'sdb://mail/oslo'
    hosts: 192.0.2.20
    dbname: mail
  maps:
    virtual_mailbox_domains: null
    virtual_alias_maps: null
    virtual_mailbox_maps: null
    smtpd_sender_login_maps:
      query: SELECT goto FROM aliases WHERE address='%s' UNION SELECT address FROM mailboxes WHERE address='%s'
