# Both mail servers of Berlin ask the database server there, over TLS. Inside smtpd's chroot the CA file would have to be
# copied; proxymap reads it outside, and holds fewer connections.
ispmail:
  database:
    password: 'sdb://mail/berlin'
    hosts: [192.0.2.10]
    tls_CAfile: /etc/ssl/certs/mail-db.pem
    tls_verify_cert: true
  # Salt gets into the database server as root, by its socket. A password of its admin would be for db.berlin only, in a
  # file of its own.
  server:
    accounts_host: 192.0.2.%
  maps:
    virtual_mailbox_domains: {proxy: true}
    virtual_alias_maps: {proxy: true}
    virtual_mailbox_maps: {proxy: true}
  answers:
    - {map: virtual_mailbox_domains, question: berlin.example, answer: true}
