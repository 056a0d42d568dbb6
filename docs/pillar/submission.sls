# mx1.oslo has a second instance of Postfix, which accepts mail from users and checks who may send as whom. It has a
# pillar key of its own, which ispmail:instances lists, and uses the same account as the first instance.
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
